"""Selected studies and collections, and the number of participants of each, counted over all files of a source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase

from psych_ray.config import Collection
from psych_ray.errors import TranscriptError
from psych_ray.transcripts.sources.errors import file_error, one_line

_LISTED = 8


class Selection:
    """State of `transcripts.studies`, `transcripts.collection` and `transcripts.limit` while a source is read."""

    def __init__(self, globs: Sequence[str], limit: int | None, collection: Collection | None = None) -> None:
        self._globs = tuple(globs)
        self._limit = limit
        self._collection = collection
        self._any_in_collection = collection is None
        self._counts: Counter[str] = Counter()
        self._included: dict[str, bool] = {}

    def includes(self, study: str) -> bool:
        """Whether a glob matches the study. Also records that the source has it, for `check_match`."""
        if study not in self._included:
            self._included[study] = not self._globs or any(fnmatchcase(study, glob) for glob in self._globs)
        return self._included[study]

    def in_collection(self, is_psych101: bool | None, where: str) -> bool:
        """Whether a study is of the selected collection. TranscriptError where it is not known of which it is."""
        if self._collection is None:
            return True
        if is_psych101 is None:
            wanted = f"is_psych101, which transcripts.collection={self._collection} needs"
            raise file_error(where, f"has no {wanted}; add it, or omit transcripts.collection")
        found = is_psych101 == (self._collection == Collection.psych101)
        self._any_in_collection = self._any_in_collection or found
        return found

    def is_full(self, study: str) -> bool:
        """Whether the limit of participants of the study is reached."""
        return self._limit is not None and self._counts[study] >= self._limit

    def count(self, study: str) -> None:
        """Count one participant of the study."""
        self._counts[study] += 1

    def check_match(self) -> None:
        """Raise TranscriptError where no study of the source is of the collection, or matches any of the globs."""
        if not self._any_in_collection and any(self._included.values()):
            raise TranscriptError(
                f"transcripts.collection={self._collection}: the source has no study that came with it"
            )
        if not self._globs or any(self._included.values()):
            return
        studies = sorted(self._included)
        more = f" and {len(studies) - _LISTED} more" if len(studies) > _LISTED else ""
        listed = ", ".join(studies[:_LISTED]) or "none"
        globs = ",".join(self._globs)
        raise TranscriptError(one_line(f"transcripts.studies=[{globs}] matches no study; there are {listed}{more}"))
