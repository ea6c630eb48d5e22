"""Sweeps on a real local Ray that are interrupted, or whose Ray is killed or stopped: one line, nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support_sweeps import command, finish, n_parts, start, wait_for_parts, wait_until_gone

pytestmark = [pytest.mark.ray, pytest.mark.slow]

INTERRUPTED = "psych-ray: interrupted; what is committed stays, the same command continues"
IMPATIENT = """
import sys
from psych_ray.cluster import watch
watch.EVERY_S, watch.REQUEST_S, watch.LOST_AFTER_S = 0.5, 1.0, 4.0
from psych_ray.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
IN_A_CALL = """
import sys
from psych_ray import ending
from psych_ray.cli import main
from psych_ray.cluster import session, watch
from psych_ray.config import ClusterConfig
watch.EVERY_S, watch.REQUEST_S, watch.LOST_AFTER_S, watch.CLEAN_UP_S = 0.5, 1.0, 4.0, 1.0
options = session.local_ray_options
health = {"health_check_period_ms": 200, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 2}
session.local_ray_options = lambda directory: options(directory) | {"_system_config": health}
class Named:
    pass
def run(command, overrides):
    import ray
    with session.ray_session(ClusterConfig(cpus=1)):
        print("ready", flush=True)
        sys.stdin.readline()
        ray.get(ray.remote(Named).options(name="named").remote().__ray_ready__.remote())
main._run = run
sys.exit(main.main(["sweep"]))
"""


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint, byte_tokenizer_directory) -> Path:
    return tiny_checkpoint("Llama", byte_tokenizer_directory)


@pytest.fixture
def sweep(checkpoint, scratch, tmp_path):
    """Start a sweep that takes longer than the test; at its end, nothing may be left."""
    _, _, _, *arguments = command([checkpoint], tmp_path, "transcripts.participants=300", "cluster.cpus=1")
    process = start([sys.executable, "-c", IMPATIENT, *arguments], scratch)
    yield process
    assert process.poll() is not None
    wait_until_gone(scratch)
    deadline = time.monotonic() + 10
    while left := list(scratch.glob("psych-ray-*")):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def ray_process(process: subprocess.Popen[str], name: str) -> psutil.Process:
    (found,) = [p for p in psutil.Process(process.pid).children(recursive=True) if p.name().startswith(name)]
    return found


def test_signals_while_ray_is_initialised_and_while_it_is_ended(sweep, scratch):
    deadline = time.monotonic() + 60
    while not list(scratch.glob("psych-ray-*/r/session_*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if sweep.poll() is None:
            sweep.send_signal(number)
        time.sleep(0.2)
    code, _, err = finish(sweep, 30)
    assert code == 130, err
    assert err.splitlines()[-1] == INTERRUPTED
    assert "Traceback" not in err


@pytest.mark.parametrize("signals", [(signal.SIGTERM,), (signal.SIGINT, signal.SIGINT)], ids=["once", "twice"])
def test_signals_while_units_are_scored(sweep, tmp_path, signals):
    wait_for_parts(sweep, tmp_path, 1)
    for number in signals:
        sweep.send_signal(number)
        time.sleep(0.02)
    code, _, err = finish(sweep, 30)
    assert code == 130, err
    assert err.splitlines()[-1] == INTERRUPTED
    assert "Traceback" not in err
    assert "SIGTERM received" not in err, "Ray's C++ code handled it"
    if len(signals) == 1:
        assert "interrupted; finishing 1 unit, at most 10 s; interrupt again to stop at once" in err
    assert n_parts(tmp_path) >= 1


@pytest.mark.parametrize(
    ("name", "number", "reason"),
    [
        ("raylet", signal.SIGKILL, "raylet ended"),
        ("gcs_server", signal.SIGSTOP, "no answer for"),
    ],
)
def test_a_ray_that_no_longer_answers_ends_the_sweep_in_one_line(sweep, tmp_path, name, number, reason):
    wait_for_parts(sweep, tmp_path, 1)
    ray_process(sweep, name).send_signal(number)
    code, _, err = finish(sweep, 30)
    assert code == 1, err
    assert err.splitlines()[-1].startswith(f"psych-ray: the local Ray no longer answers ({reason}")
    assert err.splitlines()[-1].endswith("what is committed stays, the same command continues")
    assert "Traceback" not in err
    assert ".cc:" not in err
    assert "raylet)" not in err


@pytest.mark.parametrize(
    ("name", "number", "reason"),
    [("gcs_server", signal.SIGKILL, "gcs ended"), ("raylet", signal.SIGSTOP, "its node counts as dead there")],
)
def test_a_command_inside_a_call_of_ray_that_does_not_return_is_ended_as_well(scratch, name, number, reason):
    with subprocess.Popen(
        [sys.executable, "-c", IN_A_CALL],
        env=os.environ | {"TMPDIR": str(scratch)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        ray_process(process, name).send_signal(number)
        _, err = process.communicate("\n", timeout=40)
    said = f"the local Ray no longer answers ({reason}); what is committed stays, the same command continues"
    assert (process.returncode, err) == (1, f"psych-ray: {said}\n")
    wait_until_gone(scratch)
