"""Notices of preemption as the clouds document them: their wording, and requests to local services that answer so."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from psych_ray.cluster import metadata
from psych_ray.cluster.metadata import (
    ENDPOINT,
    Answer,
    MetadataService,
    Notice,
    aws_notice,
    azure_notice,
    cloud_here,
    gcp_notice,
    get_from,
)
from psych_ray.config import Notices

NONE = Answer(404, "")
NOW = 1_505_721_600.0  # 2017-09-18T08:00:00Z
PREEMPT = {
    "EventId": "602d9444-d2cd-49c7-8624-8643e7171297",
    "EventType": "Preempt",
    "ResourceType": "VirtualMachine",
    "Resources": ["spot_1", "spot_7"],
    "EventStatus": "Scheduled",
    "NotBefore": "Mon, 18 Sep 2017 08:00:45 GMT",
    "Description": "",
    "EventSource": "Platform",
    "DurationInSeconds": -1,
}


def ok(body: object) -> Answer:
    return Answer(200, body if isinstance(body, str) else json.dumps(body))


def events(*found: dict[str, object]) -> Answer:
    return ok({"DocumentIncarnation": 1, "Events": list(found)})


@pytest.mark.parametrize(
    ("action", "rebalance", "notice"),
    [
        (NONE, NONE, None),
        (ok({"action": "terminate", "time": "2017-09-18T08:01:30Z"}), NONE, ("terminate", 90.0, True)),
        (ok({"action": "stop", "time": "2017-09-18T07:59:00Z"}), NONE, ("stop", 0.0, True)),
        (ok({"action": "hibernate", "time": "soon"}), NONE, ("hibernate", 120.0, True)),
        (ok({"action": "terminate"}), NONE, ("terminate", 120.0, True)),
        (NONE, ok({"noticeTime": "2017-09-18T08:00:00Z"}), ("higher risk", 0.0, False)),
        (ok({"action": "stop", "time": "2017-09-18T08:02:00Z"}), ok({"noticeTime": "x"}), ("stop", 120.0, True)),
        (ok("<html>"), ok("[]"), None),
    ],
)
def test_aws(action, rebalance, notice):
    assert_said(aws_notice(action, rebalance, NOW), notice)


@pytest.mark.parametrize(
    ("preempted", "maintenance", "has_gpus", "notice"),
    [
        ("FALSE", "NONE", True, None),
        ("TRUE", "NONE", True, ("preempts", 30.0, True)),
        ("TRUE\n", "TERMINATE_ON_HOST_MAINTENANCE", True, ("preempts", 30.0, True)),
        ("FALSE", "MIGRATE_ON_HOST_MAINTENANCE", False, None),
        ("FALSE", "TERMINATE_ON_HOST_MAINTENANCE", False, ("maintenance", 60.0, True)),
        ("FALSE", "TERMINATE_ON_HOST_MAINTENANCE", True, ("within an hour", 0.0, False)),
    ],
)
def test_google_cloud(preempted, maintenance, has_gpus, notice):
    assert_said(gcp_notice(ok(preempted), ok(maintenance), has_gpus=has_gpus), notice)


@pytest.mark.parametrize(
    ("answer", "name", "notice"),
    [
        (events(), "spot_1", None),
        (events(PREEMPT), "spot_7", ("evicts", 45.0, True)),
        (events(PREEMPT), "spot_2", None),
        (events(PREEMPT | {"EventType": "Freeze"}, PREEMPT), "spot_1", ("evicts", 45.0, True)),
        (events(PREEMPT | {"NotBefore": "", "EventStatus": "Started"}), "spot_1", ("evicts", 30.0, True)),
        (events(PREEMPT | {"EventType": "Terminate"}), "spot_1", ("deletes", 45.0, True)),
        (events(PREEMPT | {"EventType": "Reboot"}), "spot_1", None),
        (ok("nonsense"), "spot_1", None),
        (ok({"Events": None}), "spot_1", None),
        (ok({"Events": ["?", {"EventType": ["Preempt"]}, PREEMPT | {"Resources": None}]}), "spot_1", None),
    ],
)
def test_azure(answer, name, notice):
    assert_said(azure_notice(answer, name, NOW), notice)


def assert_said(found: Notice | None, expected: tuple[str, float, bool] | None) -> None:
    if found is None or expected is None:
        assert found is expected
        return
    words, seconds, is_final = expected
    assert words in found.reason
    assert (found.seconds, found.is_final) == (seconds, is_final)


@pytest.mark.parametrize(
    ("files", "cloud"),
    [
        ({"sys_vendor": "Amazon EC2", "product_name": "p5.48xlarge"}, Notices.aws),
        ({"sys_vendor": "Google", "product_name": "Google Compute Engine"}, Notices.gcp),
        (
            {"sys_vendor": "Microsoft Corporation", "chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77"},
            Notices.azure,
        ),
        ({"sys_vendor": "Microsoft Corporation", "chassis_asset_tag": "0000"}, Notices.none),
        ({}, Notices.none),
    ],
)
def test_the_cloud_is_told_by_the_firmware(tmp_path: Path, files, cloud):
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}\n")
    assert cloud_here(tmp_path) == cloud


class Cloud(ThreadingHTTPServer):
    """Answers as the services of all three clouds do, to requests with the headers that they require."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, str] = {}
        self.token = "first"
        self.requests: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Cloud

    def log_message(self, *_: object) -> None:
        pass

    def do_PUT(self) -> None:
        allowed = self.path == "/latest/api/token" and self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
        self.answer(200 if allowed else 400, self.server.token)

    def do_GET(self) -> None:
        status = 200 if self.path in self.server.answers else 404
        if self.path.startswith("/latest/") and self.headers.get("X-aws-ec2-metadata-token") != self.server.token:
            status = 401
        if self.path.startswith("/computeMetadata/") and self.headers.get("Metadata-Flavor") != "Google":
            status = 403
        if self.path.startswith("/metadata/") and self.headers.get("Metadata") != "true":
            status = 400
        self.answer(status, self.server.answers.get(self.path, ""))

    def answer(self, status: int, body: str) -> None:
        self.server.requests.append(f"{self.command} {self.path} {status}")
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode() if status == 200 else b"<html>refused</html>")


