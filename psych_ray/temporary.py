"""Temporary directories that hardly outlive their process, even one that is killed: the next one removes them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "psych-ray-"


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """Directory for as long as the block runs; first removes those of processes of this machine that are dead."""
    _remove_abandoned()
    directory = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")
    try:
        yield Path(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _remove_abandoned() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = path.name.removeprefix(_PREFIX).split("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists() and Path("/proc").is_dir():
            shutil.rmtree(path, ignore_errors=True)
