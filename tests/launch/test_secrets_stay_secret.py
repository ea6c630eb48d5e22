"""Credentials of the environment do not get into what a sweep prints, stores, tracks or shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from s3_server import Handler, Request, s3_server
from werkzeug.wrappers import Response

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "secretOfAwsThatNoFileMayHold",
    "AWS_SESSION_TOKEN": "sessionOfAwsThatNoFileMayHold",
    "WANDB_API_KEY": "f" * 8 + "0123456789abcdef" * 2,
    "HF_TOKEN": "hf_" + "tokenOfTheHubThatNoFileMayHold",
    "RAY_AUTH_TOKEN": "5ec4e7" * 10,
    "SOME_PASSWORD": "passwordThatNoFileMayHold",
}


class Keeps(Handler):
    """Keeps all that was sent."""

    sent: bytes = b""

    def backend(self, request: Request, body: bytes) -> Response:
        type(self).sent += request.path.encode() + body
        return super().backend(request, body)


@pytest.mark.ray
@pytest.mark.slow
def test_secrets_are_neither_printed_nor_stored_nor_shown(tmp_path):
    ours = {name: text for name, text in os.environ.items() if not name.startswith(("AWS_", "RAY_", "WANDB_"))}
    home = tmp_path / "home"
    home.mkdir()
    with s3_server(Keeps) as server:
        server.create_bucket("bucket")
        environment = ours | SECRETS | {
            "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "key", "AWS_ENDPOINT_URL": server.url,
            "HOME": str(home),
            "PSYCH_RAY_CACHE": os.environ.get("PSYCH_RAY_CACHE", str(Path("~/.cache/psych-ray").expanduser())),
        }  # fmt: skip
        run = subprocess.run(
            [
                sys.executable, "-m", "psych_ray.cli.main", "sweep", "results.root=s3://bucket/demo",
                "checkpoints.only=[demo-1-base]", "transcripts.participants=2", f"report.root={tmp_path / 'report'}",
            ],
            env=environment, cwd=tmp_path, capture_output=True, check=False, timeout=200,
        )  # fmt: skip
    assert run.returncode == 0, run.stderr.decode()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "index.html" for path in files)
    written = {str(path): path.read_bytes() for path in files} | {
        "stdout": run.stdout, "stderr": run.stderr, "the bucket": Keeps.sent,
    }  # fmt: skip
    assert b"responses" in Keeps.sent
    assert b"PAR1" in Keeps.sent, "the parts were looked at"
    assert [(name, place) for name, secret in SECRETS.items() for place, data in written.items()
            if secret.encode() in data] == []  # fmt: skip