@pytest.fixture
def cloud(monkeypatch) -> Iterator[Cloud]:
    with Cloud() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # which no metadata service is behind
        yield server
        server.shutdown()
        thread.join()


def service(cloud: Notices) -> MetadataService:
    return MetadataService(cloud, get_from(cloud), has_gpus=False, clock=lambda: NOW)


def test_aws_is_asked_with_a_token_which_is_renewed(cloud):
    asked = service(Notices.aws)
    assert asked.notice() is None
    cloud.token = "second"
    cloud.answers["/latest/meta-data/spot/instance-action"] = '{"action": "terminate", "time": "2017-09-18T08:02:00Z"}'
    assert_said(asked.notice(), ("terminate", 120.0, True))
    assert [line for line in cloud.requests if "token" in line] == ["PUT /latest/api/token 200"] * 2


def test_google_cloud_is_asked(cloud):
    cloud.answers |= {
        "/computeMetadata/v1/instance/preempted": "FALSE",
        "/computeMetadata/v1/instance/maintenance-event": "NONE",
    }
    asked = service(Notices.gcp)
    assert asked.notice() is None
    cloud.answers["/computeMetadata/v1/instance/preempted"] = "TRUE"
    assert_said(asked.notice(), ("preempts", 30.0, True))


def test_azure_is_asked_for_its_events_and_the_name_of_this_machine(cloud):
    asked = service(Notices.azure)
    with pytest.raises(OSError, match="404"):
        asked.notice()
    cloud.answers |= {
        "/metadata/instance/compute/name?api-version=2021-02-01&format=text": "spot_7",
        "/metadata/scheduledevents?api-version=2020-07-01": events(PREEMPT).body,
    }
    assert_said(asked.notice(), ("evicts", 45.0, True))


@pytest.mark.parametrize("cloud_name", [Notices.aws, Notices.gcp, Notices.azure])
def test_a_service_that_refuses_or_is_gone_is_an_os_error(cloud, monkeypatch, cloud_name):
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.answer(500, ""))
    with pytest.raises(OSError, match="HTTP status 500"):
        service(cloud_name).notice()
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:1")
    with pytest.raises(OSError, match="refused"):
        service(cloud_name).notice()


def test_an_answer_that_is_not_http_is_an_os_error(cloud, monkeypatch):
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.wfile.write(b"hello\r\n\r\n"))
    with pytest.raises(OSError, match="BadStatusLine"):
        service(Notices.gcp).notice()


def test_an_answer_that_drips_is_given_up_in_time(cloud, monkeypatch):
    def drip(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with suppress(OSError):  # the client goes
            for _ in range(40):
                handler.wfile.write(b" ")
                time.sleep(0.05)

    monkeypatch.setattr(Handler, "do_GET", drip)
    monkeypatch.setattr(metadata, "REQUEST_S", 0.3)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no whole answer within 0\.3 s"):
        service(Notices.gcp).notice()
    assert time.monotonic() - began < 1.5
    assert metadata.REQUEST_S == 0.3
