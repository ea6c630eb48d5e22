"""The tracker that tells in the results root how far the sweep is, for `psych-ray status` in another terminal.

A thread writes, so that a slow store delays nothing; a store that fails is left to those who need it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from psych_ray.errors import PsychRayError
from psych_ray.results.running import RunningSweep, RunningTask, forget_running, write_running
from psych_ray.results.store import ResultsStore
from psych_ray.tracking import events
from psych_ray.tracking.events import Event
from psych_ray.tracking.progress import SweepProgress
from psych_ray.tracking.remaining import seconds_left, task_seconds_left

_TASKS = 100
"""That are told of, at most."""
_ENDED_S = 2.0
"""How long the end of a sweep waits for the last write."""


class RootTracker:
    """Writes to `store` every `every_seconds`; `clock` gives seconds."""

    label = "status"

    def __init__(
        self, store: ResultsStore, *, every_seconds: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._every_s = every_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._progress = SweepProgress()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def handle(self, event: Event) -> None:
        """Count the event."""
        with self._lock:
            if isinstance(event, events.SweepStarted):
                self._progress = SweepProgress(event.tasks)
            self._progress.handle(event, self._clock())
        if isinstance(event, events.SweepStarted):
            self._thread = threading.Thread(target=self._work, name="psych-ray-status", daemon=True)
            self._thread.start()
        elif isinstance(event, events.SweepEnded):
            self.close()

    def close(self) -> None:
        """Stop writing, and remove what was written."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_ENDED_S)

    def summary_lines(self) -> list[str]:
        """None."""
        return []

    def now(self) -> RunningSweep:
        """The sweep at this moment."""
        with self._lock:
            progress, at = self._progress, self._clock()
            return RunningSweep(
                at=time.time(),
                responses=int(progress.responses_read),
                planned=progress.responses,
                tokens_per_second=progress.pace.tokens_per_second,
                seconds_left=seconds_left(progress, at),
                failures=progress.failures,
                loading=tuple(progress.loading)[:_TASKS],
                tasks=tuple(
                    RunningTask(
                        checkpoint=task.plan.checkpoint,
                        condition=task.plan.condition,
                        responses=int(task.responses_read),
                        planned=task.plan.responses,
                        seconds_left=task_seconds_left(progress, task, at),
                    )
                    for task in progress.running[:_TASKS]
                ),
            )

    def _work(self) -> None:
        while True:
            with suppress(PsychRayError):
                write_running(self._store, self.now())
            if self._ended.wait(self._every_s):
                break
        with suppress(PsychRayError):
            forget_running(self._store)
