"""Options of an object store: where credentials come from, and how long a request may take.

The one place where the environment is turned into options, for obstore and for deltalake alike, so that both read the
same bucket with the same credentials. No option is a secret: both libraries read those from the environment, or from
what provides them, themselves. Does not depend on what is stored.
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import GCSStore, S3Store

from psych_ray.errors import ResultsError
from psych_ray.results.store import RETRY_S

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_FOLDER = re.compile(r"[\w.=-]+", re.ASCII)
"""What no library encodes twice: deltalake 1.6.6 does not find a checkpoint of its log below a folder with a space."""
_BACKOFF_S = (0.1, 10.0)
_AWS_ADDRESS = "http://169.254.169.254"
_GOOGLE_ADDRESS = "169.254.169.254"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How long a store is waited for; the last request of an operation begins `retry_s` after the first."""

    connect_s: float = 5.0
    request_s: float = 60.0
    retry_s: float = RETRY_S
    first_s: float = 20.0
    """For the first answer, so that a wrong address is told soon."""
    credentials_s: float = 3.0
    """For the address at which a machine in a cloud gets its credentials."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A parsed root: `s3://name/prefix` or `gs://name/prefix`."""

    scheme: str
    name: str
    prefix: str

    @property
    def location(self) -> str:
        """The URI, without a slash at its end."""
        return f"{self.scheme}://{self.name}/{self.prefix}".rstrip("/")


def parse_root(root: str) -> Bucket:
    """Split a URI. ResultsError for another scheme, and for names that not every reader of the table takes as meant."""
    scheme, _, rest = root.partition("://")
    name, _, prefix = rest.strip("/").partition("/")
    if scheme not in ("s3", "gs"):
        raise ResultsError(f"results.root={scheme}://...: use a local path, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER")
    if not _BUCKET.fullmatch(name):  # not repeated: some put their keys there
        raise ResultsError(
            f"results.root={scheme}://...: no bucket has such a name; use {scheme}://BUCKET/FOLDER, with credentials "
            "in the environment"
        )
    folders = prefix.split("/") if prefix else []
    bad = [folder for folder in folders if folder in (".", "..") or not _FOLDER.fullmatch(folder)]
    if bad:
        raise ResultsError(
            f"results.root={root}: {bad[0]!r} cannot be a folder in a bucket; use letters, digits and - _ . = alone"
        )
    return Bucket(scheme, name, prefix)


