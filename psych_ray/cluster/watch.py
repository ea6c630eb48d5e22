"""Watches whether the Ray cluster of a session still answers, and ends the command in one line when it does not.

Without this, Ray's calls would wait for a minute and then abort the process with what its C++ code logs. Decides
nothing about replicas: a node that is lost while the cluster answers is the scheduler's.
"""

from __future__ import annotations

import threading
import time

from psych_ray.compat import dead_ray_processes, ray_node_is_alive
from psych_ray.ending import CLEAN_UP_S, ENDING, INTERRUPTED, INTERRUPTED_LINE, end_process
from psych_ray.errors import ClusterLostError

EVERY_S = 3.0
REQUEST_S = 5.0
LOST_AFTER_S = 40.0
"""Without an answer for so long, the cluster is lost. Ray itself aborts after 60 s, so this is less."""


class ClusterWatch:
    """A thread that asks the cluster every few seconds, for as long as the context runs."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lost: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ray watch", daemon=True)

    def __enter__(self) -> ClusterWatch:
        self._is_alive = ray_node_is_alive()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._lost is None:  # else it goes on, to end the process in time
            self._ended.set()
            self._thread.join()

    @property
    def is_lost(self) -> bool:
        """Whether no call of Ray may follow."""
        return self._lost is not None

    def check(self) -> None:
        """Raise ClusterLostError once the cluster does not answer any more."""
        if self._lost is not None:
            raise ClusterLostError(self._lost)

    def _watch(self) -> None:
        answered = time.monotonic()
        while not self._ended.wait(EVERY_S):
            reason = f"{' and '.join(dead)} ended" if (dead := dead_ray_processes()) else None
            if reason is None:
                is_alive = self._is_alive(REQUEST_S)
                if is_alive:
                    answered = time.monotonic()
                elif is_alive is False:
                    reason = "its node counts as dead there"
                elif (silent_s := time.monotonic() - answered) > LOST_AFTER_S:
                    reason = f"no answer for {silent_s:.0f} s"
            if reason is not None:
                return self._end(reason)
        return None

    def _end(self, reason: str) -> None:
        """Let the main thread raise the error; end the process where it is inside of a call that does not return."""
        self._lost = f"{self._name} no longer answers ({reason}); what is committed stays, the same command continues"
        if not self._ended.wait(CLEAN_UP_S):
            if ENDING.is_asked:
                end_process(INTERRUPTED_LINE, INTERRUPTED)
            end_process(self._lost, ClusterLostError.exit_code)
