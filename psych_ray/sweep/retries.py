"""How often what failed is tried again, and after which pause. Counts failures; what runs is the scheduler's.

In a row are attempts of which each began after the one before had failed: replicas of the same weights that meet one
fault at the same time, such as a store that is away, count once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from psych_ray.errors import FailureKind
from psych_ray.sweep.failure import Failure
from psych_ray.sweep.unit import Unit

HOPELESS = 5
"""Weights are given up after `HOPELESS * attempts` failures of units without a success between them."""
NODES_LOST = 4
"""A unit with which more nodes were lost without notice is taken for the reason. Preemption once an hour on average
does that to a unit of a minute once in a billion times."""
UNREACHABLE_PAUSES_S = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
PERMANENT = {FailureKind.transcript, FailureKind.task, FailureKind.checkpoint}
"""Failures that another attempt would meet again, at the same point on every rank of a gang."""

_Key = tuple[str, str, str, str, int]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a replica was asked to do, and failed: from when to when, seconds."""

    began: float
    failed: float


@dataclass(slots=True)
class Retries:
    """Failures so far, by unit and by weights. Preemption with notice is not counted."""

    attempts: int
    _units: Counter[_Key] = field(default_factory=Counter)
    _loads: Counter[str] = field(default_factory=Counter)
    """In a row."""
    _units_in_a_row: Counter[str] = field(default_factory=Counter)
    _unreachable: Counter[tuple[str, bool]] = field(default_factory=Counter)
    """In a row, by weights and whether they were loaded: a load that succeeds does not make a store reachable."""
    _nodes_lost: Counter[_Key] = field(default_factory=Counter)
    _pass_share: dict[str, float] = field(default_factory=dict)
    _failed_at: dict[tuple[str, str], float] = field(default_factory=dict)
    """When the last failure in a row was counted, by what is counted and weights."""

    def pause(self, weights: str, failure: Failure, attempt: Attempt, *, is_loaded: bool) -> float | None:
        """Seconds to wait where a hub or store cannot be reached; None for other failures, and after the last pause."""
        if failure.kind != FailureKind.unreachable:
            return None
        what, key = "store" if is_loaded else "hub", (weights, is_loaded)
        is_another = self._is_another(what, weights, attempt) or not self._unreachable[key]
        self._unreachable[key] += is_another
        n = self._unreachable[key]
        if n > len(UNREACHABLE_PAUSES_S):
            return None
        if is_another:  # what is tried before the end of the pause, by another replica, belongs to it
            self._failed_at[what, weights] = attempt.failed + UNREACHABLE_PAUSES_S[n - 1]
        return UNREACHABLE_PAUSES_S[n - 1]

    def loaded(self, weights: str) -> None:
        """Count a success."""
        self._loads[weights] = self._unreachable[weights, False] = 0

    def load_failed(self, weights: str, failure: Failure, attempt: Attempt, pause: float | None) -> bool:
        """Count a failed attempt to load; whether there is no further one."""
        if failure.kind == FailureKind.preempted or pause is not None:
            return False
        if failure.kind in PERMANENT or failure.kind == FailureKind.unreachable:
            return True
        self._loads[weights] += self._is_another("load", weights, attempt)
        return self._loads[weights] >= self.attempts

    def committed(self, weights: str, unit: Unit) -> None:
        """Count a success."""
        key = _key(unit)
        del self._units[key]
        del self._nodes_lost[key]
        self._units_in_a_row[weights] = self._unreachable[weights, True] = 0

    def unit_failed(self, weights: str, unit: Unit, attempt: Attempt) -> bool:
        """Count a failure of a unit; whether it is not tried again as it is."""
        key = _key(unit)
        self._units[key] += 1
        self._units_in_a_row[weights] += self._is_another("unit", weights, attempt)
        if self._units[key] < self.attempts:
            return False
        del self._units[key]
        return True

    def node_lost(self, unit: Unit) -> bool:
        """Count a node that was lost without notice while it scored a unit; whether the unit may be the reason."""
        key = _key(unit)
        self._nodes_lost[key] += 1
        return self._nodes_lost[key] > NODES_LOST

    def is_hopeless(self, weights: str) -> bool:
        """Whether units of these weights failed too often in a row."""
        return self._units_in_a_row[weights] >= HOPELESS * self.attempts

    def pass_share(self, weights: str) -> float:
        """Share of the engine's own number of tokens per forward pass that the next gang takes."""
        return self._pass_share.get(weights, 1.0)

    def halve_pass(self, weights: str) -> float:
        """Halve `pass_share`; its new value."""
        self._pass_share[weights] = self.pass_share(weights) / 2
        return self._pass_share[weights]

    def _is_another(self, what: str, weights: str, attempt: Attempt) -> bool:
        """Whether a failed attempt began after the last one that was counted had failed."""
        if attempt.began < self._failed_at.get((what, weights), float("-inf")):
            return False
        self._failed_at[what, weights] = attempt.failed
        return True


def _key(unit: Unit) -> _Key:
    """Checkpoint, condition and what tells its transcripts from those of other units: hashing all of them is slow."""
    return (*unit.task, unit.transcripts[0].id, unit.transcripts[-1].id, len(unit.transcripts))
