"""Which studies are wanted, and how many participants of each: one tally over all files of a source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase

from psych_ray.errors import TranscriptError
from psych_ray.transcripts.sources.faults import one_line

_LISTED = 8


class Selection:
    """`transcripts.studies` and `transcripts.limit` at work."""

    def __init__(self, globs: Sequence[str], limit: int | None) -> None:
        self._globs = tuple(globs)
        self._limit = limit
        self._taken: Counter[str] = Counter()
        self._wanted: dict[str, bool] = {}

    def wants(self, study: str) -> bool:
        """Whether a glob picks the study; asking makes it one of those that the source has."""
        if study not in self._wanted:
            self._wanted[study] = not self._globs or any(fnmatchcase(study, glob) for glob in self._globs)
        return self._wanted[study]

    def full(self, study: str) -> bool:
        """Whether no more of its participants are wanted."""
        return self._limit is not None and self._taken[study] >= self._limit

    def take(self, study: str) -> None:
        """Count one participant of the study."""
        self._taken[study] += 1

    def check_match(self) -> None:
        """TranscriptError where there are globs and none has picked a study of the source."""
        if not self._globs or any(self._wanted.values()):
            return
        studies = sorted(self._wanted)
        more = f" and {len(studies) - _LISTED} more" if len(studies) > _LISTED else ""
        listed = ", ".join(studies[:_LISTED]) or "none"
        globs = ",".join(self._globs)
        raise TranscriptError(one_line(f"transcripts.studies=[{globs}] matches no study; there are {listed}{more}"))
