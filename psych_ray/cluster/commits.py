"""Parts that were written and not yet committed: the driver commits them in batches. Does not import Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from psych_ray.errors import ResultsError, UnreachableError
from psych_ray.results.schema import Part
from psych_ray.sweep.retries import UNREACHABLE_PAUSES_S
from psych_ray.sweep.unit import UnitReport
from psych_ray.tracking import events
from psych_ray.tracking.events import Tracker

COMMIT_EVERY_S = 1.0
"""Parts of some time are committed together."""
_TIMES_PAUSE = 10.0
"""The pause after a commit, in multiples of what it took: longer the more parts the table has."""


class Table(Protocol):
    """What the driver commits to."""

    def commit(self, parts: Sequence[Part]) -> None:
        """Add parts to the table in one step, or none of them. Can be repeated."""

    def require_held(self) -> None:
        """Raise ResultsError where nothing can be committed: another process writes, or the store is away for long."""


@dataclass(slots=True)
class Commits:
    """Reports of units whose parts are not committed yet. Times are seconds of the driver's clock."""

    table: Table
    tracker: Tracker
    clock: Callable[[], float]
    _waiting: list[UnitReport] = field(default_factory=list)
    _not_before: float = 0.0
    _failures: int = 0

    @property
    def deadline(self) -> float | None:
        """When the next commit is due; None where nothing waits."""
        return self._not_before if self._waiting else None

    def add(self, report: UnitReport) -> None:
        """Commit the part of this unit with the next ones."""
        self._waiting.append(report)

    def carry_out(self, *, last: bool = False) -> None:
        """Commit what waits, if it is due, and tell the tracker.

        `last`: no further part will follow, so there is nothing to wait for. A store that cannot be reached is tried
        again after each of `UNREACHABLE_PAUSES_S`, then ResultsError is raised.
        """
        self.table.require_held()
        now = self.clock()
        if not self._waiting or (now < self._not_before and not (last and not self._failures)):
            return
        try:
            self.table.commit([report.part for report in self._waiting if report.part is not None])
        except UnreachableError as error:
            if self._failures == len(UNREACHABLE_PAUSES_S):
                raise ResultsError(f"{error}; given up, the same command continues") from error
            pause = UNREACHABLE_PAUSES_S[self._failures]
            self._failures += 1
            self._not_before = self.clock() + pause
            self.tracker.handle(events.Failed(f"{error}; tried again in {pause:g} s"))
            return
        done = self.clock()
        self._failures, self._not_before = 0, done + max(COMMIT_EVERY_S, _TIMES_PAUSE * (done - now))
        for report in self._waiting:
            self.tracker.handle(events.UnitCommitted(report))
        self._waiting.clear()
