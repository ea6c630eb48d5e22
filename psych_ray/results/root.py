"""The results root as a set of named blobs that appear whole or not at all. Knows no schema.

A name is a relative path with forward slashes. On a local disk a blob is written beside its place, flushed, and moved
there in one step. Object stores (s3://, gs://) are refused by this version.
"""

from __future__ import annotations

import time
from pathlib import Path

from psych_ray.atomic import UNFINISHED, write_atomically
from psych_ray.errors import ResultsError, UnsupportedError

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
        try:
            write_atomically(target, content)
        except OSError as error:
            raise ResultsError(f"{target}: cannot be written: {error.strerror or error}") from error

    def names(self, folder: str) -> list[str]:
        """Names of the Parquet files below a folder, sorted; [] where there is no such folder."""
        return sorted(path.relative_to(self.path).as_posix() for path in (self.path / folder).rglob("*.parquet"))

    def remove_unfinished(self) -> None:
        """Remove what writers that were killed left behind; young files stay, their writer may be alive."""
        for path in self.path.rglob(f"{UNFINISHED}*"):
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                path.unlink(missing_ok=True)

    def local(self, name: str) -> Path:
        """Path to read a blob from."""
        return self.path / name
