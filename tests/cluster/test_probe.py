"""Connecting to addresses at which no Ray cluster answers: one line, in time, and Ctrl-C ends it at once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from psych_ray.cluster import probe
from psych_ray.cluster.probe import CONNECT_S, why_not_connected


@pytest.fixture
def silent() -> Iterator[str]:
    """Listen, accept (the kernel does), and never answer."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_an_address_that_refuses_is_told_at_once():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    began = time.monotonic()
    assert "Connection refused" in why_not_connected(f"127.0.0.1:{port}")
    assert time.monotonic() - began < 5


def test_a_name_that_does_not_exist_is_told_at_once():
    assert "not known" in why_not_connected("no-such-host.invalid:6379")


def test_an_address_that_never_answers_is_given_up_in_time(silent):
    began = time.monotonic()
    assert why_not_connected(silent, seconds=2) == "no answer within 2 s"
    assert time.monotonic() - began < 4
    assert CONNECT_S == 30


def test_an_attempt_that_crashes_is_told(monkeypatch):
    monkeypatch.setattr(probe.sys, "executable", "/bin/false")
    assert why_not_connected("127.0.0.1:1") == "the attempt ended with exit code 1"


def test_nothing_is_imported_from_the_working_directory(tmp_path, monkeypatch):
    for library in ("json", "ray", "psych_ray"):
        (tmp_path / f"{library}.py").write_text("open('was_imported', 'w')")
    monkeypatch.chdir(tmp_path)
    assert "Connection refused" in why_not_connected("127.0.0.1:1")
    assert not (tmp_path / "was_imported").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_attempt_and_its_process(silent, tmp_path, number):
    command = [sys.executable, "-m", "psych_ray.cli.main", "sweep", "cluster=existing", f"cluster.address={silent}"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 30
        while not (attempts := psutil.Process(process.pid).children()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        began = time.monotonic()
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert err == "psych-ray: interrupted; what is committed stays, the same command continues\n"
    assert time.monotonic() - began < 5
    _, left = psutil.wait_procs(attempts, timeout=5)  # a moment passes until a killed process is gone
    assert not [attempt for attempt in left if attempt.status() != psutil.STATUS_ZOMBIE]
