"""The unit of work, and the report of one that was scored.

Only these travel between driver and replicas: a replica writes the responses to the results store itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property

from psych_ray.results.schema import Part, Tally, TranscriptRef


class Transcripts(tuple[TranscriptRef, ...]):
    """Transcripts of a unit, or of several units that hold the same; what is computed of them is computed once."""

    @cached_property
    def id(self) -> str:
        """Hash of their ids."""
        return hashlib.blake2b(",".join(t.id for t in self).encode(), digest_size=12).hexdigest()

    @cached_property
    def n_characters(self) -> int:
        """Characters of all of them."""
        return sum(t.n_characters for t in self)

    @cached_property
    def n_responses(self) -> int:
        """Marked responses of all of them."""
        return sum(t.n_responses for t in self)

    @cached_property
    def most_characters(self) -> int:
        """Characters of the longest."""
        return max((t.n_characters for t in self), default=0)

    @cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or super().__eq__(other)

    def __reduce__(self) -> tuple[type[Transcripts], tuple[tuple[TranscriptRef, ...]]]:
        # Without what was computed: hashes of strings differ between processes.
        return Transcripts, (tuple(self),)


@dataclass(frozen=True, slots=True)
class Unit:
    """Checkpoint x condition x some transcripts: what is scheduled, retried and committed."""

    checkpoint: str
    """Slug."""
    condition: str
    transcripts: Transcripts
    """Any tuple of them may be given."""
    seconds: float = field(default=0.0, compare=False)
    """Estimated time of one replica."""

    def __post_init__(self) -> None:
        if type(self.transcripts) is not Transcripts:
            object.__setattr__(self, "transcripts", Transcripts(self.transcripts))

    @property
    def id(self) -> str:
        """Hash of the ids of the transcripts; with checkpoint and condition it names the part."""
        return self.transcripts.id

    @property
    def n_characters(self) -> int:
        """Characters of all its transcripts; the cost is estimated from them."""
        return self.transcripts.n_characters

    @property
    def n_responses(self) -> int:
        """Marked responses, and so rows of its part."""
        return self.transcripts.n_responses

    @property
    def longest_seconds(self) -> float:
        """Estimated time of its most expensive transcript."""
        return self.seconds * self.transcripts.most_characters / max(1, self.n_characters)

    @property
    def task(self) -> tuple[str, str]:
        """Checkpoint (slug) and condition."""
        return self.checkpoint, self.condition

    def only(self, ids: Set[str]) -> Unit | None:
        """Return the unit of those of its transcripts whose id is in `ids`; None where there are none."""
        kept = Transcripts(t for t in self.transcripts if t.id in ids)
        return self.with_transcripts(kept) if kept else None

    def halves(self) -> tuple[Unit, Unit]:
        """Return two units of about as many transcripts each; there must be at least two."""
        assert len(self.transcripts) > 1
        middle = len(self.transcripts) // 2
        first, second = Transcripts(self.transcripts[:middle]), Transcripts(self.transcripts[middle:])
        return self.with_transcripts(first), self.with_transcripts(second)

    def divided(self, seconds: float) -> tuple[Unit, Unit | None]:
        """Return a unit of its first transcripts that takes about `seconds`, at least one, and the rest, if any."""
        per_character = self.seconds / max(1, self.n_characters)
        n, total = 1, self.transcripts[0].n_characters * per_character
        while n < len(self.transcripts) and total + self.transcripts[n].n_characters * per_character <= seconds:
            total += self.transcripts[n].n_characters * per_character
            n += 1
        if n == len(self.transcripts):
            return self, None
        first, rest = Transcripts(self.transcripts[:n]), Transcripts(self.transcripts[n:])
        return self.with_transcripts(first), self.with_transcripts(rest)

    def with_transcripts(self, transcripts: Transcripts) -> Unit:
        """Return the unit of some of its transcripts, with their share of its time."""
        share = transcripts.n_characters / max(1, self.n_characters)
        return Unit(self.checkpoint, self.condition, transcripts, share * self.seconds)


@dataclass(frozen=True, slots=True)
class UnitReport:
    """What a replica reports of a unit whose part it wrote."""

    checkpoint: str
    condition: str
    unit: str
    tokens: int
    """Tokens read."""
    responses: int
    """Rows of the part."""
    seconds: float
    """Spent reading, scoring and writing."""
    by_study: Mapping[str, Tally] = field(default_factory=dict)
    """Tallies of the part; only rank 0, which writes it, reports them."""
    part: Part | None = None
    """The part, to be committed to the table's log; None on other ranks than rank 0, which writes it."""
    notes: tuple[str, ...] = ()
    """One line each: warnings that were logged while the unit was scored."""
    left: frozenset[str] = frozenset()
    """Ids of transcripts that were not scored, as the unit was cut; `unit` and the part are of the others."""
    given: str = ""
    """Id of the unit that the replica was given; another than `unit` where it was cut."""


@dataclass(frozen=True, slots=True)
class UnitReading:
    """How much of a unit a replica has read, before it reports it."""

    unit: str
    """Id of the unit that the replica was given."""
    characters: float
    tokens: float
