"""What the metadata service of a cloud says of the machine that asks: whether the cloud will take it back, and when.

How each cloud words it is read by pure functions, apart from the requests. Does not depend on Ray.

Formats: "Spot Instance interruption notices", "EC2 instance rebalance recommendations" and "Use the Instance Metadata
Service to access instance metadata" (Amazon EC2 User Guide); "Spot VMs", "Handle GPU host maintenance events" and
"About VM metadata" (Compute Engine documentation); "Azure Metadata Service: Scheduled Events for Linux VMs" and "Azure
Instance Metadata Service" (Azure Virtual Machines documentation).
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from psych_ray.config import Notices

ENDPOINT = "PSYCH_RAY_METADATA_ENDPOINT"
"""Environment variable with a base URL that replaces the cloud's own."""
REQUEST_S = 2.0
AWS_S, GCP_S, GCP_MAINTENANCE_S, AZURE_S = 120.0, 30.0, 60.0, 30.0
"""From a notice to the end where none is told."""
_LARGEST = 2**20
_DMI = Path("/sys/class/dmi/id")
_AZURE_TAG = "7783-7084-3265-9085-8269-3286-77"


@dataclass(frozen=True, slots=True)
class Notice:
    """What a cloud says of a machine."""

    reason: str
    seconds: float = 0.0
    """Until the machine is taken back."""
    is_final: bool = True
    """False where the machine may stay; the user is told, and nothing follows."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Of a metadata service; without a body where it has nothing to say (404)."""

    status: int
    body: str


Get = Callable[[str, Mapping[str, str]], Answer]
"""Requests a path with these headers, by PUT where one of them asks for a token. OSError without an answer in time."""


def cloud_here(dmi: Path = _DMI) -> Notices:
    """Find the cloud that this machine is of, by what its firmware says; `none` elsewhere. Asks nothing."""

    def read(name: str) -> str:
        try:
            return (dmi / name).read_text().strip()
        except (OSError, ValueError):
            return ""

    if read("sys_vendor") == "Amazon EC2":
        return Notices.aws
    if read("product_name") == "Google Compute Engine":
        return Notices.gcp
    if read("chassis_asset_tag") == _AZURE_TAG:
        return Notices.azure
    return Notices.none


def aws_notice(instance_action: Answer, rebalance: Answer, now: float) -> Notice | None:
    """Read `spot/instance-action` and `events/recommendations/rebalance`. `now`: seconds since 1970, as all times."""
    action = _json(instance_action)
    if action.get("action"):
        at = _time(action.get("time"))
        left = AWS_S if at is None else max(0.0, at - now)
        return Notice(f"AWS will {action['action']} its spot instance", left)
    if _json(rebalance).get("noticeTime"):
        return Notice("AWS sees a higher risk that its spot instance is interrupted", is_final=False)
    return None


def gcp_notice(preempted: Answer, maintenance: Answer, *, has_gpus: bool) -> Notice | None:
    """Read `instance/preempted` and `instance/maintenance-event`.

    Machines with GPUs are told an hour before they are stopped for maintenance. That is only noted: an hour without
    work costs more than the units that are then scored again.
    """
    if preempted.body.strip() == "TRUE":
        return Notice("Google Cloud preempts its machine", GCP_S)
    if maintenance.body.strip() == "TERMINATE_ON_HOST_MAINTENANCE":
        reason = "Google Cloud stops its machine for maintenance"
        return Notice(f"{reason} within an hour", is_final=False) if has_gpus else Notice(reason, GCP_MAINTENANCE_S)
    return None


def azure_notice(events: Answer, name: str, now: float) -> Notice | None:
    """Read `scheduledevents` for the machine of this name: all machines of a scale set get the events of each."""
    found = _json(events).get("Events")
    for event in found if isinstance(found, list) else []:
        if not isinstance(event, dict):
            continue
        if event.get("EventType") in ("Preempt", "Terminate") and name in (event.get("Resources") or ()):
            at = _time(event.get("NotBefore"))
            left = AZURE_S if at is None else max(0.0, at - now)
            return Notice(
                "Azure evicts its spot machine" if event["EventType"] == "Preempt" else "Azure deletes its machine",
                left,
            )
    return None


