"""The live view in a real terminal, tmux: what a person sees at a few moments of a scripted sweep."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    shutil.which("tmux") is None, reason="needs tmux, the Debian package of that name, to show the live view in"
)

_COLOUR = re.compile(r"\x1b\[(?:3[0-8]|4[0-8]|9\d)")
_SWEEP = """
import dataclasses, time
from pathlib import Path
from psych_ray.config import TrackingConfig, TrackingKind
from psych_ray.results.schema import ScoringIdentity, Tally
from psych_ray.sweep.unit import UnitReport
from psych_ray.tracking import open_tracker
from psych_ray.tracking.events import *

def until(name):
    while not Path(name).exists():
        time.sleep(0.02)

plan = TaskPlan(checkpoint="qwen", condition="plain", units=2, responses=2000, responses_committed=0, characters=2000)
tasks = (plan, dataclasses.replace(plan, condition="chat"))
identity = ScoringIdentity(dtype="float32", cut="tokens", cut_at=None, parity=False)
tracker = open_tracker(TrackingConfig(kind=TrackingKind.console), Path("tracking"))
tracker.handle(SweepStarted(name="demo", results_root="r", scoring=identity, tasks=tasks, checkpoints={}))
tracker.handle(CheckpointLoading("qwen"))
until("loaded")
tracker.handle(CheckpointLoaded("qwen", 1.0))
tracker.handle(UnitStarted("qwen", "plain", "u0", characters=1000, responses=1000))
for step, name in enumerate(("a quarter", "a half"), 1):
    until(name)
    tracker.handle(Progressed((UnitReading("qwen", "plain", "u0", 250.0 * step, 5e3 * step),), ranks=1))
until("failed")
tracker.handle(Failed("replica of qwen ended while scoring: lost; u0 is scored again"))
tracker.handle(UnitLost("qwen", "plain", "u0"))
until("ended")
report = UnitReport("qwen", "plain", "u0", 20_000, 1000, 1.0, {"igt": Tally(1000, 500.0, 400)})
tracker.handle(UnitStarted("qwen", "plain", "u0", characters=1000, responses=1000))
tracker.handle(UnitCommitted(report))
tracker.handle(SweepEnded(seconds=3.0, interrupted=True))
print("the prompt again")
until("gone")
"""


class Terminal:
    """A terminal of tmux that runs the scripted sweep in `folder`."""

    def __init__(self, folder: Path, width: int, height: int, environment: dict[str, str]) -> None:
        self._folder = folder
        self._tmux = ["tmux", "-L", f"psych-ray-{uuid.uuid4()}", "-f", "/dev/null"]
        (folder / "sweep.py").write_text(_SWEEP)
        variables = [f"{name}={value}" for name, value in {"PYTHONPATH": str(Path.cwd()), **environment}.items()]
        size = ["-x", str(width), "-y", str(height)]
        command = ["env", *variables, sys.executable, "sweep.py"]
        subprocess.run([*self._tmux, "new-session", "-d", *size, "-c", str(folder), *command], check=True)

    def go_on(self, name: str) -> None:
        (self._folder / name).touch()

    def screen(self, *more: str) -> list[str]:
        found = subprocess.run([*self._tmux, "capture-pane", "-p", *more], capture_output=True, text=True, check=True)
        return [line.rstrip() for line in found.stdout.rstrip("\n").split("\n")]

    def wait_for(self, is_shown: Callable[[list[str]], bool]) -> list[str]:
        deadline = time.monotonic() + 30
        while not is_shown(lines := self.screen()):
            assert time.monotonic() < deadline, "\n".join(lines)
            time.sleep(0.05)
        return lines

    def end(self) -> None:
        self.go_on("gone")
        subprocess.run([*self._tmux, "kill-server"], check=False, capture_output=True)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_one(width: int = 100, height: int = 12, **environment: str) -> Terminal:
        opened.append(Terminal(tmp_path, width, height, environment))
        return opened[-1]

    yield open_one
    for one in opened:
        one.end()


def shows(text: str) -> Callable[[list[str]], bool]:
    return lambda lines: any(text in line for line in lines)


def test_bars_move_within_a_unit_and_failures_are_at_the_bottom(terminal) -> None:
    shown = terminal()
    shown.wait_for(shows("1 loading: qwen 0:00:0"))
    shown.go_on("loaded")
    shown.go_on("a quarter")
    (bar,) = [line for line in shown.wait_for(shows("250/2,000")) if line.startswith("qwen · plain")]
    assert " left, " in bar
    assert "tokens/s" in bar
    shown.go_on("a half")
    shown.wait_for(shows("500/2,000"))
    assert shows("500/4,000 responses")(shown.screen())
    shown.go_on("failed")
    lines = shown.wait_for(shows("replica of qwen ended"))
    assert lines[-1].startswith("replica of qwen ended"), "below everything else"
    shown.wait_for(lambda lines: shows("0/4,000 responses")(lines) and shows("1 failure")(lines))
    shown.go_on("ended")
    lines = shown.wait_for(shows("the prompt again"))
    assert [line for line in lines if line] == [
        "sweep demo: 0/4,000 responses, 0/2 tasks",
        "replica of qwen ended while scoring: lost; u0 is scored again",
        "interrupted after 0:00:03: 1,000/4,000 responses, 0/2 tasks, "
        + next(line.split("tasks, ")[1] for line in lines if line.startswith("interrupted")),
        "the prompt again",
    ]


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}], ids=["colours", "NO_COLOR"])
def test_there_is_no_colour_where_none_is_wanted(terminal, environment: dict[str, str]) -> None:
    shown = terminal(**environment)
    shown.go_on("loaded")
    shown.go_on("a quarter")
    shown.wait_for(shows("250/2,000"))
    assert bool(_COLOUR.search("".join(shown.screen("-e")))) != bool(environment)


def test_a_small_terminal_is_not_overfilled(terminal) -> None:
    shown = terminal(width=40, height=5)
    shown.go_on("loaded")
    shown.go_on("a quarter")
    lines = shown.wait_for(shows("250/"))
    assert len(lines) <= 5
    assert sum(line.startswith("all") for line in shown.screen("-S", "-")) == 1
