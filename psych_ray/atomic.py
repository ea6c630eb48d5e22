"""Files that appear whole or not at all: written beside their path, flushed, and renamed in one step."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path

UNFINISHED = ".unfinished-"
"""Prefix of the names of files that are still being written; a killed process leaves them behind."""


def write_atomically(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Make `content` readable at `path`, and flush it to disk. OSError where that fails.

    `replace`: replaces what was there; without it, FileExistsError where there is a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{UNFINISHED}{uuid.uuid4().hex}")
    try:
        with unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            unfinished.replace(path)
        else:
            path.hardlink_to(unfinished)
            unfinished.unlink()
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise
    _flush_directory(path.parent)


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
