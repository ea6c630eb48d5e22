"""Selected studies, and the number of participants of each, counted over all files of a source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase

from psych_ray.errors import TranscriptError
from psych_ray.transcripts.sources.errors import one_line

_LISTED = 8


class Selection:
    """State of `transcripts.studies` and `transcripts.limit` while a source is read."""

    def __init__(self, globs: Sequence[str], limit: int | None) -> None:
        self._globs = tuple(globs)
        self._limit = limit
        self._counts: Counter[str] = Counter()
        self._included: dict[str, bool] = {}

    def includes(self, study: str) -> bool:
        """Whether a glob matches the study. Also records that the source has it, for `check_match`."""
        if study not in self._included:
            self._included[study] = not self._globs or any(fnmatchcase(study, glob) for glob in self._globs)
        return self._included[study]

    def is_full(self, study: str) -> bool:
        """Whether the limit of participants of the study is reached."""
        return self._limit is not None and self._counts[study] >= self._limit

    def count(self, study: str) -> None:
        """Count one participant of the study."""
        self._counts[study] += 1

    def check_match(self) -> None:
        """Raise TranscriptError where there are globs and none matches a study of the source."""
        if not self._globs or any(self._included.values()):
            return
        studies = sorted(self._included)
        more = f" and {len(studies) - _LISTED} more" if len(studies) > _LISTED else ""
        listed = ", ".join(studies[:_LISTED]) or "none"
        globs = ",".join(self._globs)
        raise TranscriptError(one_line(f"transcripts.studies=[{globs}] matches no study; there are {listed}{more}"))
