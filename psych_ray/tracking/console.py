"""The tracker of the terminal: a live view in a terminal, a few plain lines in a log file or a batch job.

State is changed and drawn under one lock. Nothing is printed while it is held, because rich's refresh thread draws
while it holds the console's own lock.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from psych_ray.tracking import events, live, text
from psych_ray.tracking.events import Event
from psych_ray.tracking.progress import SweepProgress

_FAILURES = 3
"""The last ones, which stay at the bottom of the live view; those before them are printed above it."""


class ConsoleTracker:
    """Prints to `console`. `clock` gives seconds.

    Without a terminal, there is a line of overall progress every `seconds_between_lines`. With
    `refreshes_per_second=0`, the live view is drawn only by `refresh`.
    """

    label = "terminal"

    def __init__(
        self,
        console: Console,
        *,
        clock: Callable[[], float] = time.monotonic,
        seconds_between_lines: float = 60.0,
        refreshes_per_second: float = 4.0,
    ) -> None:
        self._console = console
        self._clock = clock
        self._seconds_between_lines = seconds_between_lines
        self._refreshes_per_second = refreshes_per_second
        self._lock = threading.Lock()
        self._progress = SweepProgress()
        self._live: Live | None = None
        self._line_at = 0.0
        self._ended = False
        self._failures: deque[str] = deque()

    def handle(self, event: Event) -> None:
        """Update the view, and print what stays above it."""
        at = self._clock()
        match event:
            case events.SweepStarted():
                self._start(event, at)
            case events.UnitStarted():
                self._start_unit(event, at)
            case events.UnitCommitted():
                self._commit_unit(event, at)
            case events.SweepEnded():
                self._end(event)
            case events.Failed(message):
                self._fail(message, event, at)
            case events.Noted(message):
                self.print_line(message, style="dim")
            case events.Progressed():
                self._count(event, at)
                self._print_progress(at)
            case events.Reported():
                pass
            case _:
                self._count(event, at)

    def close(self) -> None:
        """Remove the live view without a line; may be called again."""
        view, self._live = self._live, None
        if view is not None:
            view.stop()
        while self._failures:
            self.print_line(self._failures.popleft(), style="yellow")

    def summary_lines(self) -> list[str]:
        """None: everything was printed."""
        return []

    def print_line(self, line: str, style: str = "") -> None:
        """Print one line, above the live view if there is one; from any thread."""
        self._console.print(Text(text.one_line(line), style=style), soft_wrap=True)

    def refresh(self) -> None:
        """Draw the live view now."""
        if self._live is not None:
            self._live.refresh()

    def view(self) -> RenderableType:
        """The live view at this moment."""
        size = self._console.size
        with self._lock:
            # The cursor takes one line of the terminal.
            return live.draw(
                self._progress,
                at=self._clock(),
                width=size.width,
                height=size.height - 1,
                failures=tuple(self._failures),
            )

    def _start(self, event: events.SweepStarted, at: float) -> None:
        with self._lock:
            self._progress = SweepProgress(event.tasks)
            self._line_at = at
            line = text.join(text.overall(self._progress, at), text.tasks(self._progress))
        self.print_line(f"sweep {event.name}: {line}")
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=self.view,
                auto_refresh=self._refreshes_per_second > 0,
                refresh_per_second=self._refreshes_per_second or 1,
                transient=True,
            )
            self._live.start()

    def _start_unit(self, event: events.UnitStarted, at: float) -> None:
        with self._lock:
            task = self._progress.tasks[event.checkpoint, event.condition]
            first = not task.started
            self._progress.handle(event, at)
            committed = text.responses(task.responses_committed, task.plan.responses)
            line = f"{text.task_name(task)}: started, {committed}"
        if first and self._live is None:
            self.print_line(line)

    def _commit_unit(self, event: events.UnitCommitted, at: float) -> None:
        lines = []
        with self._lock:
            task = self._progress.tasks[event.report.checkpoint, event.report.condition]
            was_complete = task.complete
            self._progress.handle(event, at)
            if task.complete and not was_complete:
                lines.append(text.complete_task(task))
        for line in lines:
            self.print_line(line)
        self._print_progress(at)

    def _print_progress(self, at: float) -> None:
        """A line now and then, where there is no live view."""
        with self._lock:
            if self._live is not None or at - self._line_at < self._seconds_between_lines:
                return
            self._line_at = at
            line = text.join(text.overall(self._progress, at), text.tasks(self._progress))
        self.print_line(line)

    def _fail(self, message: str, event: Event, at: float) -> None:
        """Show a failure at the bottom of the live view, or print it where there is none."""
        self._count(event, at)
        with self._lock:
            self._failures.append(text.one_line(message))
            kept = _FAILURES if self._live is not None else 0
            lines = [self._failures.popleft() for _ in range(len(self._failures) - kept)]
        for line in lines:
            self.print_line(line, style="yellow")

    def _end(self, event: events.SweepEnded) -> None:
        if self._ended:
            return
        self._ended = True
        self.close()
        with self._lock:
            line = text.join(
                text.responses(self._progress.responses_committed, self._progress.responses),
                text.tasks(self._progress),
                text.speed(self._progress.pace),
                text.failures(self._progress.failures),
                f"{len(event.failures):,} not scored" if event.failures else None,
            )
        self.print_line(
            f"{'interrupted' if event.interrupted else 'ended'} after {text.duration(event.seconds)}: {line}"
        )

    def _count(self, event: Event, at: float) -> None:
        with self._lock:
            self._progress.handle(event, at)
