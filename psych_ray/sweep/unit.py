"""The unit of work and what is told about it once done. Only these travel between driver and replicas: the responses
themselves go from the replica to the results and never back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Set
from dataclasses import dataclass, field

from psych_ray.results.schema import TranscriptRef


@dataclass(frozen=True, slots=True)
class Unit:
    """Checkpoint x condition x some transcripts: what is scheduled, retried and committed."""

    checkpoint: str
    """Slug."""
    condition: str
    transcripts: tuple[TranscriptRef, ...]

    @property
    def id(self) -> str:
        """Hash of the ids of the transcripts; with checkpoint and condition it names the part."""
        return hashlib.blake2b(",".join(t.id for t in self.transcripts).encode(), digest_size=12).hexdigest()

    @property
    def n_characters(self) -> int:
        """Of all its transcripts; what cost is estimated from."""
        return sum(t.n_characters for t in self.transcripts)

    @property
    def n_responses(self) -> int:
        """Marked responses, and so rows of its part."""
        return sum(t.n_responses for t in self.transcripts)

    @property
    def lane(self) -> tuple[str, str]:
        """Checkpoint and condition."""
        return self.checkpoint, self.condition

    def only(self, ids: Set[str]) -> Unit | None:
        """Make the unit of those of its transcripts, None where it has none of them."""
        kept = tuple(t for t in self.transcripts if t.id in ids)
        return Unit(self.checkpoint, self.condition, kept) if kept else None

    def halves(self) -> tuple[Unit, Unit]:
        """Two units of about as many transcripts each; there must be at least two."""
        assert len(self.transcripts) > 1
        middle = len(self.transcripts) // 2
        return (
            Unit(self.checkpoint, self.condition, self.transcripts[:middle]),
            Unit(self.checkpoint, self.condition, self.transcripts[middle:]),
        )


@dataclass(frozen=True, slots=True)
class Tally:
    """Scored responses of one study: how many, and the sums that a running mean needs."""

    responses: int = 0
    nll_nats: float = 0.0
    top1: int = 0


@dataclass(frozen=True, slots=True)
class UnitReport:
    """What a replica tells the driver of a committed unit."""

    checkpoint: str
    condition: str
    unit: str
    tokens: int
    """Tokens read."""
    responses: int
    """Rows of the part."""
    seconds: float
    """Spent reading, scoring and committing."""
    by_study: dict[str, Tally] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What the user should know of how it went, a line each: less memory used at a time, a slower way taken."""
