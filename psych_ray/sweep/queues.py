"""The units that no replica has, by the weights that they need, and what becomes of one that failed. Pure.

Does not depend on replicas, ranks or time: when a unit is handed out is the scheduler's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from psych_ray.errors import FailureKind
from psych_ray.sweep.events import Action, Skip, StopSweep
from psych_ray.sweep.failure import Failure
from psych_ray.sweep.retries import Retries
from psych_ray.sweep.unit import Unit


@dataclass(slots=True)
class Queues:
    """Units in the order in which they are handed out. One that is handed out is in no queue until it has failed."""

    _retries: Retries
    _units: dict[str, deque[Unit]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[str]:
        """All weights, also those of which no unit is left."""
        return iter(self._units)

    def add(self, weights: str, unit: Unit) -> None:
        """Put a unit last."""
        self._units.setdefault(weights, deque()).append(unit)

    def has(self, weights: str) -> bool:
        """Whether a unit of these weights is left."""
        return bool(self._units[weights])

    def take(self, weights: str) -> Unit:
        """The next unit; there must be one."""
        return self._units[weights].popleft()

    def give_up(self, weights: str, reason: str) -> list[Action]:
        """Skip all units of these weights."""
        actions: list[Action] = [Skip(unit, reason) for unit in self._units[weights]]
        self._units[weights].clear()
        return actions

    def failed(self, weights: str, unit: Unit, failure: Failure, pause: float | None) -> list[Action]:
        """Decide what becomes of a unit. `pause`: the seconds after which another attempt follows, where one does."""
        queue = self._units[weights]
        if failure.kind == FailureKind.preempted or pause is not None:
            queue.appendleft(unit)
            return []
        if failure.kind == FailureKind.unreachable:
            queue.appendleft(unit)
            return [StopSweep(failure.reason)]
        if failure.kind == FailureKind.task:
            return self._skip_all(weights, unit, failure.reason, lambda other: other.task == unit.task)
        if failure.kind == FailureKind.checkpoint:
            return self._skip_all(weights, unit, failure.reason, lambda other: other.checkpoint == unit.checkpoint)
        at_fault = unit.only({failure.transcript_id} if failure.transcript_id else set())
        if failure.kind == FailureKind.transcript and at_fault is not None:
            rest = unit.only({t.id for t in unit.transcripts} - {failure.transcript_id})
            if rest is not None:
                queue.appendleft(rest)
            return [Skip(at_fault, failure.reason)]
        return self._count(weights, unit, failure.reason)

    def _count(self, weights: str, unit: Unit, reason: str) -> list[Action]:
        """Count a failure of a unit: try it again, split it, or skip its only transcript."""
        queue = self._units[weights]
        actions: list[Action] = []
        if not self._retries.unit_failed(weights, unit):
            queue.append(unit)
        elif len(unit.transcripts) == 1:
            actions.append(Skip(unit, reason))
        else:
            queue.extend(unit.halves())
        if self._retries.is_hopeless(weights):
            actions += self.give_up(weights, reason)
        return actions

    def _skip_all(self, weights: str, unit: Unit, reason: str, is_affected: Callable[[Unit], bool]) -> list[Action]:
        queue = self._units[weights]
        affected = [unit, *(other for other in queue if is_affected(other))]
        self._units[weights] = deque(other for other in queue if not is_affected(other))
        return [Skip(other, reason) for other in affected]
