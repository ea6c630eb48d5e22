"""launch/ssh sweeps the demo on two hosts, with the real Ray; `ssh` is a command that enters the other's namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support_hosts import HOSTS, two_hosts, within
from support_sweeps import processes_of, table

ROOT = Path(__file__).resolve().parents[2]
SSH = """#!/bin/sh
# ssh -o OPTION -o OPTION HOST COMMAND
echo "$*" >>"$TMPDIR/asked"
exec {enter} env -u RAY_AUTH_TOKEN -u RAY_AUTH_MODE sh -c "$6"
"""


@pytest.fixture
def place() -> Iterator[Path]:
    place = Path(f"/tmp/prh{os.getpid()}")  # sockets need a short path
    (place / "bin").mkdir(parents=True)
    try:
        with two_hosts():
            (place / "bin/ssh").write_text(SSH.format(enter=" ".join(within(HOSTS[1]))))
            (place / "bin/ssh").chmod(0o755)
            yield place
    finally:
        for process in processes_of(place):
            process.kill()
        shutil.rmtree(place)


@pytest.mark.ray
@pytest.mark.slow
def test_two_hosts_sweep_and_nothing_is_left_of_ray(place, tmp_path):
    ours = {name: text for name, text in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
    environment = ours | {
        "PATH": f"{place}/bin:{os.environ['PATH']}", "VENV": sys.prefix, "TMPDIR": str(place),
        "RAY_TMPDIR": str(place / "r"), "ADDRESS": f"{HOSTS[0]}:6379", "WORKERS": HOSTS[1],
        "WAIT": "50",
    }  # fmt: skip
    run = subprocess.run(
        [
            *within(HOSTS[0]), str(ROOT / "launch/ssh/sweep.sh"), f"results.root={tmp_path}", "tracking=console",
            "transcripts.participants=2", "checkpoints.only=[demo-1-base]", "checkpoints.references=[]",
        ],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 of 2 nodes" in run.stderr
    assert table(tmp_path).height > 0
    assert len((place / "asked").read_text().splitlines()) == 1, "one worker was asked to join"
    ends = time.monotonic() + 30
    while left := processes_of(place):
        assert time.monotonic() < ends, [process.cmdline() for process in left]
        time.sleep(0.1)
