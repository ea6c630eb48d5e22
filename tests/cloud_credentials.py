"""What gives access to a store in tests: keys, a profile, a machine's role, a certificate. Nothing of this machine's.

Does not depend on psych_ray.
"""

from __future__ import annotations

import json
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from s3_server import S3Server

SECRET = "a-secret-that-no-message-may-show"


def forget_credentials(environment: pytest.MonkeyPatch, home: Path) -> None:
    """Take this machine's credentials and settings of clouds away."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_", "GCE_")):
            environment.delenv(name)
    environment.setenv("HOME", str(home))
    environment.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    environment.setenv("GCE_METADATA_HOST", "127.0.0.1:9")


def use_keys(environment: pytest.MonkeyPatch, server: S3Server) -> None:
    """Set what a user sets for a server: address, region and keys."""
    environment.setenv("AWS_ENDPOINT_URL", server.url)
    environment.setenv("AWS_REGION", "us-east-1")
    environment.setenv("AWS_ACCESS_KEY_ID", "key")
    environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


def use_profile(environment: pytest.MonkeyPatch, home: Path) -> None:
    """Set a profile instead of keys and region."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        environment.delenv(name)
    (home / ".aws").mkdir()
    (home / ".aws/credentials").write_text(f"[lab]\naws_access_key_id = LABKEY\naws_secret_access_key = {SECRET}\n")
    (home / ".aws/config").write_text("[profile lab]\nregion = eu-central-1\n")
    environment.setenv("AWS_PROFILE", "lab")


def self_signed(directory: Path) -> ssl.SSLContext:
    """TLS for a server on loopback; the certificate is `certificate.pem` in a directory."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "certificate.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (directory / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "certificate.pem", directory / "key.pem")
    return context


class MachineRole(BaseHTTPRequestHandler):
    """The address at which a machine of AWS gets the keys of its role."""

    def do_PUT(self) -> None:
        self.answer("token")

    def do_GET(self) -> None:
        keys = {"AccessKeyId": "ROLEKEY", "SecretAccessKey": SECRET, "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}
        self.answer("role" if self.path.endswith("security-credentials/") else json.dumps(keys))

    def answer(self, text: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def machine_role() -> Iterator[str]:
    """Serve a machine's role; gives the address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), MachineRole) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