class MetadataService:
    """Of the cloud that this machine is of."""

    def __init__(self, cloud: Notices, get: Get, *, has_gpus: bool, clock: Callable[[], float] = time.time) -> None:
        self._cloud, self._get, self._has_gpus, self._clock = cloud, get, has_gpus, clock
        self._token: str | None = None
        self._name: str | None = None

    def notice(self) -> Notice | None:
        """Ask once. OSError where the service does not answer, or refuses."""
        match self._cloud:
            case Notices.aws:
                action = self._aws("/latest/meta-data/spot/instance-action")
                rebalance = self._aws("/latest/meta-data/events/recommendations/rebalance")
                return aws_notice(action, rebalance, self._clock())
            case Notices.gcp:
                return gcp_notice(
                    self._gcp("instance/preempted"), self._gcp("instance/maintenance-event"), has_gpus=self._has_gpus
                )
            case Notices.azure:
                if self._name is None:
                    self._name = self._azure("/metadata/instance/compute/name?api-version=2021-02-01&format=text").body
                events = self._azure("/metadata/scheduledevents?api-version=2020-07-01")
                return azure_notice(events, self._name.strip(), self._clock())
        return None

    def _aws(self, path: str) -> Answer:
        """Ask version 2 of the service, which wants a token; a new one where the last has expired."""
        if self._token is not None:
            answer = self._get(path, {"X-aws-ec2-metadata-token": self._token})
            if answer.status != HTTPStatus.UNAUTHORIZED:
                return _answered(answer, path)
        token = self._get("/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "21600"})
        self._token = _answered(token, "/latest/api/token").body
        return _answered(self._get(path, {"X-aws-ec2-metadata-token": self._token}), path)

    def _gcp(self, name: str) -> Answer:
        return _answered(self._get(f"/computeMetadata/v1/{name}", {"Metadata-Flavor": "Google"}), name)

    def _azure(self, path: str) -> Answer:
        answer = _answered(self._get(path, {"Metadata": "true"}), path)
        if answer.status == HTTPStatus.NOT_FOUND:  # both paths always are there
            raise OSError(f"{path}: HTTP status 404")
        return answer


def get_from(cloud: Notices) -> Get:
    """Make requests of the metadata service of a cloud, each within `REQUEST_S`, through no proxy."""
    host = "metadata.google.internal" if cloud == Notices.gcp else "169.254.169.254"
    base = os.environ.get(ENDPOINT) or f"http://{host}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(path: str, headers: Mapping[str, str]) -> Answer:
        method = "PUT" if path.endswith("/token") else "GET"
        request = urllib.request.Request(base + path, headers=dict(headers), method=method)  # noqa: S310
        ends = time.monotonic() + REQUEST_S
        try:
            with opener.open(request, timeout=REQUEST_S) as response:
                body = b""
                while (more := response.read1(_LARGEST)) and len(body) < _LARGEST:
                    body += more
                    if time.monotonic() > ends:
                        raise TimeoutError(f"no whole answer within {REQUEST_S:g} s")
                return Answer(response.status, body.decode(errors="replace"))
        except HTTPError as error:
            error.close()
            return Answer(error.code, "")
        except HTTPException as error:  # not an OSError
            raise OSError(f"{path}: {type(error).__name__}: {error}") from error

    return get


def _answered(answer: Answer, path: str) -> Answer:
    if answer.status not in {HTTPStatus.OK, HTTPStatus.NOT_FOUND}:
        raise OSError(f"{path}: HTTP status {answer.status}")
    return answer


def _json(answer: Answer) -> dict[str, Any]:
    try:
        found = json.loads(answer.body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _time(text: object) -> float | None:
    """Seconds since 1970 of a time in ISO 8601 or RFC 1123; None where it is neither."""
    if not isinstance(text, str):
        return None
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            time = parse(text)
        except ValueError:
            continue
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    return None
