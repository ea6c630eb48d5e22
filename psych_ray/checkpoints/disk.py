"""Checkpoints on a node's own disk: fetched there once, from the hub or a shared directory, within a limit of bytes.

Any number of processes of a node may use one directory at a time. The files of a checkpoint are there whole or not at
all; what was not used for longest is removed when room is needed, never what a live process loads. A checkpoint that
lies in a directory is read there where its copy finds no room. Does not import torch or Ray.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from psych_ray.checkpoints import hub
from psych_ray.checkpoints.copying import SourceFile, copy_files, files_of, flush
from psych_ray.checkpoints.disk_entry import STATE, Entry, entries, locked
from psych_ray.checkpoints.find import Checkpoint
from psych_ray.checkpoints.fingerprints import combined, fingerprint_of_files
from psych_ray.checkpoints.weight_files import ADAPTER, MODEL, weight_files
from psych_ray.errors import CheckpointError, PsychRayError, UnreachableError, first_line

POLL_S = 0.1
"""How often a process looks whether another one has fetched what it waits for."""
_SHARE_OF_FREE = 0.9
_ATTEMPTS = 3
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True, slots=True)
class Fetched:
    """Checkpoints as they are to be loaded."""

    checkpoints: tuple[Checkpoint, ...]
    notes: tuple[str, ...]
    """A line for each that is read where it lies, with the reason."""


class WeightsDisk:
    """A directory on this machine's own disk that holds copies of checkpoints.

    `limit_gb`: their size, 1e9 bytes; None: 90 % of what is free and what they take.
    """

    def __init__(self, directory: str | Path, limit_gb: float | None = None, *, allow_pickle: bool = False) -> None:
        self._directory = Path(directory).expanduser()
        self._root = self._directory / f"psych-ray-{os.geteuid()}"
        self._limit_bytes = None if limit_gb is None else limit_gb * 1e9
        self._allow_pickle = allow_pickle

    @contextmanager
    def fetched(
        self, checkpoints: Sequence[Checkpoint], *, on_bytes: Callable[[], None] = lambda: None
    ) -> Iterator[Fetched]:
        """Fetch checkpoints, and the bases of adapters; within the context their copies are not removed.

        `on_bytes` is called, from several threads, as bytes come, also those that another process fetches. Errors as
        of `hub.fetch`; CheckpointError where files are no longer those that were planned with, or one from the hub is
        larger than the limit; UnreachableError where there is no room for one from the hub now.
        """
        notes: list[str] = []
        with ExitStack() as uses:
            fetch = _Fetch(self, uses, on_bytes, notes)
            yield Fetched(tuple(fetch(checkpoint) for checkpoint in checkpoints), tuple(notes))

    def holds(self, checkpoints: Sequence[Checkpoint]) -> bool:
        """Whether copies of all these, and of the bases of adapters, are here. Reads no content."""
        wanted = {one.slug: one for c in checkpoints for one in (c, c.base_of_adapter) if one and not one.reference}
        try:
            return all(self._source(checkpoint).entry.is_whole() for checkpoint in wanted.values())
        except (OSError, CheckpointError):
            return False

    def _source(self, checkpoint: Checkpoint) -> _Source:
        return _Source(self._root, checkpoint, self._allow_pickle)

    def _prepare(self) -> None:
        """Make the directory; nobody else may write there what this process then loads. OSError."""
        self._root.mkdir(parents=True, exist_ok=True)
        if self._root.lstat().st_uid != os.geteuid():  # of the link, where another user made it one
            raise PermissionError(errno.EACCES, "belongs to another user", str(self._root))
        self._root.chmod(0o700)
        (self._root / STATE).mkdir(exist_ok=True)

    def _make_room(self, entry: Entry, size: int) -> None:
        """Remove what was not used for longest until `size` bytes fit, and reserve them. _NoRoomError, OSError."""
        with locked(self._root / STATE / "room"), ExitStack() as locks:
            everything = entries(self._root)
            others = sorted((other for other in everything if other.key != entry.key), key=lambda other: other.used_at)
            free = shutil.disk_usage(self._root).free + sum(other.present_bytes for other in everything)
            limit = _SHARE_OF_FREE * free if self._limit_bytes is None else min(self._limit_bytes, free)
            taken = sum(other.reserved_bytes for other in others)
            unused = []
            for other in others:
                if size + taken <= limit:
                    break
                if (lock := other.try_lock(shared=False)) is not None:
                    locks.callback(os.close, lock)
                    unused.append(other)
                    taken -= other.reserved_bytes
            if size + taken > limit:
                if self._limit_bytes is not None and size > self._limit_bytes:
                    raise _NoRoomError(size, self._limit_bytes, taken, is_final=True)
                raise _NoRoomError(size, limit, taken, is_final=False)
            for other in unused:
                other.remove()
            entry.reserve(size)


class _NoRoomError(Exception):
    """A copy has no room."""

    def __init__(self, size: int, limit: float, taken: int, *, is_final: bool) -> None:
        super().__init__(
            f"it has {size / 1e9:.3g} GB, and checkpoints.disk_gb={limit / 1e9:.3g} is less"
            if is_final
            else f"it has {size / 1e9:.3g} GB; of {limit / 1e9:.3g} GB there, {taken / 1e9:.3g} GB are in use or being "
            "fetched"
        )
        self.is_final = is_final


@dataclass(slots=True)
class _Source:
    """Where a checkpoint lies, and where its copy belongs."""

    root: Path
    checkpoint: Checkpoint
    allow_pickle: bool

    @property
    def directory(self) -> Path | None:
        path = self.checkpoint.card.path
        return Path(path) if path else None

    @property
    def entry(self) -> Entry:
        """Named by all that identifies the files; those of a directory that was changed are others."""
        checkpoint = self.checkpoint
        code = checkpoint.card.trust_remote_code
        listing = [] if self.directory is None else self.listing(self.directory)
        digest = hashlib.blake2b(
            repr((checkpoint.fingerprint, self.allow_pickle, code, listing)).encode(), digest_size=8
        )
        return Entry(self.root, f"{checkpoint.slug}-{digest.hexdigest()}")

    def listing(self, directory: Path) -> list[SourceFile]:
        card = self.checkpoint.card
        return files_of(directory, adapter=card.adapter, allow_pickle=self.allow_pickle, code=card.trust_remote_code)

    def fingerprint(self, directory: Path) -> str:
        card = self.checkpoint.card
        weights = weight_files(directory, name=ADAPTER if card.adapter else MODEL, allow_pickle=self.allow_pickle)
        return fingerprint_of_files(directory, weights, code=card.trust_remote_code and not card.adapter)

    def is_planned(self, fingerprint: str) -> bool:
        """Whether this is the fingerprint of the files that were planned with; those of the hub have their commit."""
        base = self.checkpoint.base_of_adapter
        more = base.fingerprint if base else self.checkpoint.card.quantization
        return self.directory is None or combined(fingerprint, more) == self.checkpoint.fingerprint


@dataclass(slots=True)
class _Fetch:
    """Fetches checkpoints for one use, which lasts as long as the locks in `uses`."""

    disk: WeightsDisk
    uses: ExitStack
    on_bytes: Callable[[], None]
    notes: list[str]

    def __call__(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with its copy, and that of its base; without one where it is read where it lies."""
        if checkpoint.reference:
            return checkpoint
        base = checkpoint.base_of_adapter
        return replace(checkpoint, copy=self._copy(checkpoint), base_of_adapter=self(base) if base else None)

    def _copy(self, checkpoint: Checkpoint) -> str | None:
        source = self.disk._source(checkpoint)
        try:
            self.disk._prepare()
            return str(self._whole(source).files)
        except (_NoRoomError, OSError) as error:
            name, where = checkpoint.card.id, f"checkpoints.disk={self.disk._directory} on {socket.gethostname()}"
            reason = first_line(error)
            if source.directory or hub.cached(checkpoint.card, allow_pickle=self.disk._allow_pickle):
                self.notes.append(f"{name}: read where it lies, not from {where}: {reason}")
                return None
            if isinstance(error, _NoRoomError) and error.is_final:
                raise CheckpointError(f"{name}: {where} cannot take it: {reason}; raise the limit") from error
            raise UnreachableError(
                f"{name}: {where} cannot take it: {reason}; free space there, or name another directory"
            ) from error

    def _whole(self, source: _Source) -> Entry:
        """Its copy, locked for this use. _NoRoomError, OSError where there can be none."""
        entry, seen, made = source.entry, -1, 0
        while made < _ATTEMPTS:
            if (lock := entry.try_lock(shared=True)) is not None:
                with ExitStack() as unless_whole:
                    unless_whole.callback(os.close, lock)
                    if entry.is_whole(source.fingerprint):
                        entry.touch()
                        self.uses.push(unless_whole.pop_all())
                        return entry
            if (lock := entry.try_lock(shared=False)) is not None:
                try:
                    self._make(source, entry)
                finally:
                    os.close(lock)
                made += 1
                continue
            if seen != (seen := entry.present_bytes):
                self.on_bytes()
            time.sleep(POLL_S)
        raise OSError(errno.EIO, "what was written there is not what is read", str(entry.files))

    def _make(self, source: _Source, entry: Entry) -> None:
        """Make it whole; its lock is held, for this process alone."""
        if entry.is_whole(source.fingerprint):
            return
        if entry.was_whole or entry.may_have_holes:  # who knows where
            entry.remove()
        is_continued = entry.files.exists()
        try:
            self._get(source, entry)
        except _NoRoomError:
            entry.remove()
            raise
        except BaseException as error:
            if _is_full(error):
                entry.remove()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise
        try:
            fingerprint = source.fingerprint(entry.files)
        except CheckpointError:
            entry.remove()
            if is_continued:
                return
            raise
        if not source.is_planned(fingerprint):
            entry.remove()
            if is_continued:  # from a beginning that the disk did not keep as it was; the next attempt has none
                return
            raise CheckpointError(
                f"{source.checkpoint.card.id}: the files in {source.directory} are no longer those that the sweep was "
                "planned with; run the command again"
            )
        entry.complete(fingerprint)

    def _get(self, source: _Source, entry: Entry) -> None:
        card, pickles = source.checkpoint.card, self.disk._allow_pickle
        directory = source.directory
        if directory is None:
            try:
                size = hub.size_on_hub(card, allow_pickle=pickles)
            except PsychRayError:
                directory = hub.cached(card, allow_pickle=pickles)
                if directory is None:
                    raise
        if directory is None:
            self.disk._make_room(entry, size)
            for unfinished in entry.files.glob(".cache/**/*.incomplete"):
                unfinished.unlink()  # of a killed process; the hub's client continues only files of its own process
            hub.fetch(card, allow_pickle=pickles, on_bytes=self.on_bytes, into=entry.files)
            for path in entry.files.rglob("*"):
                flush(path)
        else:
            files = source.listing(directory)
            self.disk._make_room(entry, sum(file.size for file in files))
            copy_files(directory, files, entry.files, self.on_bytes)
            if source.listing(directory) != files:  # fingerprints are of samples
                entry.remove()
                raise OSError(errno.EIO, "changed while it was copied", str(directory))
        shutil.rmtree(entry.files / ".cache", ignore_errors=True)  # what the hub's client notes about its downloads


def _is_full(error: BaseException) -> bool:
    """Whether an error, or one that caused it, says that a disk or a quota is full."""
    return any(isinstance(cause, OSError) and cause.errno in _FULL for cause in hub.causes(error))
