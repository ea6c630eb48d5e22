"""Output in a terminal and in a log file."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from psych_ray.config import Config, TrackingConfig, TrackingKind
from psych_ray.results.schema import Tally
from psych_ray.tracking import open_tracker
from psych_ray.tracking.console import ConsoleTracker
from psych_ray.tracking.events import (
    CheckpointLoaded,
    CheckpointLoading,
    Event,
    Failed,
    Progressed,
    SweepEnded,
    UnitReading,
    UnitStarted,
)
from psych_ray.tracking.group import Member, TrackerGroup

ESCAPE, HIDE, SHOW = "\x1b", "\x1b[?25l", "\x1b[?25h"


def terminal(width: int = 120, height: int = 24) -> tuple[Console, io.StringIO]:
    """A console that writes as to a terminal."""
    out = io.StringIO()
    return Console(file=out, force_terminal=True, width=width, height=height, legacy_windows=False), out


def log_file() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=False, width=80), out


def shown(tracker: ConsoleTracker, width: int = 120, height: int = 24) -> list[str]:
    """The lines of the view as they are now."""
    page = Console(file=io.StringIO(), width=width, height=height, record=True)
    page.print(tracker.view())
    return page.export_text().rstrip("\n").split("\n")


def live(console: Console, clock: Callable[[], float]) -> ConsoleTracker:
    return ConsoleTracker(console, clock=clock, refreshes_per_second=0)


def test_view_of_a_scripted_sweep(clock, task, started, committed) -> None:
    console, out = terminal()
    tracker = live(console, clock)
    tracker.handle(started(task("a", responses=40), task("a", "chat", responses=40), task("b", responses=10, units=1)))
    tracker.handle(CheckpointLoading("a"))
    tracker.handle(CheckpointLoading("b"))
    clock.now += 5
    assert shown(tracker)[-1].strip() == "0 waiting, 0 done, 2 loading: a 0:00:05, b 0:00:05"
    tracker.handle(CheckpointLoaded("a", 5.0))
    tracker.handle(CheckpointLoaded("b", 5.0))
    tracker.handle(UnitStarted("a", "plain", "u0"))
    tracker.handle(UnitStarted("b", "plain", "u0"))
    clock.now += 10
    tracker.handle(committed("a", responses=10, tokens=20_000, seconds=10.0))
    overall, bar_a, bar_b, rest = shown(tracker)
    assert "10/90 responses, 0:01:20 left, 2.0k tokens/s" in overall
    assert bar_a.startswith("a · plain")
    assert "10/40, 0:00:30 left, 2.0k tokens/s, 0.500 nats, 1/4 units" in bar_a
    assert bar_b.startswith("b · plain")
    assert "0/10, 0/1 units" in bar_b
    assert rest.strip() == "1 waiting, 0 done"
    tracker.handle(Failed("replica of a died, u1 is tried again"))
    tracker.handle(committed("b", responses=10, tokens=1_000))
    view = shown(tracker)
    assert not any(line.startswith("b · plain") for line in view)
    assert "1 failure" in view[0]
    tracker.refresh()
    tracker.handle(SweepEnded(seconds=12.0))
    printed = out.getvalue()
    assert "replica of a died" in printed
    assert "b · plain: 10 responses, 0.500 nats per response, 100 tokens/s, 0:00:10" in printed
    assert "ended after 0:00:12: 20/90 responses, 1/3 tasks" in printed


def test_a_task_without_scored_responses(clock, task, started, committed) -> None:
    console, out = terminal()
    tracker = live(console, clock)
    tracker.handle(started(task("base", "chat", responses=10, units=1)))
    tracker.handle(UnitStarted("base", "chat", "u0"))
    tracker.handle(committed("base", "chat", responses=10, tokens=0, igt=Tally()))
    assert "base · chat: 10 responses, none of them scored" in out.getvalue()


@pytest.mark.parametrize(("width", "height"), [(120, 24), (60, 10), (200, 50), (40, 5), (80, 3), (80, 2)])
def test_a_hundred_running_tasks_stay_within_the_terminal(
    clock, task, started, committed, width: int, height: int
) -> None:
    console, out = terminal(width, height)
    tracker = live(console, clock)
    names = [f"qwen2.5-a-checkpoint-with-a-long-name-{n:03}" for n in range(100)]
    tracker.handle(started(*(task(name, condition) for name in names for condition in ("plain", "chat"))))
    for name in names:
        tracker.handle(UnitStarted(name, "plain", "u0"))
        tracker.handle(committed(name))
    view = shown(tracker, width, height)
    assert len(view) <= height - 1
    assert max(map(len, view)) <= width
    if height >= 10:
        assert f"{100 - (height - 3)} more running, " in view[-1]
    tracker.handle(SweepEnded(seconds=1.0))
    assert out.getvalue().count(SHOW) == 1


def test_the_live_view_is_removed_once(task, started) -> None:
    console, out = terminal()
    before = threading.enumerate()
    tracker = ConsoleTracker(console)
    tracker.handle(started(task()))
    assert HIDE in out.getvalue()
    tracker.handle(SweepEnded(seconds=1.0, interrupted=True))
    tracker.handle(SweepEnded(seconds=2.0))
    tracker.close()
    assert out.getvalue().count(SHOW) == 1
    assert out.getvalue().count("interrupted after") == 1
    assert "ended after" not in out.getvalue()
    for thread in set(threading.enumerate()) - set(before):
        thread.join(2.0)
        assert not thread.is_alive()


def test_ended_without_a_start() -> None:
    console, out = terminal()
    tracker = ConsoleTracker(console)
    tracker.handle(SweepEnded(seconds=0.0, interrupted=True))
    assert "interrupted after 0:00:00" in out.getvalue()


def test_a_log_file_gets_few_plain_lines(clock, task, started, committed) -> None:
    console, out = log_file()
    tracker = ConsoleTracker(console, clock=clock, seconds_between_lines=30.0)
    tracker.handle(started(task("a", units=100, responses=1000), task("b", responses=10, units=1)))
    tracker.handle(UnitStarted("a", "plain", "u"))
    for _ in range(100):
        clock.now += 1
        tracker.handle(UnitStarted("a", "plain", "u"))
        tracker.handle(committed("a", responses=10))
    tracker.handle(Failed("lost a node\x1b[2J\nand more [red]" + "x" * 100))
    tracker.handle(SweepEnded(seconds=100.0, failures=("t1: too long",)))
    lines = out.getvalue().splitlines()
    assert ESCAPE not in out.getvalue()
    assert lines[0] == "sweep demo: 0/1,010 responses, 0/2 tasks"
    assert lines[1] == "a · plain: started, 0/1,000 responses"
    assert [line.split(" responses")[0] for line in lines[2:5]] == ["300/1,010", "600/1,010", "900/1,010"]
    assert lines[5].startswith("a · plain: 1,000 responses, 0.500 nats per response")
    assert lines[6] == "lost a node [2J and more [red]" + "x" * 100
    assert lines[7].endswith("1 failure, 1 not scored")
    assert len(lines) == 8


def test_names_and_messages_are_not_markup(clock, task, started) -> None:
    console, out = terminal()
    tracker = live(console, clock)
    tracker.handle(started(task("[bold]a[/red]")))
    tracker.handle(UnitStarted("[bold]a[/red]", "plain", "u0"))
    tracker.handle(Failed("[/nonsense] failed"))
    assert any("[bold]a[/red] · plain" in line for line in shown(tracker))
    tracker.refresh()
    tracker.close()
    assert "[/nonsense] failed" in out.getvalue()


class Failing:
    """Raises at every event after the first `survives`."""

    label = "failing"

    def __init__(self, survives: int) -> None:
        self.survives = survives
        self.received: list[str] = []
        self.closed = 0

    def handle(self, event: Event) -> None:
        self.received.append(type(event).__name__)
        if len(self.received) > self.survives:
            raise OSError("disk full\nreally")

    def close(self) -> None:
        self.closed += 1

    def summary_lines(self) -> list[str]:
        return ["from a member that is switched off"]


@pytest.mark.parametrize("failing_first", [True, False])
def test_a_failing_member_is_switched_off_with_one_line(clock, task, started, committed, failing_first: bool) -> None:
    console, out = log_file()
    well = ConsoleTracker(console, clock=clock)
    failing = Failing(2)
    members: list[Member] = [failing, well] if failing_first else [well, failing]
    group = TrackerGroup(members, warn=well.print_line)
    group.handle(started(task()))
    group.handle(CheckpointLoading("m"))
    group.handle(CheckpointLoaded("m", 1.0))
    group.handle(UnitStarted("m", "plain", "u0"))
    group.handle(committed())
    group.handle(Failed("something"))
    group.handle(SweepEnded(seconds=1.0))
    assert failing.received == ["SweepStarted", "CheckpointLoading", "CheckpointLoaded"]
    assert failing.closed == 1
    assert out.getvalue().count("failing tracking is switched off: disk full really\n") == 1
    assert "ended after 0:00:01: 10/40 responses" in out.getvalue()
    assert group.summary_lines() == []


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_broken_terminal_does_not_stop_the_sweep(
    task, started, committed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_terminal: bool
) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def isatty(self) -> bool:
            return is_terminal

    monkeypatch.setattr("sys.stderr", Gone())
    monkeypatch.setenv("TERM", "xterm")
    group = open_tracker(TrackingConfig(kind=TrackingKind.console), tmp_path)
    group.handle(started(task()))
    group.handle(UnitStarted("m", "plain", "u0"))
    group.handle(committed())
    group.handle(SweepEnded(seconds=1.0))


def test_interrupts_pass_through(task, started) -> None:
    class Interrupted(Failing):
        def handle(self, event: Event) -> None:
            raise KeyboardInterrupt

    group = TrackerGroup([Interrupted(0)], warn=lambda line: None)
    with pytest.raises(KeyboardInterrupt):
        group.handle(started(task()))


def test_console_only_needs_no_wandb(task, started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(tracking=TrackingConfig(kind=TrackingKind.console, root=str(tmp_path / "tracking")))
    console, _ = log_file()
    group = open_tracker(config.tracking, config.tracking_root(), console=console)
    group.handle(started(task()))
    group.handle(SweepEnded(seconds=1.0))
    assert group.summary_lines() == []
    assert not (tmp_path / "tracking").exists()


def test_a_log_file_gets_a_line_a_minute_between_parts(clock, task, started) -> None:
    console, out = log_file()
    tracker = ConsoleTracker(console, clock=clock)
    tracker.handle(started(task("a", units=1, responses=1000)))
    tracker.handle(UnitStarted("a", "plain", "u", characters=1000, responses=1000))
    for second in range(1, 301):
        clock.now += 1
        tracker.handle(Progressed((UnitReading("a", "plain", "u", float(second), 10.0 * second),), ranks=1))
    assert out.getvalue().splitlines()[2:] == [
        f"{60 * k}/1,000 responses, {left} left, 10 tokens/s, 0/1 tasks"
        for k, left in ((1, "0:15:40"), (2, "0:14:40"), (3, "0:13:40"), (4, "0:12:40"), (5, "0:11:40"))
    ]


def test_the_last_failures_stay_at_the_bottom_and_every_one_is_printed_once(clock, task, started) -> None:
    console, out = terminal()
    tracker = live(console, clock)
    tracker.handle(started(task("a")))
    tracker.handle(UnitStarted("a", "plain", "u"))
    for number in range(5):
        tracker.handle(Failed(f"failure number {number}"))
    view = shown(tracker)
    assert [line.strip() for line in view[-3:]] == [f"failure number {number}" for number in (2, 3, 4)]
    assert view[1].startswith("a · plain")
    tracker.handle(SweepEnded(seconds=1.0))
    printed = out.getvalue()[out.getvalue().index(SHOW) :]
    assert [printed.count(f"failure number {number}") for number in range(5)] == [0, 0, 1, 1, 1]
    assert all(f"failure number {number}" in out.getvalue() for number in range(2))
