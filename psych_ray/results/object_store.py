"""The results store in a bucket: `s3://` and `gs://`, on obstore.

Every operation is retried here, and not by obstore, which repeats neither a conditional write nor a listing: one
deadline holds for all, a write whose answer was lost is recognised, and Ctrl-C ends a request that is under way.
Does not depend on what is stored, nor on how credentials are found.
"""

from __future__ import annotations

import asyncio
import io
import os
import random
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError

from psych_ray.ending import ENDING
from psych_ray.errors import ResultsError, UnreachableError
from psych_ray.results import object_errors, object_options
from psych_ray.results.object_options import Limits
from psych_ray.results.store import StoredFile

T = TypeVar("T")

_ONE_REQUEST_BYTES = 32 << 20
"""Longer contents take several requests, so that the limit of one request suits all."""
_PART_BYTES = 8 << 20
_CONCURRENT = 8
_BUFFER_BYTES = 256 << 10
_REMOVED_AT_ONCE = 1000
_LISTED_AT_ONCE = 1000
_WRITER = "psych-ray-writer"
"""Metadata of what `create` writes: who wrote it, where the answer to the request was lost."""
_WHILE_ENDING_S = 3.0
"""For how long an operation is repeated while the process cleans up after a signal."""
_FAILURES = (BaseError, OSError, ValueError)


