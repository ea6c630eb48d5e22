"""The JSON-lines file inside a contributed zip, as a stream.

Zips are untrusted input: nothing is extracted to disk or kept in memory as a whole, and a zip with an implausible
size, unsafe names or several candidates is an error before any of it is unpacked. Independent of the content of lines.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from psych_ray.transcripts.sources.errors import file_error, file_errors, quoted

MAX_BYTES = 64 * 2**30
MAX_RATIO = 500
"""Studies that exist unpack to at most 63 times their size; deflate reaches 1,032."""
RATIO_COUNTS_FROM_BYTES = 2**24
_BUFFER_BYTES = 2**18
_ENCRYPTED = 0x1
# Other methods can unpack a few kilobytes to gigabytes in one step, which no limit can stop.
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_DRIVE = re.compile(r"[A-Za-z]:")


@contextmanager
def open_member(path: Path) -> Iterator[BinaryIO]:
    """The one JSON-lines member of the zip at `path`, unpacked while it is read. TranscriptError for an invalid zip."""
    with _opening(path):
        archive = zipfile.ZipFile(path)
    with archive:
        info = _the_member(archive, path)
        _check(info, path)
        with _opening(path):
            member = archive.open(info)
        with io.BufferedReader(member, _BUFFER_BYTES) as stream:  # type: ignore[type-var]
            yield stream


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    """As `file_errors`, and also for names that cannot be decoded, which zipfile raises as ValueError."""
    with file_errors(path):
        try:
            yield
        except ValueError as error:
            raise zipfile.BadZipFile(str(error)) from error


def _the_member(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    infos = archive.infolist()
    for info in infos:
        if _is_unsafe(info.filename) or _is_unsafe(info.orig_filename):
            raise file_error(path, f"has a name outside of its folder ({quoted(info.orig_filename)}); create it again")
    found = [info for info in infos if info.filename.lower().endswith(".jsonl") and not _is_metadata(info.filename)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(quoted(info.filename) for info in found[:4])
    content = f"{len(found)} .jsonl files ({names})" if found else "no .jsonl file"
    raise file_error(path, f"holds {content}; a study's zip holds exactly one")


def _check(info: zipfile.ZipInfo, path: Path) -> None:
    if info.flag_bits & _ENCRYPTED:
        raise file_error(path, "is encrypted; unpack it with its password and zip it without")
    if info.compress_type not in _METHODS:
        raise file_error(path, f"is compressed by method {info.compress_type}; zip it with plain deflate")
    packed = max(info.compress_size, 1)
    if info.file_size > MAX_BYTES or (info.file_size > RATIO_COUNTS_FROM_BYTES and info.file_size > MAX_RATIO * packed):
        size = f"{info.compress_size:,} bytes that unpack to {info.file_size:,}"
        raise file_error(path, f"holds {size}, which can be a zip bomb; unpack it by hand if you trust it")


def _is_unsafe(name: str) -> bool:
    parts = re.split(r"[/\\]", name)
    return parts[0] == "" or ".." in parts or _DRIVE.match(name) is not None


def _is_metadata(name: str) -> bool:
    *folders, last = name.split("/")
    return "__MACOSX" in folders or last.startswith(".")
