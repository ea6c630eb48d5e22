"""When a rank that shows no progress is lost, and a replica without a place is given up. Pure: times come from outside.

Progress is any change of a number that a rank reports while it works; how it is counted does not matter here. Does not
depend on what follows from a stall.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from statistics import median

from psych_ray.sweep.unit import Unit

STALL_FACTOR = 10.0
"""Time without progress, as a multiple of the estimated time of a transcript. Estimates are wrong by a factor of 3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long a rank may show no progress, seconds. After that it is lost; what has no place is given up."""

    stall_seconds: float = 600.0
    """While it scores; more where one transcript takes long."""
    load_seconds: float = 1800.0
    """While it loads."""
    place_seconds: float = 3600.0
    """Until the first rank of a replica answers."""


@dataclass(slots=True)
class Watch:
    """Since when each rank of a replica has shown no progress with what the replica was last asked to do."""

    seconds: float
    """How long a rank may show none."""
    began: float
    """When the replica was asked."""
    is_placed: bool = False
    """Whether a rank has answered. Ranks are placed together."""
    waits_for: str = "Ray has not started it"
    """Why it is not placed, as far as is known."""
    _since: dict[int, float] = field(default_factory=dict)
    _work: dict[int, int] = field(default_factory=dict)

    def begin(self, seconds: float, now: float) -> None:
        """Start again: the replica was asked to do something else."""
        self.seconds, self.began = seconds, now
        self._since.clear()

    def answered(self, load_seconds: float, now: float) -> None:
        """Note that a rank has answered, from which on the replica loads."""
        if not self.is_placed:
            self.is_placed = True
            self.begin(load_seconds, now)

    def progress(self, rank: int, work: int, now: float) -> None:
        """Note the work that a rank reports."""
        if self._work.get(rank) != work:
            self._work[rank] = work
            self._since[rank] = now

    def deadline(self, ranks: Iterable[int]) -> float:
        """When the first of these ranks will have shown no progress for too long."""
        return self.seconds + min(self._since.get(rank, self.began) for rank in ranks)

    def slowest(self, ranks: Set[int]) -> int:
        """The rank that has shown no progress for the longest time, of these."""
        return min(ranks, key=lambda rank: (self._since.get(rank, self.began), rank))


@dataclass(slots=True)
class Pace:
    """Measured time of units beside the estimated one, by weights."""

    _measured: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _estimated: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _typical: float | None = None
    """The median over weights, once it was asked for."""

    def committed(self, weights: str, unit: Unit, seconds: float) -> None:
        """Note how long a unit took."""
        self._measured[weights] += seconds
        self._estimated[weights] += unit.seconds
        self._typical = None

    def ratio(self, weights: str) -> float:
        """Measured over estimated time; the median over weights where these were not measured, 1 where none was."""
        if estimated := self._estimated.get(weights):
            return self._measured[weights] / estimated
        if self._typical is None:
            ratios = [self._measured[other] / estimated for other, estimated in self._estimated.items() if estimated]
            self._typical = median(ratios) if ratios else 1.0
        return self._typical

    def stall_seconds(self, weights: str, unit: Unit, at_least: float) -> float:
        """How long a rank may show no progress with this unit: several times its most expensive transcript."""
        pace = self.ratio(weights) if self._estimated.get(weights) else 1.0
        return max(at_least, STALL_FACTOR * pace * unit.longest_seconds)
