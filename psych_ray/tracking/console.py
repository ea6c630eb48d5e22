"""The terminal's tracker: a live view where there is a terminal, quiet lines where there is none (a log file, a batch
job). It knows how to print and when, not what a sweep is made of.

State is changed and drawn under one lock; nothing is printed while it is held, because rich's refreshing thread draws
while it holds the console's own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from psych_ray.sweep.unit import UnitReport
from psych_ray.tracking import live, wording
from psych_ray.tracking.base import SweepEnd, SweepStart
from psych_ray.tracking.progress import SweepProgress


class ConsoleTracker:
    """Tells the terminal. `clock` gives seconds; `every_s` is the least time between two lines of overall progress.

    `refreshes_per_second=0`: the view is drawn only when `refresh` is called.
    """

    label = "terminal"

    def __init__(
        self,
        console: Console,
        *,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = 30.0,
        refreshes_per_second: float = 4.0,
    ) -> None:
        self._console = console
        self._clock = clock
        self._every_s = every_s
        self._refreshes_per_second = refreshes_per_second
        self._lock = threading.Lock()
        self._progress = SweepProgress()
        self._live: Live | None = None
        self._said_at = 0.0
        self._ended = False

    def started(self, start: SweepStart) -> None:
        """Say what is planned and begin the live view."""
        with self._lock:
            self._progress = SweepProgress(start.tasks)
            self._said_at = self._clock()
            text = wording.joined(wording.overall(self._progress, self._said_at), wording.tasks(self._progress))
        self.say(f"sweep {start.name}: {text}")
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=self._draw,
                auto_refresh=self._refreshes_per_second > 0,
                refresh_per_second=self._refreshes_per_second or 1,
                transient=True,
            )
            self._live.start()

    def loading(self, checkpoint: str) -> None:
        """Show the checkpoint as loading."""
        with self._lock:
            self._progress.load(checkpoint, self._clock())

    def ready(self, checkpoint: str, seconds: float) -> None:
        """Show the checkpoint as loaded."""
        with self._lock:
            self._progress.ready(checkpoint, seconds)

    def unit_started(self, checkpoint: str, condition: str, unit: str) -> None:
        """Give the task a bar; without a terminal, a line."""
        with self._lock:
            task = self._progress.tasks[checkpoint, condition]
            first = not task.started
            self._progress.begin(task.task.key, self._clock())
            text = f"{wording.name_of(task)}: started, {wording.responses(task.responses, task.task.responses)}"
        if first and self._live is None:
            self.say(text)

    def unit_done(self, report: UnitReport) -> None:
        """Move the bars; a line when the task is finished, or when it is time for one."""
        at = self._clock()
        lines = []
        with self._lock:
            was_complete = self._progress.tasks[report.checkpoint, report.condition].complete
            task = self._progress.advance(report, at)
            if task.complete and not was_complete:
                lines.append(wording.finished_line(task))
            if self._live is None and at - self._said_at >= self._every_s:
                self._said_at = at
                lines.append(wording.joined(wording.overall(self._progress, at), wording.tasks(self._progress)))
        for line in lines:
            self.say(line)

    def trouble(self, message: str) -> None:
        """Count a failure and print it above the view."""
        with self._lock:
            self._progress.troubles += 1
        self.say(message, style="yellow")

    def note(self, message: str) -> None:
        """Print it above the view."""
        self.say(message, style="dim")

    def set_aside(self, checkpoint: str, condition: str, responses: int) -> None:
        """Wait for these no longer."""
        with self._lock:
            self._progress.set_aside((checkpoint, condition), responses)

    def ended(self, end: SweepEnd) -> None:
        """Give the terminal back, with one line that stays."""
        if self._ended:
            return
        self._ended = True
        self.close()
        with self._lock:
            text = wording.joined(
                wording.responses(self._progress.responses, self._progress.responses_planned),
                wording.tasks(self._progress),
                wording.speed(self._progress.pace),
                wording.troubles(self._progress.troubles),
                f"{len(end.failures):,} not scored" if end.failures else None,
            )
        self.say(f"{'interrupted' if end.interrupted else 'ended'} after {wording.duration(end.seconds)}: {text}")

    def close(self) -> None:
        """Give the terminal back without a word; more than once does nothing more."""
        view, self._live = self._live, None
        if view is not None:
            view.stop()

    def summary_lines(self) -> list[str]:
        """Nothing that would not have been said."""
        return []

    def say(self, line: str, style: str = "") -> None:
        """Print one line, above the live view if there is one; from any thread."""
        self._console.print(Text(wording.one_line(line), style=style), soft_wrap=True)

    def refresh(self) -> None:
        """Draw the view now."""
        if self._live is not None:
            self._live.refresh()

    def _draw(self) -> RenderableType:
        size = self._console.size
        with self._lock:
            # One line less than the terminal has: the cursor's own.
            return live.draw(self._progress, at=self._clock(), width=size.width, height=size.height - 1)
