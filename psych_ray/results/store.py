"""The results store: files of bytes by name, each whole or absent.

A name is a relative path with forward slashes. The rest of `results` uses only the protocol, so that an object store
can be put behind it. Does not depend on a schema.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from psych_ray.atomic import UNFINISHED, write_atomically
from psych_ray.errors import ResultsError, UnsupportedError

_ABANDONED_S = 3600
_FOLDERS = ("responses", "sources")
"""Written by this package; others below the root, such as a report, have writers of their own."""


class ResultsStore(Protocol):
    """A set of named files. Every method raises ResultsError, with the full path, where the storage fails."""

    @property
    def location(self) -> str:
        """Absolute path or URI of the store: for messages, and to open it again on another node."""

    def write(self, name: str, content: bytes) -> None:
        """Make `content` readable under `name`, replacing what was there."""

    def read(self, name: str) -> bytes:
        """Return the whole content of a file."""

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading; seekable, so that a reader can fetch the end of a long file alone."""

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""

    def names(self, folder: str) -> list[str]:
        """Names of all files below a folder, sorted; [] where there is no such folder."""

    def uris(self, names: Iterable[str]) -> list[str]:
        """Paths or URIs from which polars reads these files."""

    def remove_unfinished(self) -> None:
        """Remove unfinished files of killed processes, in the root and below `responses/` and `sources/`.

        Files younger than an hour stay, as their process may still run, and so do files that cannot be removed.
        """


class LocalStore:
    """A store in a directory, which is created by the first write."""

    def __init__(self, root: str) -> None:
        self._path = Path(root).expanduser().resolve()
        if self._path.exists() and not self._path.is_dir():
            raise ResultsError(f"results.root={root}: that is a file; name a directory")

    @property
    def location(self) -> str:
        """Absolute path of the directory."""
        return str(self._path)

    def write(self, name: str, content: bytes) -> None:
        """Write beside the final path, flush, and rename."""
        path = self._path / name
        try:
            write_atomically(path, content)
        except OSError as error:
            raise ResultsError(f"{path}: cannot be written: {error.strerror or error}") from error

    def read(self, name: str) -> bytes:
        """Return the whole content of a file."""
        with self.open(name) as file:
            return file.read()

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading."""
        path = self._path / name
        try:
            return path.open("rb")
        except OSError as error:
            raise ResultsError(f"{path}: cannot be read: {error.strerror or error}") from error

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return (self._path / name).is_file()

    def names(self, folder: str) -> list[str]:
        """Names of all finished files below a folder, sorted."""
        found: list[str] = []
        for directory, _, files in os.walk(self._path / folder, onerror=_cannot_list):
            below = Path(directory).relative_to(self._path).as_posix()
            found += [f"{below}/{file}" for file in files if not file.startswith(UNFINISHED)]
        return sorted(found)

    def uris(self, names: Iterable[str]) -> list[str]:
        """Absolute paths of these files."""
        return [str(self._path / name) for name in names]

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


def open_store(root: str) -> ResultsStore:
    """Open the store at `results.root`. UnsupportedError for a URI, ResultsError where `root` is a file."""
    if "://" in root:
        raise UnsupportedError(f"results.root={root}: this version writes to local paths only")
    return LocalStore(root)


def _cannot_list(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise ResultsError(f"{error.filename}: cannot be listed: {error.strerror or error}") from error
