"""Due times by key, of which the earliest is found at once, however many there are and however often they move."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class Timers(Generic[K]):
    """A due time for each key, seconds.

    The heap holds for each key an entry that is not later than its due time. One that moved to later is found too
    early, and is put back.
    """

    _due: dict[K, float] = field(default_factory=dict)
    _entry: dict[K, float] = field(default_factory=dict)
    _heap: list[tuple[float, int, K]] = field(default_factory=list)
    _pushed: int = 0

    def set(self, key: K, due: float | None) -> None:
        """Give a key another due time, or none."""
        if due is None:
            self._due.pop(key, None)
            return
        self._due[key] = due
        if due < self._entry.get(key, float("inf")):
            self._push(key, due)

    def set_earlier(self, key: K, due: float) -> None:
        """Give a key this due time, unless it has an earlier one."""
        self.set(key, min(due, self._due.get(key, due)))

    @property
    def next(self) -> float | None:
        """The earliest due time."""
        while self._heap:
            time, _, key = self._heap[0]
            due = self._due.get(key)
            if due is not None and due == time:
                return time
            heapq.heappop(self._heap)
            if self._entry.get(key) == time:
                del self._entry[key]
                if due is not None:
                    self._push(key, due)
        return None

    def take_due(self, now: float) -> list[K]:
        """Remove and return the keys that are due, the earliest first."""
        found = []
        while (time := self.next) is not None and time <= now:
            key = self._heap[0][2]
            self.set(key, None)
            found.append(key)
        return found

    def _push(self, key: K, due: float) -> None:
        self._pushed += 1
        self._entry[key] = due
        heapq.heappush(self._heap, (due, self._pushed, key))
