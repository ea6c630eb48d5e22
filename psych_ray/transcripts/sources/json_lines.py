"""JSON lines, the layout of contributed studies: one participant per line, plain or in a zip.

Splits lines and parses JSON; a line that is no JSON object, or is too long, becomes a `Skipped`. Fields are validated
elsewhere.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from psych_ray.transcripts.sources.archive import open_members
from psych_ray.transcripts.sources.errors import BadRecordError, Skipped, file_error, file_errors, one_line, quoted
from psych_ray.transcripts.sources.origin import Raw, Records

MAX_LINE_BYTES = 64 * 2**20
MAX_BLANK_LINES = 1_000_000
"""In one file; a few kilobytes of a zip can hold many millions, which would take hours."""
CHUNK_BYTES = 2**20


def read_json_lines(path: Path) -> Records:
    """The records of a `.jsonl` file, or of those in a zip by their names, in order, without blank lines."""
    if path.suffix.lower() == ".zip":
        with closing(open_members(path)) as members:
            for name, stream in members:
                yield from _records(stream, path, f"{path} {quoted(name)}")
    else:
        with file_errors(path):
            file = path.open("rb")
        with file:
            yield from _records(file, path, str(path))


def _records(stream: BinaryIO, path: Path, place: str) -> Records:
    with file_errors(path):
        for number, line in _lines(stream, path):
            where = one_line(f"{place} line {number}")
            record: Raw | Skipped
            try:
                record = Raw(where, _parse(line))
            except BadRecordError as error:
                record = Skipped(where, one_line(str(error)))
            yield record


def _lines(stream: BinaryIO, path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Lines that are not blank, with their numbers from 1; None for one beyond MAX_LINE_BYTES."""
    number = n_blank = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            while line and not line.endswith(b"\n"):
                line = stream.readline(CHUNK_BYTES)
            yield number, None
            continue
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield number, line
            continue
        n_blank += 1
        if n_blank > MAX_BLANK_LINES:
            raise file_error(path, f"has more than {MAX_BLANK_LINES:,} blank lines; fetch or create it again")


def _parse(line: bytes | None) -> dict[str, object]:
    if line is None:
        raise BadRecordError(f"the line is longer than {MAX_LINE_BYTES:,} bytes")
    try:
        value = json.loads(line.rstrip(b"\r\n").decode())
    except UnicodeDecodeError as error:
        raise BadRecordError(f"not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        detail = error.msg.removesuffix(" at").removesuffix(" starting")
        raise BadRecordError(f"not JSON at character {error.pos}: {detail}") from error
    except (ValueError, RecursionError) as error:
        raise BadRecordError(f"not JSON that can be read: {error}") from error
    if not isinstance(value, dict):
        raise BadRecordError(f"a JSON {type(value).__name__}, not an object with fields")
    return value
