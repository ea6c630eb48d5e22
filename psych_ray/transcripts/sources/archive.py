"""The JSON-lines file inside a contributed zip, as a stream.

A zip comes from strangers: nothing is ever extracted, nothing is held whole, and a zip that lies about its size, hides
its names or holds two candidates is refused before a byte of it is unpacked. What the lines say is not known here.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from psych_ray.transcripts.sources.faults import file_error, reading, shown

MAX_BYTES = 64 * 2**30
MAX_RATIO = 1000
RATIO_COUNTS_FROM_BYTES = 2**30
_BUFFER_BYTES = 2**18
_ENCRYPTED = 0x1
# The other methods can blow up a few kilobytes to gigabytes in one step, out of reach of a limit.
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_DRIVE = re.compile(r"[A-Za-z]:")


@contextmanager
def open_member(path: Path) -> Iterator[BinaryIO]:
    """The one JSON-lines member of the zip at `path`, unpacked as it is read. TranscriptError where it is not fit."""
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
    """As `reading`; beyond that, names that cannot be decoded come as ValueError."""
    with reading(path):
        try:
            yield
        except ValueError as error:
            raise zipfile.BadZipFile(str(error)) from error


def _the_member(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    infos = archive.infolist()
    for info in infos:
        if _is_unsafe(info.filename) or _is_unsafe(info.orig_filename):
            raise file_error(path, f"names a file outside of itself ({shown(info.orig_filename)}); make it anew")
    found = [info for info in infos if info.filename.lower().endswith(".jsonl") and not _is_litter(info.filename)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(shown(info.filename) for info in found[:4])
    held = f"{len(found)} .jsonl files ({names})" if found else "no .jsonl file"
    raise file_error(path, f"holds {held}; a study's zip holds exactly one")


def _check(info: zipfile.ZipInfo, path: Path) -> None:
    if info.flag_bits & _ENCRYPTED:
        raise file_error(path, "is encrypted; unpack it with its password and zip it without")
    if info.compress_type not in _METHODS:
        raise file_error(path, f"is compressed by method {info.compress_type}; zip it with plain deflate")
    packed = max(info.compress_size, 1)
    if info.file_size > MAX_BYTES or (info.file_size > RATIO_COUNTS_FROM_BYTES and info.file_size > MAX_RATIO * packed):
        size = f"{info.compress_size:,} bytes that unpack to {info.file_size:,}"
        raise file_error(path, f"holds {size}, which looks like a zip bomb; unpack it by hand if you trust it")


def _is_unsafe(name: str) -> bool:
    parts = re.split(r"[/\\]", name)
    return parts[0] == "" or ".." in parts or _DRIVE.match(name) is not None


def _is_litter(name: str) -> bool:
    *folders, last = name.split("/")
    return "__MACOSX" in folders or last.startswith(".")
