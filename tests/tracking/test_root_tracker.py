"""What a running sweep tells in its results root, and what `psych-ray status` makes of it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from support_table import committed as commit_parts
from support_table import silent

from psych_ray.app.status import held_by
from psych_ray.cli.held import held_lines
from psych_ray.cli.main import main
from psych_ray.errors import ResultsError
from psych_ray.results.lease import hold_lease
from psych_ray.results.running import read_running
from psych_ray.results.store import LocalStore, open_store
from psych_ray.tracking.events import CheckpointLoading, Failed, Progressed, SweepEnded, UnitReading, UnitStarted
from psych_ray.tracking.root import RootTracker


def test_a_running_sweep_is_shown_from_elsewhere_and_nothing_is_left(
    clock, task, started, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(str(tmp_path))
    commit_parts(store)
    assert held_by(store) is None
    with hold_lease(store, "psych-ray sweep", seconds=60.0, say=silent):
        (line,) = held_lines(held_by(store))
        assert line.startswith("in use by psych-ray sweep of ")
        tracker = RootTracker(store, every_seconds=0.01, clock=clock)
        tracker.handle(started(task("a", responses=1000), task("b", responses=500)))
        tracker.handle(CheckpointLoading("b"))
        tracker.handle(UnitStarted("a", "plain", "u0", characters=1000, responses=100))
        clock.now += 10
        tracker.handle(Failed("something"))
        tracker.handle(Progressed((UnitReading("a", "plain", "u0", 500.0, 20_000.0),), ranks=1))
        deadline = time.monotonic() + 10
        while (read_running(store) or tracker.now()).responses != 50:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert main(["status", f"results.root={tmp_path}"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == line
        assert lines[1:3] == [
            "  50/1,500 responses, 0:04:50 left, 2.0k tokens/s, 1 failure, loading b",
            "  a · plain: 50/1,000, 0:03:10 left",
        ]
        tracker.handle(SweepEnded(seconds=1.0))
    assert held_by(store) is None
    assert read_running(store) is None
    assert not [one for one in threading.enumerate() if one.name == "psych-ray-status"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"tasks": [1]}', b'{"tasks": [], "loading": [], "x": 1}'])
def test_a_damaged_file_is_no_progress(tmp_path: Path, content: bytes) -> None:
    store = open_store(str(tmp_path))
    store.write("lease/progress.json", content)
    assert read_running(store) is None


def test_a_store_that_hangs_or_fails_delays_nothing(task, started, tmp_path: Path) -> None:
    release = threading.Event()

    class Hanging(LocalStore):
        def write(self, name: str, content: bytes) -> None:
            release.wait(30)
            raise ResultsError("gone")

    tracker = RootTracker(Hanging(str(tmp_path)))
    began = time.monotonic()
    tracker.handle(started(task("a")))
    for _ in range(100):
        tracker.handle(Failed("x"))
    assert time.monotonic() - began < 1
    tracker.handle(SweepEnded(seconds=1.0))
    assert time.monotonic() - began < 4
    release.set()
