"""Watches whether the Ray cluster of a session still answers, and ends the command in one line when it does not.

Without this, Ray's calls would wait for a minute and then abort the process with what its C++ code logs. Decides
nothing about replicas: a node that is lost while the cluster answers is the scheduler's.
"""

from __future__ import annotations

import threading
import time

from psych_ray.compat.ray import dead_ray_processes, ray_node_is_alive
from psych_ray.ending import CLEAN_UP_S, ENDING, INTERRUPTED, INTERRUPTED_LINE, end_process
from psych_ray.errors import ClusterLostError, PsychRayError

EVERY_S = 3.0
REQUEST_S = 5.0
LOST_AFTER_S = 40.0
"""Without an answer for so long, the cluster is lost. Ray itself aborts after 60 s, so this is less."""


class ClusterWatch:
    """A thread that asks the cluster every few seconds, for as long as the context runs."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lost: str | None = None
        self._answered = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ray watch", daemon=True)

    def __enter__(self) -> ClusterWatch:
        self._is_alive = ray_node_is_alive()
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._lost is None:
            self._ended.set()
            self._thread.join()
            if self._lost is None and (reason := self._why_lost(time.monotonic() - LOST_AFTER_S)):
                self._lose(reason)  # an end of the session that waits for the cluster would not return
        if self._lost is not None and isinstance(error, Exception) and not isinstance(error, PsychRayError):
            raise ClusterLostError(self._lost) from error

    @property
    def is_lost(self) -> bool:
        """Whether no call of Ray may follow."""
        return self._lost is not None

    def check(self) -> None:
        """Raise ClusterLostError once the cluster does not answer any more."""
        if self._lost is not None:
            raise ClusterLostError(self._lost)

    def _watch(self) -> None:
        self._answered = time.monotonic()
        while not self._ended.wait(EVERY_S):
            if reason := self._why_lost(self._answered):
                self._lose(reason)
                self._end_process_in_time()
                return

    def _why_lost(self, answered: float) -> str | None:
        """Ask once; why the cluster is lost, if it is. `answered`: time of the last answer."""
        if dead := dead_ray_processes():
            return f"{' and '.join(dead)} ended"
        is_alive = self._is_alive(REQUEST_S)
        if is_alive is False:
            return "its node counts as dead there"
        if is_alive:
            self._answered = time.monotonic()
            return None
        silent_s = time.monotonic() - answered
        return f"no answer for {silent_s:.0f} s" if silent_s > LOST_AFTER_S else None

    def _lose(self, reason: str) -> None:
        self._lost = f"{self._name} no longer answers ({reason}); what is committed stays, the same command continues"
        ENDING.skips_clean_up = True

    def _end_process_in_time(self) -> None:
        """Let the main thread raise the error; end the process where it is inside of a call that does not return."""
        if not self._ended.wait(CLEAN_UP_S):
            if ENDING.is_asked:
                end_process(INTERRUPTED_LINE, INTERRUPTED)
            assert self._lost is not None
            end_process(self._lost, ClusterLostError.exit_code)
