"""What happens to records and files that cannot be used: they stop the reading, or are skipped and counted.

The reasons of the first ones are kept, because an error that says that nothing is left must give them. Independent of
layouts and formats.
"""

from __future__ import annotations

from collections.abc import Callable

from psych_ray.config import OnError
from psych_ray.errors import TranscriptError
from psych_ray.transcripts.sources.errors import Skipped

OnSkipped = Callable[[Skipped], None]
MAX_SKIPPED = 100_000
"""Records and files of a source that may be skipped; with more it is not a source of transcripts."""
_LISTED = 5


class Skipping:
    """Decides about bad records of one source; called with each of them."""

    def __init__(self, on_error: OnError, on_skipped: OnSkipped | None) -> None:
        self._on_error = on_error
        self._on_skipped = on_skipped
        self._first: list[Skipped] = []
        self._n = self._n_files = 0

    @property
    def skips(self) -> bool:
        """Whether records and files are skipped."""
        return self._on_error == OnError.skip

    def __call__(self, skipped: Skipped) -> None:
        """Raise TranscriptError, or pass the record on with transcripts.on_error=skip."""
        what = f"{skipped.where}: {skipped.reason}"
        if self._on_error == OnError.stop:
            raise TranscriptError(f"{what}; transcripts.on_error=skip skips it")
        self._n += 1
        self._n_files += skipped.is_file
        if self._n > MAX_SKIPPED:
            raise TranscriptError(f"{what}; with it more than {MAX_SKIPPED:,} records are bad; check transcripts.path")
        if self._n <= _LISTED:
            self._first.append(skipped)
        if self._on_skipped is not None:
            self._on_skipped(skipped)

    def require_some(self, *, any_response: bool) -> None:
        """Raise TranscriptError, with the reasons, where records were skipped and no response is left."""
        if any_response or not self._n:
            return
        listed = "; ".join(f"{skipped.where}: {skipped.reason}" for skipped in self._first)
        more = f"; and {self._n - _LISTED:,} more" if self._n > _LISTED else ""
        noun = "file" if self._n_files == self._n else "record or file" if self._n_files else "record"
        records = f"1 {noun}" if self._n == 1 else f"{self._n:,} {noun.replace(' or ', 's and ')}s"
        raise TranscriptError(f"transcripts.on_error=skip skipped {records}, and no response is left: {listed}{more}")
