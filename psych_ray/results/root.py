"""The results root as a set of named blobs that appear whole or not at all. Knows no schema.

A name is a relative path with forward slashes. On a local disk a blob is written beside its place, flushed, and moved
there in one step. Object stores (s3://, gs://) are refused by this version.
"""

from __future__ import annotations

import os
import time
import uuid
from contextlib import suppress
from pathlib import Path

from psych_ray.errors import ResultsError, UnsupportedError

_UNFINISHED = ".unfinished-"
_ABANDONED_S = 3600


class ResultsRoot:
    """A directory that parts are committed to. Cheap to make; it creates nothing until something is committed."""

    def __init__(self, root: str) -> None:
        if "://" in root:
            raise UnsupportedError(f"results.root={root}: this version writes to local paths only")
        self.root = root
        self.path = Path(root).expanduser().resolve()
        if self.path.exists() and not self.path.is_dir():
            raise ResultsError(f"results.root={root}: that is a file; name a directory")

    def commit(self, name: str, content: bytes) -> None:
        """Make `content` readable under `name`, replacing what was there. ResultsError where the disk refuses."""
        target = self.path / name
        unfinished = target.with_name(f"{_UNFINISHED}{uuid.uuid4().hex}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(target)
            _flush_directory(target.parent)
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink()
            raise ResultsError(f"{target}: cannot be written: {error.strerror or error}") from error

    def names(self, folder: str) -> list[str]:
        """Names of the Parquet files below a folder, sorted; [] where there is no such folder."""
        return sorted(path.relative_to(self.path).as_posix() for path in (self.path / folder).rglob("*.parquet"))

    def remove_unfinished(self) -> None:
        """Remove what writers that were killed left behind; young files stay, their writer may be alive."""
        for path in self.path.rglob(f"{_UNFINISHED}*"):
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                path.unlink(missing_ok=True)

    def local(self, name: str) -> Path:
        """Path to read a blob from."""
        return self.path / name


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
