"""One copy of a checkpoint on a node's own disk: its files, what says that they are whole, and who uses them.

A copy is whole once its marker exists, which is written last, and as long as its files are those that the marker lists.
Locks are those of the kernel, so that they are free when their process is gone. Decides nothing about room.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from psych_ray.atomic import write_atomically
from psych_ray.checkpoints.copying import flush
from psych_ray.errors import CheckpointError

STATE = ".state"
"""Directory of the locks, markers and sizes of all copies."""
_LOCK, _MARKER, _SIZE = ".lock", ".whole", ".size"


@dataclass(frozen=True, slots=True)
class Entry:
    """A copy, or the place for one, in the directory `root`."""

    root: Path
    key: str
    """Name of its directory."""

    @property
    def files(self) -> Path:
        """Its directory."""
        return self.root / self.key

    @property
    def _marker(self) -> Path:
        return self.root / STATE / f"{self.key}{_MARKER}"

    @property
    def _size(self) -> Path:
        return self.root / STATE / f"{self.key}{_SIZE}"

    def try_lock(self, *, shared: bool) -> int | None:
        """Descriptor that holds its lock, until it is closed: shared to use the files, else to change them.

        None where another process, or another thread, has a lock that does not allow this one.
        """
        return try_lock(self.root / STATE / f"{self.key}{_LOCK}", shared=shared)

    def is_whole(self, fingerprint: Callable[[Path], str] | None = None) -> bool:
        """Whether all files are there with their sizes, and, where given, the fingerprint as well is as it was."""
        try:
            marker = json.loads(self._marker.read_text("utf-8"))
            sizes: dict[str, int] = marker["files"]
            is_there = all((self.files / name).stat().st_size == size for name, size in sizes.items())
            return is_there and (fingerprint is None or marker["fingerprint"] == fingerprint(self.files))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, CheckpointError):
            return False

    @property
    def was_whole(self) -> bool:
        """Whether it has a marker; its files may have been damaged since."""
        return self._marker.exists()

    @property
    def may_have_holes(self) -> bool:
        """Whether a file was written before this machine started: what was not flushed then may read as zeros."""
        if not hasattr(time, "CLOCK_BOOTTIME"):
            return False
        started = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return any(path.lstat().st_mtime_ns < started for path in self.files.rglob("*") if path.is_file())

    def reserve(self, size: int) -> None:
        """Say how many bytes it will have, before any is written."""
        write_atomically(self._size, str(size).encode())

    @property
    def reserved_bytes(self) -> int:
        """Bytes that it has, or will have once it is whole."""
        try:
            return int(self._size.read_text("utf-8"))
        except (OSError, ValueError):
            return self.present_bytes

    @property
    def present_bytes(self) -> int:
        """Bytes that its files take on the disk now."""
        total = 0
        for folder, _, names in os.walk(self.files):
            for name in names:
                with suppress(OSError):
                    total += os.lstat(f"{folder}/{name}").st_blocks * 512
        return total

    def complete(self, fingerprint: str) -> None:
        """Mark it as whole, with the sizes that its files have now. They must have been flushed to disk."""
        sizes = {
            path.relative_to(self.files).as_posix(): path.stat().st_size
            for path in sorted(self.files.rglob("*"))
            if path.is_file()
        }
        flush(self.files)
        write_atomically(self._marker, json.dumps({"files": sizes, "fingerprint": fingerprint}).encode())
        self.reserve(sum(sizes.values()))

    def touch(self) -> None:
        """Note that it is used now."""
        now = time.time_ns()  # without it the kernel takes the time of its last tick
        with suppress(OSError):
            os.utime(self._size, ns=(now, now))

    @property
    def used_at(self) -> int:
        """When it was used, or begun, the last time; nanoseconds since the epoch."""
        try:
            return self._size.stat().st_mtime_ns
        except OSError:
            return 0

    def remove(self) -> None:
        """Remove the files, the marker first. Its lock must be held, and its file stays, as others may wait for it."""
        self._marker.unlink(missing_ok=True)
        shutil.rmtree(self.files, ignore_errors=True)
        if not self.files.exists():
            self._size.unlink(missing_ok=True)


def entries(root: Path) -> list[Entry]:
    """All copies in a directory, whole or not."""
    return [Entry(root, path.name.removesuffix(_SIZE)) for path in (root / STATE).glob(f"*{_SIZE}")]


def try_lock(path: Path, *, shared: bool = False) -> int | None:
    """Descriptor of a file that holds its lock until it is closed; None where that is not free. OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, once it is free; for steps that take milliseconds."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