class ObjectStore:
    """A store in a bucket, which must exist.

    Methods raise ResultsError where a repetition would not help, and UnreachableError where the store still did not
    answer, or limited requests, after `limits.retry_s` seconds. Both name the object.
    """

    def __init__(self, root: str, *, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._bucket = object_options.parse_root(root)
        self._client: Any = object_options.connect(self._bucket, self._limits)
        self._answered = False
        self._conditional = False

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(ObjectStore, limits=self._limits), (self.location,)

    def __repr__(self) -> str:
        return f"ObjectStore({self.location!r})"

    @property
    def location(self) -> str:
        """URI of the store, without credentials."""
        return self._bucket.location

    @property
    def delta_options(self) -> dict[str, str]:
        """`storage_options` for deltalake. Holds no secret: it finds the same credentials itself."""
        return object_options.delta_options(self._bucket, self._client, self._limits)

    @property
    def retry_s(self) -> float:
        """For how long an operation that gets no answer is repeated; shorter after a signal that ends the process."""
        longest = self._limits.retry_s
        return min(longest, max(_WHILE_ENDING_S, ENDING.seconds_left)) if ENDING.is_asked else longest

    def require_answer(self) -> None:
        """Raise UnreachableError, after `limits.first_s` seconds, where nothing answers; ResultsError for no bucket."""
        try:
            self._require_bucket(within_s=self._limits.first_s)
        except UnreachableError as error:
            raise UnreachableError(
                f"{error}: check the network, {object_options.endpoint_setting(self._bucket)}"
            ) from error

    def write(self, name: str, content: bytes) -> None:
        """Make `content` readable under `name`, whole or not at all, replacing what was there.

        Long contents take several requests; what a killed process leaves of them is not readable, and a lifecycle rule
        of the bucket ("abort incomplete multipart uploads") removes it.
        """
        several = len(content) > _ONE_REQUEST_BYTES
        put = partial(
            obstore.put_async,
            self._client,
            name,
            content,
            use_multipart=several,
            chunk_size=_PART_BYTES,
            max_concurrency=_CONCURRENT,
        )
        self._repeat(put, name, "written", requests=1 + (len(content) // _PART_BYTES if several else 0))

    def create(self, name: str, content: bytes) -> bool:
        """Write `content` where there is no file of this name; False where there is one.

        A lost answer is no failure: the file is then recognised as this call's own. After UnreachableError it may be
        there or not. ResultsError for a bucket that cannot write on a condition.
        """
        writer = uuid.uuid4().hex
        created: bool = self._repeat(partial(self._create, name, content, writer), name, "created")
        if created and not self._conditional:
            again = self._repeat(partial(self._create, name, content, uuid.uuid4().hex), name, "created")
            if again:
                raise ResultsError(
                    f"{self._path(name)}: this store ignores If-None-Match, without which two sweeps could replace "
                    "each other's results: use a store that has conditional writes"
                )
            self._conditional = True
        return created

    def read(self, name: str) -> bytes:
        """Return the whole content of a file."""
        whole = self._repeat(partial(self._read_short, name), name, "read")
        if isinstance(whole, bytes):
            return whole
        size, version = whole
        read = partial(self._read_range, name, version)
        return b"".join(
            read(start, min(start + _ONE_REQUEST_BYTES, size)) for start in range(0, size, _ONE_REQUEST_BYTES)
        )

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading; seekable. Only what is read is fetched, and always of the same version."""
        try:
            meta = self._repeat(partial(obstore.head_async, self._client, name), name, "read")
        except ResultsError:
            self._require_bucket()
            raise
        return io.BufferedReader(
            _Ranges(partial(self._read_range, name, meta["e_tag"]), meta["size"]), buffer_size=_BUFFER_BYTES
        )

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name. ResultsError where there is no bucket."""
        found: bool = self._repeat(partial(self._exists, name), name, "found")
        if not found:
            self._require_bucket()
        return found

    def files(self, folder: str) -> list[StoredFile]:
        """All files below a folder, sorted by name; [] where there is none. S3 tells the time in whole seconds."""
        found: dict[str, StoredFile] = {}
        self._repeat(partial(self._list, folder, found), folder, "listed")
        self._answered = True
        return [found[name] for name in sorted(found)]

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are not there are ignored."""
        rest = list(names)
        while rest:
            now, rest = rest[:_REMOVED_AT_ONCE], rest[_REMOVED_AT_ONCE:]
            self._repeat(partial(self._remove, now), now[0], "removed", requests=len(now))

    def local_path(self, name: str) -> Path | None:
        """None: objects are not on this machine's file systems."""
        return None

    def remove_unfinished(self) -> None:
        """Nothing: an object is whole or not there. See `write` for what killed processes leave."""

    def _path(self, name: str) -> str:
        return f"{self.location}/{name}".rstrip("/")

    def _require_bucket(self, within_s: float | None = None) -> None:
        """S3 answers HEAD without a body: an object that is missing cannot be told from a bucket that is."""
        if not self._answered:
            self._repeat(partial(obstore.list_with_delimiter_async, self._client), "", "listed", within_s=within_s)
            self._answered = True

    async def _create(self, name: str, content: bytes, writer: str) -> bool:
        try:
            await obstore.put_async(self._client, name, content, mode="create", attributes={_WRITER: writer})
        except AlreadyExistsError as error:
            try:
                there = await obstore.get_async(self._client, name, options={"head": True})
            except FileNotFoundError:  # S3 also answers 409 while another request creates or removes the object
                raise TimeoutError from error
            return there.attributes.get(_WRITER) == writer
        return True

    async def _read_short(self, name: str) -> bytes | tuple[int, str | None]:
        answer = await obstore.get_async(self._client, name)
        if answer.meta["size"] > _ONE_REQUEST_BYTES:
            return answer.meta["size"], answer.meta["e_tag"]
        return bytes(await answer.bytes_async())

    def _read_range(self, name: str, version: str | None, start: int, end: int) -> bytes:
        async def read() -> bytes:
            answer = await obstore.get_async(self._client, name, options={"range": (start, end), "if_match": version})
            return bytes(await answer.bytes_async())

        return self._repeat(read, name, "read")

    async def _exists(self, name: str) -> bool:
        try:
            await obstore.head_async(self._client, name)
        except FileNotFoundError:
            return False
        return True

    async def _list(self, folder: str, found: dict[str, StoredFile]) -> None:
        """Add to `found`; a repetition goes on after what an earlier attempt has listed."""
        start = max(found, default=None)
        async for batch in obstore.list(self._client, folder, offset=start, chunk_size=_LISTED_AT_ONCE):
            for meta in batch:
                name = meta["path"]
                found[name] = StoredFile(name, meta["size"], meta["last_modified"].timestamp())

    async def _remove(self, names: list[str]) -> None:
        if self._bucket.scheme == "s3":
            await obstore.delete_async(self._client, names)
            return
        for name in names:  # one by one: an absent one fails, and ends what was asked for together with it
            with suppress(FileNotFoundError):
                await obstore.delete_async(self._client, name)

    def _repeat(
        self,
        operation: Callable[[], Awaitable[T]],
        name: str,
        what: str,
        requests: int = 1,
        within_s: float | None = None,
    ) -> T:
        """Carry out until it succeeds, fails for good, or the time for retries, or `within_s`, is over."""
        limits, started = self._limits, time.monotonic()
        longest_s = limits.connect_s + limits.request_s * requests
        for attempt in range(1_000_000):
            left_s = longest_s if within_s is None else within_s - (time.monotonic() - started)
            try:
                return _run(operation, min(longest_s, max(left_s, 0.1)))
            except _FAILURES as error:
                spent_s = time.monotonic() - started
                retry_s = self.retry_s if within_s is None else within_s
                if not object_errors.is_transient(error) or spent_s > retry_s:
                    address = object_options.endpoint(self._bucket)
                    raise object_errors.explain(error, self._path(name), what, spent_s, address) from error
            pause_s = object_options.pause_s(attempt) * random.uniform(0.5, 1)  # noqa: S311
            time.sleep(min(pause_s, retry_s - spent_s))
        raise AssertionError("the deadline ends this earlier")


class _Ranges(io.RawIOBase):
    """A file of which each read is a request."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        self._fetch, self._size, self._at = fetch, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"a file has no place {start + offset}")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        content = self._fetch(self._at, end)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


@cache
def _loop() -> tuple[int, asyncio.AbstractEventLoop]:
    """A running loop in a thread of its own, and its process; obstore's blocking functions do not return at Ctrl-C."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="object-store", daemon=True).start()
    return os.getpid(), loop


def _run(operation: Callable[[], Awaitable[T]], longest_s: float) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(longest_s):
            return await operation()

    process, loop = _loop()
    assert process == os.getpid(), "neither this thread nor those of obstore are in a forked process: spawn it"
    coroutine: Coroutine[Any, Any, T] = bounded()
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
