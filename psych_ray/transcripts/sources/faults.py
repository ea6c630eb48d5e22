"""What can be wrong with a source, and how it is told: always in one line, whatever the data holds.

A bad record is the matter of `transcripts.on_error`; a bad file stops the reading in any case. Which faults there are
is decided by the readers, not here.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from psych_ray.errors import TranscriptError

_SHOWN = 60
_SAID = 200


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record that could not be used."""

    where: str
    """File and line, or file and row, from 1."""
    reason: str


class BadRecordError(Exception):
    """Why the record at hand cannot be used; the reader that catches it knows where the record stands."""


def one_line(message: str) -> str:
    """`message` with line breaks and all that does not print as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)


def shown(value: object) -> str:
    """`value` as a message quotes it: escaped, and cut where it is long."""
    text = repr(value[: _SHOWN + 1] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def said(error: Exception) -> str:
    """What another library's exception says, as far as it fits in a message of ours."""
    return str(error).partition("\n")[0][:_SAID] or type(error).__name__


def file_error(path: Path | str, problem: str) -> TranscriptError:
    """The one line about a file that cannot be read as transcripts; `problem` ends with what to do."""
    return TranscriptError(one_line(f"{path}: {problem}"))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong in the file itself, on disk or within a zip, into a TranscriptError."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise file_error(path, f"is a zip that cannot be read ({said(error)}); fetch or make it anew") from error
    except OSError as error:
        detail = error.strerror or said(error)
        raise file_error(path, f"cannot be read ({detail}); check that it is whole and that you may read it") from error
