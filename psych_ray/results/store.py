"""The results store: files of bytes by name, each whole or absent.

A name is a relative path with forward slashes. The rest of `results` uses only the protocol, so that an object store
can be put behind it. Does not depend on a schema.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from psych_ray.atomic import UNFINISHED, write_atomically
from psych_ray.errors import ResultsError

RETRY_S = 120.0
_ABANDONED_S = 3600
_LONGEST_BYTES = 2**32
"""No file of a store is as long; a sparse one may say that it is longer than any memory."""
_PERCENT_CODE = re.compile(r"%[0-9A-Fa-f]{2}")
_FOLDERS = ("responses", "sources", "footers", "lease")
"""Written by this package; others below the root, such as a report, have writers of their own."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a store."""

    name: str
    size: int
    """Bytes."""
    modified: float
    """Seconds since the epoch, by the clock of the storage."""


class ResultsStore(Protocol):
    """A set of named files.

    Every method raises ResultsError, with the full path, where the storage fails for good, and UnreachableError where
    it does not answer in time.
    """

    @property
    def location(self) -> str:
        """Absolute path or URI of the store: for messages, and to open it again on another node."""

    @property
    def delta_options(self) -> dict[str, str]:
        """Options with which deltalake opens a table below `location`."""

    @property
    def retry_s(self) -> float:
        """For how long an operation that gets no answer is repeated, seconds."""

    def write(self, name: str, content: bytes) -> None:
        """Make `content` readable under `name`, replacing what was there."""

    def create(self, name: str, content: bytes) -> bool:
        """Make `content` readable under `name` if there is no such file; whether it did."""

    def read(self, name: str) -> bytes:
        """Return the whole content of a file."""

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading; seekable, so that a reader can fetch the end of a long file alone."""

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""

    def files(self, folder: str) -> list[StoredFile]:
        """All files below a folder, sorted by name; [] where there is no such folder."""

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that do not exist are ignored."""

    def local_path(self, name: str) -> Path | None:
        """Path of a file on this machine; None where it is elsewhere."""

    def remove_unfinished(self) -> None:
        """Remove unfinished files of killed processes, in the root and below the folders that `results` writes.

        Files younger than an hour stay, as their process may still run, and so do files that cannot be removed.
        """


class LocalStore:
    """A store in a directory, which is created by the first write."""

    def __init__(self, root: str) -> None:
        self._path = Path(root).expanduser().resolve()
        if self._path.exists() and not self._path.is_dir():
            raise ResultsError(f"results.root={root}: that is a file; name a directory")
        if _PERCENT_CODE.search(str(self._path)):
            raise ResultsError(f"results.root={root}: deltalake cannot read a path with % and two digits; name another")

    @property
    def location(self) -> str:
        """Absolute path of the directory."""
        return str(self._path)

    @property
    def delta_options(self) -> dict[str, str]:
        """None are needed."""
        return {}

    @property
    def retry_s(self) -> float:
        """Nothing is repeated."""
        return 0.0

    def write(self, name: str, content: bytes) -> None:
        """Write beside the final path, flush, and rename."""
        path = self._path / name
        try:
            write_atomically(path, content)
        except OSError as error:
            raise ResultsError(f"{path}: cannot be written: {error.strerror or error}") from error

    def create(self, name: str, content: bytes) -> bool:
        """Write beside the final path, flush, and link, which fails where the path exists."""
        path = self._path / name
        try:
            write_atomically(path, content, replace=False)
        except FileExistsError:
            return False
        except OSError as error:
            raise ResultsError(f"{path}: cannot be written: {error.strerror or error}") from error
        return True

    def read(self, name: str) -> bytes:
        """Return the whole content of a file."""
        with self.open(name) as file:
            try:
                n_bytes = os.fstat(file.fileno()).st_size
                if n_bytes > _LONGEST_BYTES:
                    raise ResultsError(f"{self._path / name}: cannot be read: {n_bytes:,} bytes are too many")
                return file.read()
            except OSError as error:
                raise ResultsError(f"{self._path / name}: cannot be read: {error.strerror or error}") from error

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading. ResultsError for what is no regular file."""
        path = self._path / name
        try:
            file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115  the caller closes it
        except OSError as error:
            raise ResultsError(f"{path}: cannot be read: {error.strerror or error}") from error
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise ResultsError(f"{path}: cannot be read: not a regular file")
        return file

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return (self._path / name).is_file()

    def files(self, folder: str) -> list[StoredFile]:
        """All finished regular files below a folder, sorted by name.

        ResultsError for a link to a directory: what is in it may belong to another store, and must not be removed.
        """
        found: list[StoredFile] = []
        folders = [folder]
        while folders:
            below = folders.pop()
            try:
                with os.scandir(self._path / below) as entries:
                    for entry in entries:
                        name = f"{below}/{entry.name}"
                        if entry.is_dir():
                            if entry.is_symlink():
                                raise ResultsError(
                                    f"{entry.path}: is a link to a directory; replace it by the directory itself, or "
                                    "remove it"
                                )
                            folders.append(name)
                        elif entry.is_file() and not entry.name.startswith(UNFINISHED):
                            with suppress(FileNotFoundError):  # removed since it was listed
                                found_now = entry.stat()
                                found.append(StoredFile(name, found_now.st_size, found_now.st_mtime))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ResultsError(f"{error.filename}: cannot be listed: {error.strerror or error}") from error
        return sorted(found, key=lambda file: file.name)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files."""
        for name in names:
            path = self._path / name
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise ResultsError(f"{path}: cannot be removed: {error.strerror or error}") from error

    def local_path(self, name: str) -> Path | None:
        """Absolute path of a file."""
        return self._path / name

    def remove_unfinished(self) -> None:
        """Remove unfinished files of killed processes, except those of other users."""
        found = [*self._path.glob(f"{UNFINISHED}*")]
        for folder in _FOLDERS:
            for directory, _, files in os.walk(self._path / folder):
                found += [Path(directory, file) for file in files if file.startswith(UNFINISHED)]
        for path in found:
            with suppress(OSError):  # removed by another process, or of another user in a root that is shared
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    path.unlink()


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting for a writer, where a named pipe has been put in the place of a file."""
    return os.open(path, flags | os.O_NONBLOCK)


def open_store(root: str, *, retry_s: float = RETRY_S) -> ResultsStore:
    """Open the store at `results.root`: a local path, or an s3:// or gs:// URI.

    `retry_s`: for how long an operation is repeated to which a bucket gives no answer. ResultsError where the root is a
    file, or there is no such bucket; UnreachableError where nothing answers.
    """
    if "://" in root:
        from psych_ray.results.object_options import Limits
        from psych_ray.results.object_store import ObjectStore

        store = ObjectStore(root, limits=Limits(retry_s=retry_s))
        store.require_answer()
        return store
    return LocalStore(root)
