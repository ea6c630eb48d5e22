"""JSON lines, the layout of contributed studies: one participant per line, plain or in a zip.

Splits lines and parses JSON; a line that is no JSON object, or is too long, becomes a `Skipped`. Fields are validated
elsewhere.
"""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import BinaryIO

from psych_ray.transcripts.sources.archive import open_member
from psych_ray.transcripts.sources.errors import BadRecordError, Skipped, file_errors, one_line
from psych_ray.transcripts.sources.origin import Raw, Records

MAX_LINE_BYTES = 64 * 2**20
CHUNK_BYTES = 2**20


def read_json_lines(path: Path) -> Records:
    """The records of a `.jsonl` file or of a zip with one in it, in order, without blank lines."""
    if path.suffix.lower() == ".zip":
        with open_member(path) as stream:
            yield from _records(stream, path)
    else:
        with file_errors(path):
            file = path.open("rb")
        with file:
            yield from _records(file, path)


def _records(stream: BinaryIO, path: Path) -> Records:
    number = 0
    while True:
        number += 1
        where = one_line(f"{path} line {number}")
        try:
            with file_errors(path):
                line = _next_line(stream)
            if not line:
                return
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            record: Raw | Skipped = Raw(where, _parse(line.rstrip(b"\r\n")))
        except BadRecordError as error:
            record = Skipped(where, one_line(str(error)))
        yield record


def _next_line(stream: BinaryIO) -> bytes:
    """The next line, b"" at the end. BadRecordError for one beyond MAX_LINE_BYTES, which is skipped in chunks."""
    line = stream.readline(MAX_LINE_BYTES + 1)
    if len(line) <= MAX_LINE_BYTES:
        return line
    while line and not line.endswith(b"\n"):
        line = stream.readline(CHUNK_BYTES)
    raise BadRecordError(f"the line is longer than {MAX_LINE_BYTES:,} bytes")


def _parse(line: bytes) -> dict[str, object]:
    try:
        value = json.loads(line.decode())
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
