"""Who runs when: what a simulated sweep did with each node. Pure; pictures of it are drawn elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

REPLACES = "#"
"""Between the name of a node and the number of those that took its place, in the name of the last of them."""


class Doing(StrEnum):
    """What the ranks of a replica do."""

    loading = "loading"
    scoring = "scoring"


@dataclass(frozen=True, slots=True)
class Span:
    """Some ranks of a replica on one node, from when to when; units that follow each other are one span."""

    node: str
    replica: int
    weights: str
    doing: Doing
    start: float
    """Seconds from the beginning of the sweep."""
    end: float
    ranks: int
    """Slots of the node that it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """A simulated sweep."""

    spans: tuple[Span, ...]
    """In the order in which they end."""
    lifetimes: Mapping[str, tuple[float, float]]
    """When each node came and went, seconds; at the end where it stayed."""
    slots: Mapping[str, int]
    """Of each node."""
    makespan: float
    """Seconds until everything was scored."""
    bound: float
    """Seconds that no schedule could be below: all work by all slots, or the longest chain, whichever is longer."""
    starts: Counter[str] = field(default_factory=Counter)
    """Replicas that were started, by weights."""
    most_at_a_time: Counter[str] = field(default_factory=Counter)
    """Replicas that lived at the same time, by weights."""
    committed: int = 0
    """Transcripts x tasks."""
    skipped: int = 0
    scored_again: int = 0
    """Units that were handed out, and of which nothing was committed."""
    cut: int = 0
    """Units that were cut, and continued later."""
    events: int = 0

    def seconds(self, doing: Doing) -> float:
        """Slot-seconds spent on it."""
        return sum(span.ranks * (span.end - span.start) for span in self.spans if span.doing == doing)

    @property
    def slot_seconds(self) -> float:
        """Slot-seconds of all nodes while the sweep ran: what is paid for."""
        return sum(self.slots[node] * (end - start) for node, (start, end) in self.lifetimes.items())
