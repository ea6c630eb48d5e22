"""Temporary directories that are removed even where their process is killed.

A shell that outlives the process removes them at once; where it is killed as well, the next process that makes one
does. The process that makes a directory holds a lock on a file in it until it ends, so an abandoned directory is one
whose lock is free. Process ids do not identify it: containers that share a temporary folder have separate process ids.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from psych_ray.child import shell_after_death

_LOCK = ".lock"
_REMOVED_WITHOUT_LOCK_AFTER_S = 86_400


@contextmanager
def temporary_directory(parent: Path | None = None, *, prefix: str = "psych-ray-") -> Iterator[Path]:
    """Make a directory in `parent`, by default the system's temporary folder, and remove it at the end of the block.

    First removes directories of the same parent and prefix whose processes were killed. Its path is short enough for
    the sockets that Ray makes below it.
    """
    parent = parent or Path(tempfile.gettempdir())
    _remove_abandoned(parent, prefix)
    directory = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=parent))
    try:
        with _locked(directory), shell_after_death(_REMOVE, directory):
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


# Processes that still end may write there, hence the repetition. Without a shell, the next process removes it.
_REMOVE = 'for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$1"; sleep 0.5; [ -e "$1" ] || exit; done'


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a new directory. Its file is renamed once locked, so that no other process can lock it first."""
    unnamed = directory / f"{_LOCK}-new"
    descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with suppress(OSError):  # a file system without locks: others cannot lock it either, and keep the directory
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unnamed.rename(directory / _LOCK)
        yield
    finally:
        os.close(descriptor)


def _remove_abandoned(parent: Path, prefix: str) -> None:
    made_here = re.compile(re.escape(prefix) + r"\d+-\w{8}")
    for path in parent.iterdir():
        if made_here.fullmatch(path.name):
            with suppress(OSError):  # of another user, locked by its process, or removed in the meantime
                _remove_if_abandoned(path)


def _remove_if_abandoned(directory: Path) -> None:
    try:
        descriptor = os.open(directory / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        # Its process was killed while it made or removed the directory, or is about to create the lock.
        if time.time() - directory.stat().st_mtime > _REMOVED_WITHOUT_LOCK_AFTER_S:
            shutil.rmtree(directory, ignore_errors=True)
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory, ignore_errors=True)
    finally:
        os.close(descriptor)
