"""The units that no replica has, by the weights that they need, and what becomes of one that failed. Pure.

Does not depend on replicas, ranks or time: when a unit is handed out is the scheduler's.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from psych_ray.errors import FailureKind
from psych_ray.sweep.events import Action, Skip, StopSweep
from psych_ray.sweep.failure import Failure
from psych_ray.sweep.retries import Attempt, Retries
from psych_ray.sweep.unit import Unit

_LOOKED_AT = 16
"""So many units at the beginning of a queue are looked at for one that suits a replica."""


@dataclass(slots=True)
class Queues:
    """Units in the order in which they are handed out. One that is handed out is in no queue until it has failed."""

    _retries: Retries
    _units: dict[str, deque[Unit]] = field(default_factory=dict)
    _seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def __iter__(self) -> Iterator[str]:
        """All weights, also those of which no unit is left."""
        return iter(self._units)

    def add(self, weights: str, unit: Unit) -> None:
        """Put a unit last."""
        self._units.setdefault(weights, deque()).append(unit)
        self._seconds[weights] += unit.seconds

    def put_back(self, weights: str, unit: Unit) -> None:
        """Put a unit first: it was handed out, and nothing was wrong with it."""
        self._units[weights].appendleft(unit)
        self._seconds[weights] += unit.seconds

    def seconds(self, weights: str) -> float:
        """Estimated time of one replica for all units of these weights."""
        return max(0.0, self._seconds[weights]) if self._units[weights] else 0.0

    def n_units(self, weights: str) -> int:
        """Units of these weights."""
        return len(self._units[weights])

    def has(self, weights: str) -> bool:
        """Whether a unit of these weights is left."""
        return bool(self._units[weights])

    def any(self) -> bool:
        """Whether a unit of any weights is left."""
        return any(self._units.values())

    def take(
        self, weights: str, *, last: Unit | None = None, held: Collection[str] = (), at_most: float | None = None
    ) -> Unit:
        """The next unit for a replica that scored `last` before; there must be one.

        Units of the same transcripts under several conditions go to the same replica, which still has the scores of
        those that read the same: `held` are the first transcripts of units that others are scoring. Of a unit that
        takes longer than `at_most` seconds, only so much is taken, at least one transcript.
        """
        queue = self._units[weights]
        unit = queue[place := self._suitable(queue, last, held)]
        del queue[place]
        self._seconds[weights] -= unit.seconds
        if at_most is not None and unit.seconds > at_most and len(unit.transcripts) > 1:
            unit, rest = unit.divided(at_most)
            if rest is not None:
                self.put_back(weights, rest)
        return unit

    @staticmethod
    def _suitable(queue: deque[Unit], last: Unit | None, held: Collection[str]) -> int:
        firsts = [unit.transcripts[0].id for unit, _ in zip(queue, range(_LOOKED_AT), strict=False)]
        if last is not None and last.transcripts[0].id in firsts:
            return firsts.index(last.transcripts[0].id)
        return next((place for place, first in enumerate(firsts) if first not in held), 0)

    def give_up(self, weights: str, reason: str) -> list[Action]:
        """Skip all units of these weights."""
        actions: list[Action] = [Skip(unit, reason) for unit in self._units[weights]]
        self._replace(weights, ())
        return actions

    def failed(self, weights: str, unit: Unit, failure: Failure, attempt: Attempt, pause: float | None) -> list[Action]:
        """Decide what becomes of a unit. `pause`: the seconds after which another attempt follows, where one does."""
        if failure.kind == FailureKind.preempted or pause is not None:
            self.put_back(weights, unit)
            return []
        if failure.kind == FailureKind.unreachable:
            self.put_back(weights, unit)
            return [StopSweep(failure.reason)]
        if failure.kind == FailureKind.task:
            return self._skip_all(weights, unit, failure.reason, lambda other: other.task == unit.task)
        if failure.kind == FailureKind.checkpoint:
            return self._skip_all(weights, unit, failure.reason, lambda other: other.checkpoint == unit.checkpoint)
        at_fault = unit.only({failure.transcript_id} if failure.transcript_id else set())
        if failure.kind == FailureKind.transcript and at_fault is not None:
            rest = unit.only({t.id for t in unit.transcripts} - {failure.transcript_id})
            if rest is not None:
                self.put_back(weights, rest)
            return [Skip(at_fault, failure.reason)]
        return self._count(weights, unit, failure.reason, attempt)

    def _count(self, weights: str, unit: Unit, reason: str, attempt: Attempt) -> list[Action]:
        """Count a failure of a unit: try it again, split it, or skip its only transcript."""
        actions: list[Action] = []
        if not self._retries.unit_failed(weights, unit, attempt):
            self.add(weights, unit)
        elif len(unit.transcripts) == 1:
            actions.append(Skip(unit, reason))
        else:
            for half in unit.halves():
                self.add(weights, half)
        if self._retries.is_hopeless(weights):
            actions += self.give_up(weights, reason)
        return actions

    def _skip_all(self, weights: str, unit: Unit, reason: str, is_affected: Callable[[Unit], bool]) -> list[Action]:
        queue = self._units[weights]
        affected = [unit, *(other for other in queue if is_affected(other))]
        self._replace(weights, [other for other in queue if not is_affected(other)])
        return [Skip(other, reason) for other in affected]

    def _replace(self, weights: str, units: Iterable[Unit]) -> None:
        self._units[weights] = deque(units)
        self._seconds[weights] = sum(unit.seconds for unit in self._units[weights])