def connect(bucket: Bucket, limits: Limits) -> S3Store | GCSStore:
    """Make the client of a bucket. Sends no request but, without other credentials, one that asks for a machine's.

    It does not retry by itself. ResultsError where there are no credentials, or their file cannot be read.
    """
    settings: dict[str, Any] = {
        "prefix": bucket.prefix or None,
        "client_options": {
            "allow_http": endpoint(bucket).startswith("http://"),
            "connect_timeout": timedelta(seconds=limits.connect_s),
            "timeout": timedelta(seconds=limits.request_s),
        },
        "retry_config": {"max_retries": 0, "retry_timeout": timedelta(seconds=limits.request_s)},
    }
    try:
        if bucket.scheme == "gs":
            _require_google_credentials(bucket, limits)
            return GCSStore(bucket.name, **settings)
        provider = _aws_credentials(bucket, limits)
        region = _region() or getattr(provider, "config", {}).get("region")
        if region:
            settings["region"] = region
        elif not endpoint(bucket):  # obstore would take the first of all, and deltalake ask the network for it
            raise ResultsError(f"{bucket.location}: no region: set AWS_REGION to that of the bucket")
        if endpoint(bucket):
            settings["endpoint"] = endpoint(bucket)
        return S3Store(bucket.name, credential_provider=provider, **settings)
    except (BaseError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ResultsError(f"{bucket.location}: the credentials cannot be used: {reason}") from error


def delta_options(bucket: Bucket, client: S3Store | GCSStore, limits: Limits) -> dict[str, str]:
    """`storage_options` of deltalake for the bucket of `client`, with the same limits. None is a secret."""
    # No max_retries: the pauses are such that ten, the default, take about half of the time. A DeltaTable hands its
    # options on to polars, which takes a number there where deltalake takes a string.
    options = {
        "connect_timeout": _duration(limits.connect_s),
        "timeout": _duration(limits.request_s),
        "retry_timeout": _duration(limits.retry_s),
        "backoff_config.init_backoff": _duration(limits.retry_s / 120),
        "backoff_config.max_backoff": _duration(limits.retry_s / 6),
        "backoff_config.base": "3",
    }
    address = endpoint(bucket)
    if address:
        options["aws_endpoint_url" if bucket.scheme == "s3" else "google_base_url"] = address
        options["allow_http"] = str(address.startswith("http://")).lower()
    if bucket.scheme == "s3":
        options["aws_conditional_put"] = "etag"
        region = client.config.get("region")
        if region:
            options["aws_region"] = str(region)
        if client.credential_provider is not None:  # else deltalake reads no profile where an endpoint is given
            options["aws_force_credential_load"] = "true"
    return options


def pause_s(attempt: int) -> float:
    """Seconds after which an attempt is repeated, before they are spread at random."""
    first, longest = _BACKOFF_S
    return min(longest, first * 2.0**attempt)


def _duration(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def _first(*names: str) -> str:
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def endpoint(bucket: Bucket) -> str:
    """Address of a store that is not the cloud's own; else empty."""
    if bucket.scheme == "gs":
        return _first("GOOGLE_BASE_URL")
    return _first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


def endpoint_setting(bucket: Bucket) -> str:
    """What a user may have to correct where nothing answers."""
    return "GOOGLE_BASE_URL" if bucket.scheme == "gs" else "AWS_REGION and AWS_ENDPOINT_URL"


def _region() -> str:
    return _first("AWS_REGION", "AWS_DEFAULT_REGION")


def _aws_credentials(bucket: Bucket, limits: Limits) -> Any:
    """Return boto3's provider where a profile is to be read, which obstore cannot; None where obstore finds them."""
    if _first("AWS_ACCESS_KEY_ID") or _first("AWS_SKIP_SIGNATURE").lower() in ("1", "true"):
        return None
    if _first(
        "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"
    ):
        return None
    home = Path.home() / ".aws"
    files = [
        Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", home / "credentials")).expanduser(),
        Path(os.environ.get("AWS_CONFIG_FILE", home / "config")).expanduser(),
    ]
    if _first("AWS_PROFILE") or any(file.is_file() for file in files):
        provider = _profile(bucket)
        if provider:
            return provider
    address = _first("AWS_METADATA_ENDPOINT") or _AWS_ADDRESS
    token = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    if not _answers(urlsplit(address).netloc, "PUT", "/latest/api/token", token, limits):
        raise ResultsError(
            f"{bucket.location}: no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, "
            "or give the machine a role"
        )
    return None


def _profile(bucket: Bucket) -> Any:
    if not importlib.util.find_spec("boto3"):
        raise ResultsError(
            f"{bucket.location}: to use a profile of AWS, install boto3, or set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
    import boto3
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        session = boto3.Session()
        found = session.get_credentials() is not None
    except BotoCoreError as error:
        raise ResultsError(f"{bucket.location}: the profile of AWS cannot be used: {error}") from error
    return Boto3CredentialProvider(session) if found else None


def _require_google_credentials(bucket: Bucket, limits: Limits) -> None:
    explicit = _first(
        "GOOGLE_SERVICE_ACCOUNT",
        "GOOGLE_SERVICE_ACCOUNT_PATH",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_BEARER_TOKEN",
        "GOOGLE_SKIP_SIGNATURE",
    )
    if explicit or (Path.home() / ".config/gcloud/application_default_credentials.json").is_file():
        return
    host = _first("GCE_METADATA_HOST", "GCE_METADATA_IP") or _GOOGLE_ADDRESS
    if not _answers(host, "GET", "/", {"Metadata-Flavor": "Google"}, limits):
        raise ResultsError(
            f"{bucket.location}: no Google credentials: set GOOGLE_APPLICATION_CREDENTIALS to the file of a service "
            "account, or give the machine one"
        )


def _answers(host: str, method: str, path: str, headers: dict[str, str], limits: Limits) -> bool:
    """Whether a cloud's address for credentials is there: outside of a cloud, obstore would wait for it for long."""
    connection = http.client.HTTPConnection(host, timeout=limits.credentials_s)
    try:
        connection.request(method, path, headers=headers)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
