"""Weights & Biases behind a thread of its own, so that a slow, hanging or failing W&B costs the driver's loop nothing
and the sweep one warning line. What is sent there stands in `wandb_runs`; this module knows only queue and thread.
"""

from __future__ import annotations

import queue
import shlex
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from psych_ray.config import Config
from psych_ray.sweep.unit import UnitReport
from psych_ray.tracking.base import SweepEnd, SweepStart
from psych_ray.tracking.wandb_runs import WandbRuns, because

_Event = Callable[[WandbRuns], None]
_PATIENCE_INTERRUPTED_S = 10.0


class WandbTracker:
    """Hands events to the thread and never waits for it, except in `ended`, and there `patience_s` at most.

    `backlog` bounds the events that may wait; W&B is given up when it falls further behind.
    """

    label = "W&B"

    def __init__(
        self,
        config: Config,
        *,
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        patience_s: float = 60.0,
        backlog: int = 50_000,
    ) -> None:
        self._config = config
        self._warn = warn
        self._clock = clock
        self._patience_s = patience_s
        self._events: queue.Queue[_Event | None] = queue.Queue(maxsize=backlog)
        self._thread: threading.Thread | None = None
        self._runs: WandbRuns | None = None
        self._off = threading.Event()
        self._off_lock = threading.Lock()

    def started(self, start: SweepStart) -> None:
        """Start the thread; W&B is imported there."""
        self._thread = threading.Thread(target=self._work, args=(start,), name="psych-ray-wandb", daemon=True)
        self._thread.start()

    def loading(self, checkpoint: str) -> None:
        """Nothing: a run begins with its first unit."""

    def ready(self, checkpoint: str, seconds: float) -> None:
        """How long loading took goes into the summaries."""
        self._put(lambda runs: runs.ready(checkpoint, seconds))

    def unit_started(self, checkpoint: str, condition: str, unit: str) -> None:
        """The first one opens the task's run."""
        at = self._clock()
        self._put(lambda runs: runs.unit_started((checkpoint, condition), at))

    def unit_done(self, report: UnitReport) -> None:
        """A point on the curves; the last one closes the task's run."""
        at = self._clock()
        self._put(lambda runs: runs.unit_done(report, at))

    def trouble(self, message: str) -> None:
        """Counted only; messages stay in the terminal."""
        self._put(lambda runs: runs.trouble())

    def note(self, message: str) -> None:
        """Messages stay in the terminal."""

    def set_aside(self, checkpoint: str, condition: str, responses: int) -> None:
        """May close the task's run."""
        self._put(lambda runs: runs.set_aside((checkpoint, condition), responses))

    def ended(self, end: SweepEnd) -> None:
        """Close what is open and wait for it, with patience."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._put(lambda runs: runs.ended(end))
        self._put(None)
        patience_s = min(self._patience_s, _PATIENCE_INTERRUPTED_S) if end.interrupted else self._patience_s
        thread.join(patience_s)
        if thread.is_alive():
            self._switch_off(f"did not finish within {patience_s:g} s; its last points may be missing")

    def close(self) -> None:
        """Tell the thread to stop when it next can."""
        self._off.set()
        with suppress(queue.Full):
            self._events.put_nowait(None)

    def summary_lines(self) -> list[str]:
        """Where the runs are, and how offline ones are uploaded."""
        runs, lines = self._runs, []
        if runs is not None and runs.online_ids:
            lines.append(f"W&B: {_runs(len(runs.online_ids))} at {runs.url}")
        if runs is not None and runs.offline_directory is not None:
            directory = _from_here(runs.offline_directory)
            upload = f"`wandb sync {shlex.quote(directory)}` uploads them"
            lines.append(f"W&B: {_runs(len(runs.offline_ids), 'offline ')} in {directory}; {upload}")
        return lines

    def _put(self, event: _Event | None) -> None:
        if self._off.is_set():
            return
        try:
            self._events.put_nowait(event)
        except queue.Full:
            self._switch_off(f"is {self._events.maxsize:,} events behind and is switched off")

    def _work(self, start: SweepStart) -> None:
        try:
            runs = self._runs = WandbRuns(self._config, start, warn=self._warn)
            while (event := self._events.get()) is not None and not self._off.is_set():
                event(runs)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - W&B exits the interpreter where it does not raise
            self._switch_off(f"failed and is switched off: {because(error)}")
            if self._runs is not None:
                self._runs.abandon()

    def _switch_off(self, reason: str) -> None:
        with self._off_lock:
            if self._off.is_set():
                return
            self._off.set()
        with suppress(Exception):
            self._warn(f"W&B {reason}")


def _from_here(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _runs(count: int, kind: str = "") -> str:
    return f"{count} {kind}run" + ("" if count == 1 else "s")
