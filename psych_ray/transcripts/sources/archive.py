"""The JSON-lines files inside a contributed zip, as streams.

Zips are untrusted input: nothing is extracted to disk or kept in memory as a whole, and a zip with an implausible
size or unsafe names is an error before any of it is unpacked. Independent of the content of lines.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
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


def open_members(path: Path) -> Generator[tuple[str, BinaryIO], None, None]:
    """Name and stream of each JSON-lines member of the zip at `path`, by name, unpacked while it is read.

    A stream is closed when the next is asked for. TranscriptError for an invalid zip.
    """
    with _opening(path):
        archive = zipfile.ZipFile(path)
    with archive:
        infos = _members(archive, path)
        _check(infos, path)
        for info in infos:
            with _opening(path):
                member = archive.open(info)
            with io.BufferedReader(member, _BUFFER_BYTES) as stream:  # type: ignore[type-var]
                yield info.filename, stream


def check_members(path: Path) -> None:
    """Unpack the JSON-lines members without looking at them. TranscriptError where a checksum does not agree."""
    with closing(open_members(path)) as members:
        for _, stream in members:
            with _opening(path):
                while stream.read(_BUFFER_BYTES):
                    pass


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    """As `file_errors`, and also for names that cannot be decoded, which zipfile raises as ValueError."""
    with file_errors(path):
        try:
            yield
        except ValueError as error:
            raise zipfile.BadZipFile(str(error)) from error


def _members(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """The only JSON-lines file, whatever its name, or of several those that are called prompts, or all."""
    infos = archive.infolist()
    for info in infos:
        if _is_unsafe(info.filename) or _is_unsafe(info.orig_filename):
            raise file_error(path, f"has a name outside of its folder ({quoted(info.orig_filename)}); create it again")
    found = [info for info in infos if info.filename.lower().endswith(".jsonl") and not _is_metadata(info.filename)]
    if not found:
        raise file_error(path, "holds no .jsonl file; a study's zip holds its prompts.jsonl")
    prompts = [info for info in found if "prompt" in info.filename.rpartition("/")[2].lower()]
    return sorted(prompts or found, key=lambda info: info.filename)


def _check(infos: Sequence[zipfile.ZipInfo], path: Path) -> None:
    for info in infos:
        _check_method(info, path)
    packed = max(sum(info.compress_size for info in infos), 1)
    unpacked = sum(info.file_size for info in infos)
    if unpacked > MAX_BYTES or (unpacked > RATIO_COUNTS_FROM_BYTES and unpacked > MAX_RATIO * packed):
        size = f"{packed:,} bytes that unpack to {unpacked:,}"
        raise file_error(path, f"holds {size}, which can be a zip bomb; unpack it by hand if you trust it")


def _check_method(info: zipfile.ZipInfo, path: Path) -> None:
    if info.flag_bits & _ENCRYPTED:
        raise file_error(path, "is encrypted; unpack it with its password and zip it without")
    if info.compress_type not in _METHODS:
        raise file_error(path, f"is compressed by method {info.compress_type}; zip it with plain deflate")


def _is_unsafe(name: str) -> bool:
    parts = re.split(r"[/\\]", name)
    return parts[0] == "" or ".." in parts or _DRIVE.match(name) is not None


def _is_metadata(name: str) -> bool:
    *folders, last = name.split("/")
    return "__MACOSX" in folders or last.startswith(".")
