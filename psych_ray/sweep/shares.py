"""Which weights get the slots that are free: as many replicas of each as pay for their load time. Pure.

Replicas of the same weights share one queue, so the time that weights take is divided by their replicas. If every
replica were busy until the end, the sweep would take `level` seconds: all work divided by all slots. Weights that would
take longer with the replicas they have need more; the rest of the slots goes to where it saves most.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import ceil

PAYS = 2.0
"""A further replica is started where each would still have this many times its load time to do."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What is left to do on some weights."""

    weights: str
    seconds: float
    """Of one replica; what is being scored is included."""
    ranks: int
    replicas: int
    """That load or score now."""
    load_seconds: float
    most: int
    """Replicas that may be started at most: no more than units, no more than configured."""


def by_need(
    demands: Iterable[Demand], slots: int, has_room: Callable[[int], bool] = lambda ranks: True
) -> Iterator[Demand]:
    """Yield the weights of which a further replica is worth a place, most urgent first; each as often as it is.

    `has_room`: whether so many ranks may still find a place; asked before each. The consumer may stop at any time.
    First come those that need more replicas than they have for all to end at the same time: of most ranks first, as the
    larger ones find no place among small ones; of them those that take longest. Then, for slots that would be idle
    otherwise, those that take longest with the replicas they have.
    """
    demands = list(demands)
    level = sum(one.seconds * one.ranks for one in demands) / max(1, slots)
    rest: list[tuple[float, int, Demand, int]] = []
    needed: list[tuple[int, float, int]] = []
    for number, one in enumerate(demands):
        wanted = _wanted(one, level)
        needed += [(-one.ranks, -one.seconds / wanted, number)] * (wanted - one.replicas)
        rest.append((-one.seconds / max(1, one.replicas, wanted), number, one, max(one.replicas, wanted)))
    for _, _, number in sorted(needed):
        if has_room(demands[number].ranks):
            yield demands[number]
    heapq.heapify(rest)
    while rest:
        _, number, one, replicas = rest[0]
        if not (pays(one, replicas) and has_room(one.ranks)):
            heapq.heappop(rest)
            continue
        yield one
        heapq.heapreplace(rest, (-one.seconds / (replicas + 1), number, one, replicas + 1))


def pays(one: Demand, replicas: int) -> bool:
    """Whether a replica beside so many others saves more time than it takes to load."""
    if replicas >= one.most:
        return False
    return not replicas or one.seconds / (replicas + 1) > PAYS * one.load_seconds


def _wanted(one: Demand, level: float) -> int:
    """Replicas with which these weights end no later than the others."""
    if not one.most:
        return 0
    by_level = ceil(one.seconds / level) if level > 0 else 1
    by_load = int(one.seconds / (PAYS * one.load_seconds)) if one.load_seconds > 0 else by_level
    return max(1, min(by_level, by_load, one.most))
