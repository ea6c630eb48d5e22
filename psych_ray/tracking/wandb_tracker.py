"""The tracker of Weights & Biases: a queue and a thread, so that a slow or failing W&B neither delays the sweep nor
costs it more than one warning line. What is recorded is decided in `wandb_runs`.
"""

from __future__ import annotations

import queue
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from psych_ray.config import TrackingConfig
from psych_ray.tracking import events
from psych_ray.tracking.events import Event
from psych_ray.tracking.wandb_runs import WandbRuns, error_text_without_key

_FINISH_SECONDS_INTERRUPTED = 10.0
_GRACE_SECONDS = 1.0
"""Within which W&B finishes with a server that answers, or is asked whether it does."""


class WandbTracker:
    """Puts events in the queue and waits only at `SweepEnded`, at most `finish_seconds`.

    `clock` gives seconds. `queue_size` bounds the events in the queue; W&B is switched off when it is full.
    """

    label = "W&B"

    def __init__(
        self,
        config: TrackingConfig,
        directory: Path,
        *,
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        finish_seconds: float = 60.0,
        queue_size: int = 50_000,
    ) -> None:
        self._config = config
        self._directory = directory
        self._warn = warn
        self._clock = clock
        self._finish_seconds = finish_seconds
        self._queue: queue.Queue[tuple[Event, float] | None] = queue.Queue(maxsize=queue_size)
        """Events with their times; None ends the thread."""
        self._thread: threading.Thread | None = None
        self._runs: WandbRuns | None = None
        self._off = threading.Event()
        self._off_lock = threading.Lock()

    def handle(self, event: Event) -> None:
        """Queue the event; `SweepStarted` starts the thread, which imports wandb, and `SweepEnded` waits for it."""
        match event:
            case events.SweepStarted():
                self._thread = threading.Thread(target=self._work, args=(event,), name="psych-ray-wandb", daemon=True)
                self._thread.start()
            case events.SweepEnded():
                self._end(event)
            case events.Reported():
                self._report(event)
            case events.Noted():
                pass
            case _:
                self._put((event, self._clock()))

    @property
    def is_off(self) -> bool:
        """Whether it was switched off, after a warning."""
        return self._off.is_set()

    def close(self) -> None:
        """Stop the thread at its next event, without waiting."""
        self._off.set()
        with suppress(queue.Full):
            self._queue.put_nowait(None)

    def summary_lines(self) -> list[str]:
        """Where the runs are, and how offline ones are uploaded."""
        runs, lines = self._runs, []
        if runs is not None and runs.online_ids:
            lines.append(f"W&B: {_runs(len(runs.online_ids))} at {runs.url}")
        if runs is not None and runs.offline_directory is not None:
            directory = _relative_to_cwd(runs.offline_directory)
            upload = f"`wandb sync {shlex.quote(directory)}` uploads them"
            lines.append(f"W&B: {_runs(len(runs.offline_ids), 'offline ')} in {directory}; {upload}")
        return lines

    def _end(self, event: events.SweepEnded) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._put((event, self._clock()))
        self._put(None)
        limit = min(self._finish_seconds, _FINISH_SECONDS_INTERRUPTED) if event.interrupted else self._finish_seconds
        self._wait_for(thread, limit)

    def _report(self, event: events.Reported) -> None:
        """Record the report, after the end of the sweep, within `finish_seconds`."""
        runs = self._runs
        if runs is None or self._off.is_set():
            return

        def work() -> None:
            with self._switching_off():
                runs.handle(event, self._clock())

        thread = threading.Thread(target=work, name="psych-ray-wandb", daemon=True)
        thread.start()
        self._wait_for(thread, self._finish_seconds)

    def _wait_for(self, thread: threading.Thread, limit: float) -> None:
        thread.join(min(limit, _GRACE_SECONDS))
        if self._gives_up_server(thread):
            return
        thread.join(max(0.0, limit - _GRACE_SECONDS))
        if thread.is_alive():
            self._switch_off(f"did not finish within {limit:g} s; its last points may be missing")

    def _gives_up_server(self, thread: threading.Thread) -> bool:
        """Switch off, and return True, where the thread waits for a server that does not answer."""
        runs = self._runs
        if runs is None or not thread.is_alive() or not runs.uses_server or (reason := runs.unanswered()) is None:
            return False
        if not thread.is_alive() or not runs.uses_server:  # the thread found out as well, and went offline
            return False
        self._switch_off(f"does not answer ({reason}); {_kept_on_disk(runs)}")
        abandoning = threading.Thread(target=runs.abandon, name="psych-ray-wandb-abandon", daemon=True)
        abandoning.start()
        abandoning.join(_GRACE_SECONDS)
        return True

    def _put(self, item: tuple[Event, float] | None) -> None:
        if self._off.is_set():
            return
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._switch_off(f"is {self._queue.maxsize:,} events behind and is switched off")

    def _work(self, start: events.SweepStarted) -> None:
        with self._switching_off():
            runs = self._runs = WandbRuns(self._config, self._directory, start, warn=self._warn_while_on)
            while (item := self._queue.get()) is not None and not self._off.is_set():
                event, at = item
                runs.handle(event, at)

    @contextmanager
    def _switching_off(self) -> Iterator[None]:
        """Switch W&B off where it fails within the context."""
        try:
            yield
        except (Exception, SystemExit) as error:  # noqa: BLE001 - wandb calls sys.exit where it does not raise
            self._switch_off(f"failed and is switched off: {error_text_without_key(error)}")
            if self._runs is not None:
                self._runs.abandon()

    def _warn_while_on(self, line: str) -> None:
        if not self._off.is_set():
            self._warn(line)

    def _switch_off(self, reason: str) -> None:
        with self._off_lock:
            if self._off.is_set():
                return
            self._off.set()
        with suppress(Exception):
            self._warn(f"W&B {reason}")


def _kept_on_disk(runs: WandbRuns) -> str:
    if runs.online_directory is None:
        return "nothing was uploaded"
    directory = shlex.quote(_relative_to_cwd(runs.online_directory))
    return f"the last points are on disk only, `wandb sync {directory}/run-*` uploads them"


def _relative_to_cwd(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _runs(count: int, kind: str = "") -> str:
    return f"{count} {kind}run" + ("" if count == 1 else "s")
