"""Copies the files of a checkpoint from one directory to another, and continues what a killed process began.

Which files those are is decided here: what loading reads, and no other copies of the weights beside them. Does not
depend on where the copy lies or how much room there is.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from threading import Event

from psych_ray.checkpoints.hub import SMALL_FILES
from psych_ray.checkpoints.weight_files import ADAPTER, MODEL, weight_files

_CHUNK_BYTES = 8 * 2**20
_FILES_AT_ONCE = 4
"""One stream does not use the whole bandwidth of a shared file system."""

_NO_FILES = {errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Of `sendfile` on a system, or file system, where it does not copy files."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a checkpoint as it lies in its directory."""

    name: str
    """Path below the directory."""
    size: int
    changed_ns: int
    """Time of its last change."""


def files_of(directory: Path, *, adapter: bool, allow_pickle: bool, code: bool) -> list[SourceFile]:
    """The files that loading a checkpoint reads, sorted by name. CheckpointError where weights are missing.

    `code`: its modelling code is run.
    """
    weights = weight_files(directory, name=ADAPTER if adapter else MODEL, allow_pickle=allow_pickle)
    paths = {path for path in directory.iterdir() if any(fnmatchcase(path.name, pattern) for pattern in SMALL_FILES)}
    paths |= {*weights, *directory.glob("additional_chat_templates/*.jinja")}
    paths |= set(directory.rglob("*.py")) if code else set()
    found = []
    for path in sorted(paths):
        if path.is_file():
            stat = path.stat()
            found.append(SourceFile(path.relative_to(directory).as_posix(), stat.st_size, stat.st_mtime_ns))
    return found


def copy_files(source: Path, files: Sequence[SourceFile], target: Path, on_bytes: Callable[[], None]) -> None:
    """Copy files, and flush them to disk. OSError where one cannot be read or written, or changed its size.

    What is in `target` already must be the beginning of the same files; only the rest is read. `on_bytes` is called,
    from several threads, after each chunk.
    """
    stop = Event()
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        copies = [pool.submit(_copy, source / f.name, target / f.name, f.size, on_bytes, stop) for f in files]
        try:
            done, _ = wait(copies, return_when=FIRST_EXCEPTION)
            for copy in done:
                copy.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def flush(path: Path) -> None:
    """Flush a file or a directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy(source: Path, target: Path, size: int, on_bytes: Callable[[], None], stop: Event) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch()
    at = target.stat().st_size
    with source.open("rb", buffering=0) as read, target.open("r+b", buffering=0) as written:
        if at > size:
            at = written.truncate(0)
        written.seek(at)
        while not stop.is_set() and (n := _send(written.fileno(), read.fileno(), at)):
            at += n
            on_bytes()
        os.fsync(written.fileno())
    if not stop.is_set() and at != size:
        raise OSError(errno.EIO, "changed while it was copied", str(source))


def _send(to: int, source: int, at: int) -> int:
    """Copy a chunk from the place `at`; its bytes, 0 at the end. By the kernel where it can: 3 times as fast."""
    try:
        return os.sendfile(to, source, at, _CHUNK_BYTES)
    except OSError as error:
        if error.errno not in _NO_FILES:
            raise
        return os.write(to, os.pread(source, _CHUNK_BYTES, at))
