"""Errors of sources: records and files that cannot be read. Messages are one line for any data.

`transcripts.on_error` decides about a bad record, and about a bad file among others. The readers detect the errors.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from psych_ray.errors import TranscriptError

_QUOTED_CHARACTERS = 60
_DETAIL_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record, or a file, that cannot be used."""

    where: str
    """File and line, or file and row, from 1; a file alone where all of it is skipped."""
    reason: str
    study: str | None = None
    """None where it is not known."""
    is_file: bool = False


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What was not taken from a study, while its transcripts are scored or it is left out by a rule."""

    study: str
    what: str
    """For example `reaction times`."""
    reason: str
    participants: int
    """0 where they were not counted."""

    def __str__(self) -> str:
        if not self.participants:
            return one_line(f"{self.study}: {self.what} is left out: {self.reason}")
        people = "1 participant" if self.participants == 1 else f"{self.participants:,} participants"
        return one_line(f"{self.study}: {self.what} of {people} left out: {self.reason}")


class BadRecordError(Exception):
    """Reason why a record cannot be used; the reader that catches it adds file and line."""


def one_line(message: str) -> str:
    """`message` with line breaks and other characters that do not print as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)


def quoted(value: object) -> str:
    """`value` for a message: escaped, and truncated where it is long."""
    text = repr(value[: _QUOTED_CHARACTERS + 1] if isinstance(value, str) else value)
    return text if len(text) <= _QUOTED_CHARACTERS else text[:_QUOTED_CHARACTERS] + "…"


def detail(error: Exception) -> str:
    """First line of an exception's message, truncated where it is long; its type's name where it has none."""
    return str(error).partition("\n")[0][:_DETAIL_CHARACTERS] or type(error).__name__


def file_error(path: Path | str, problem: str) -> TranscriptError:
    """The error for a file that cannot be read as transcripts; `problem` ends with what to do."""
    return TranscriptError(one_line(f"{path}: {problem}"))


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Raise errors of the file itself, on disk or within a zip, as TranscriptError."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise file_error(path, f"is a zip that cannot be read ({detail(error)}); fetch or create it again") from error
    except OSError as error:
        reason = error.strerror or detail(error)
        raise file_error(
            path, f"cannot be read ({reason}); check that it is complete and that you may read it"
        ) from error
