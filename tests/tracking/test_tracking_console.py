"""What the terminal shows, and what a log file does."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest
from rich.console import Console
from scripted import Clock, report, start, task

from psych_ray.config import Config, TrackingConfig, TrackingKind
from psych_ray.results.schema import Tally
from psych_ray.tracking import open_tracker
from psych_ray.tracking.base import SweepEnd
from psych_ray.tracking.console import ConsoleTracker
from psych_ray.tracking.group import Member, TrackerGroup

ESCAPE, HIDE, SHOW = "\x1b", "\x1b[?25l", "\x1b[?25h"


def terminal(width: int = 120, height: int = 24) -> tuple[Console, io.StringIO]:
    """A console that believes it is a terminal."""
    out = io.StringIO()
    return Console(file=out, force_terminal=True, width=width, height=height, legacy_windows=False), out


def log_file() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=False, width=80), out


def shown(tracker: ConsoleTracker, width: int = 120, height: int = 24) -> list[str]:
    """The lines of the view as they are now."""
    page = Console(file=io.StringIO(), width=width, height=height, record=True)
    page.print(tracker._draw())
    return page.export_text().rstrip("\n").split("\n")


def live(console: Console, clock: Clock) -> ConsoleTracker:
    return ConsoleTracker(console, clock=clock, refreshes_per_second=0)


def test_view_of_a_scripted_sweep() -> None:
    console, out = terminal()
    clock = Clock()
    tracker = live(console, clock)
    tracker.started(start(task("a", responses=40), task("a", "chat", responses=40), task("b", responses=10, units=1)))
    tracker.loading("a")
    tracker.loading("b")
    clock.now += 5
    assert shown(tracker)[-1].strip() == "0 waiting, 0 done, 2 loading: a 0:00:05, b 0:00:05"
    tracker.ready("a", 5.0)
    tracker.ready("b", 5.0)
    tracker.unit_started("a", "plain", "u0")
    tracker.unit_started("b", "plain", "u0")
    clock.now += 10
    tracker.unit_done(report("a", responses=10, tokens=20_000))
    overall, bar_a, bar_b, rest = shown(tracker)
    assert "10/90 responses, 0:01:20 left, 2.0k tokens/s" in overall
    assert bar_a.startswith("a · plain")
    assert "10/40, 0:00:30 left, 2.0k tokens/s, 0.500 nats, 1/4 units" in bar_a
    assert bar_b.startswith("b · plain")
    assert "0/10, 0/1 units" in bar_b
    assert rest.strip() == "1 waiting, 0 done"
    tracker.trouble("replica of a died, u1 is tried again")
    tracker.unit_done(report("b", responses=10, tokens=1_000))
    view = shown(tracker)
    assert not any(line.startswith("b · plain") for line in view)
    assert "1 failure" in view[0]
    tracker.refresh()
    tracker.ended(SweepEnd(seconds=12.0))
    printed = out.getvalue()
    assert "replica of a died" in printed
    assert "b · plain: 10 responses, 0.500 nats a response, 100 tokens/s, 0:00:10" in printed
    assert "ended after 0:00:12: 20/90 responses, 1/3 tasks" in printed


def test_a_task_of_which_nothing_was_scored_says_so() -> None:
    console, out = terminal()
    tracker = live(console, Clock())
    tracker.started(start(task("base", "chat", responses=10, units=1)))
    tracker.unit_started("base", "chat", "u0")
    tracker.unit_done(report("base", "chat", responses=10, tokens=0, igt=Tally()))
    assert "base · chat: 10 responses, none of them scored" in out.getvalue()


@pytest.mark.parametrize(("width", "height"), [(120, 24), (60, 10), (200, 50), (40, 5), (80, 3), (80, 2)])
def test_a_hundred_running_tasks_stay_within_the_terminal(width: int, height: int) -> None:
    console, out = terminal(width, height)
    tracker = live(console, Clock())
    names = [f"qwen2.5-a-checkpoint-with-a-long-name-{n:03}" for n in range(100)]
    tracker.started(start(*(task(name, condition) for name in names for condition in ("plain", "chat"))))
    for name in names:
        tracker.unit_started(name, "plain", "u0")
        tracker.unit_done(report(name))
    view = shown(tracker, width, height)
    assert len(view) <= height - 1
    assert max(map(len, view)) <= width
    if height >= 10:
        assert f"{100 - (height - 3)} more running, " in view[-1]
    tracker.ended(SweepEnd(seconds=1.0))
    assert out.getvalue().count(SHOW) == 1


def test_the_terminal_is_given_back_once_whatever_happened() -> None:
    console, out = terminal()
    before = threading.enumerate()
    tracker = ConsoleTracker(console)
    tracker.started(start(task()))
    assert HIDE in out.getvalue()
    tracker.ended(SweepEnd(seconds=1.0, interrupted=True))
    tracker.ended(SweepEnd(seconds=2.0))
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
    tracker.ended(SweepEnd(seconds=0.0, interrupted=True))
    assert "interrupted after 0:00:00" in out.getvalue()


def test_a_log_file_gets_few_plain_lines() -> None:
    console, out = log_file()
    clock = Clock()
    tracker = ConsoleTracker(console, clock=clock, every_s=30.0)
    tracker.started(start(task("a", units=100, responses=1000), task("b", responses=10, units=1)))
    tracker.unit_started("a", "plain", "u")
    for _ in range(100):
        clock.now += 1
        tracker.unit_started("a", "plain", "u")
        tracker.unit_done(report("a", responses=10))
    tracker.trouble("lost a node\x1b[2J\nand more [red]" + "x" * 100)
    tracker.ended(SweepEnd(seconds=100.0, failures=("t1: too long",)))
    lines = out.getvalue().splitlines()
    assert ESCAPE not in out.getvalue()
    assert lines[0] == "sweep demo: 0/1,010 responses, 0/2 tasks"
    assert lines[1] == "a · plain: started, 0/1,000 responses"
    assert [line.split(" responses")[0] for line in lines[2:5]] == ["300/1,010", "600/1,010", "900/1,010"]
    assert lines[5].startswith("a · plain: 1,000 responses, 0.500 nats a response")
    assert lines[6] == "lost a node [2J and more [red]" + "x" * 100
    assert lines[7].endswith("1 failure, 1 not scored")
    assert len(lines) == 8


def test_names_and_messages_are_not_markup() -> None:
    console, out = terminal()
    tracker = live(console, Clock())
    tracker.started(start(task("[bold]a[/red]")))
    tracker.unit_started("[bold]a[/red]", "plain", "u0")
    tracker.trouble("[/nonsense] failed")
    assert any("[bold]a[/red] · plain" in line for line in shown(tracker))
    tracker.refresh()
    tracker.close()
    assert "[/nonsense] failed" in out.getvalue()


class Failing:
    """Raises at every event from the `survives`-th on."""

    label = "failing"

    def __init__(self, survives: int) -> None:
        self.left = survives
        self.calls: list[str] = []
        self.closed = 0

    def __getattr__(self, event: str) -> object:
        def told(*_: object) -> None:
            self.calls.append(event)
            self.left -= 1
            if self.left < 0:
                raise OSError("disk full\nreally")

        return told

    def close(self) -> None:
        self.closed += 1

    def summary_lines(self) -> list[str]:
        return ["never asked"]


@pytest.mark.parametrize("failing_first", [True, False])
def test_a_failing_member_is_switched_off_with_one_line(failing_first: bool) -> None:
    console, out = log_file()
    well = ConsoleTracker(console, clock=Clock())
    failing = Failing(2)
    members: list[Member] = [failing, well] if failing_first else [well, failing]  # type: ignore[list-item]
    group = TrackerGroup(members, warn=well.say)
    group.started(start(task()))
    group.loading("m")
    group.ready("m", 1.0)
    group.unit_started("m", "plain", "u0")
    group.unit_done(report())
    group.trouble("something")
    group.ended(SweepEnd(seconds=1.0))
    assert failing.calls == ["started", "loading", "ready"]
    assert failing.closed == 1
    assert out.getvalue().count("failing tracking is switched off: disk full really\n") == 1
    assert "ended after 0:00:01: 10/40 responses" in out.getvalue()
    assert group.summary_lines() == []


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_broken_terminal_does_not_stop_the_sweep(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def isatty(self) -> bool:
            return is_terminal

    monkeypatch.setattr("sys.stderr", Gone())
    monkeypatch.setenv("TERM", "xterm")
    group = open_tracker(Config(tracking=TrackingConfig(kind=TrackingKind.console)))
    group.started(start(task()))
    group.unit_started("m", "plain", "u0")
    group.unit_done(report())
    group.ended(SweepEnd(seconds=1.0))


def test_interrupts_pass_through() -> None:
    class Interrupted(Failing):
        def started(self, *_: object) -> None:
            raise KeyboardInterrupt

    group = TrackerGroup([Interrupted(0)], warn=lambda line: None)  # type: ignore[list-item]
    with pytest.raises(KeyboardInterrupt):
        group.started(start(task()))


def test_console_only_needs_no_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(tracking=TrackingConfig(kind=TrackingKind.console, root=str(tmp_path / "tracking")))
    console, _ = log_file()
    group = open_tracker(config, console=console)
    group.started(start(task()))
    group.ended(SweepEnd(seconds=1.0))
    assert group.summary_lines() == []
    assert not (tmp_path / "tracking").exists()
