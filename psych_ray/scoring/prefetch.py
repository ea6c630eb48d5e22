"""Prepares the input of an engine in background threads, and groups it into windows of about one size.

Does not depend on models or tokenizers. Does not import torch.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
S = TypeVar("S")


@dataclass(slots=True)
class IdleTime:
    """Time that consumers spent waiting for an item of a prefetcher."""

    seconds: float = 0.0


class Prefetcher(Generic[S, T]):
    """Iterates over `prepare(source)` of all `sources`, in their order, and prepares ahead in `threads` threads.

    A context manager that returns the iterator. `sources` are read in one thread of their own. While the results that
    are ready and not consumed have a `size` of `budget` or more together, none is begun; at most `threads + 1` that
    were begun before exceed it, and one larger than the budget is prepared like any other. An exception of `sources` or
    `prepare` is raised in the consumer, after the results before it. Leaving the block ends all threads. Waiting times
    are added to `idle`.
    """

    def __init__(
        self,
        sources: Iterable[S],
        prepare: Callable[[S], T],
        *,
        size: Callable[[T], int],
        budget: int,
        threads: int,
        idle: IdleTime,
    ) -> None:
        self._sources, self._prepare, self._size = sources, prepare, size
        self._budget, self._most_begun, self._idle = budget, threads + 1, idle
        self._pool = ThreadPoolExecutor(threads, "psych-ray-prepare")
        self._reader = threading.Thread(target=self._read, name="psych-ray-prefetch", daemon=True)
        self._changed = threading.Condition()
        """Held to read or change what follows."""
        self._results: deque[Future[T] | None] = deque()
        """In the order of the sources; None after the last."""
        self._begun = 0
        """Results that are being prepared."""
        self._ready = 0
        """Size of those that are ready and not consumed."""
        self._is_stopped = False

    def __enter__(self) -> Iterator[T]:
        """Start to read and prepare."""
        self._reader.start()
        return self._consume()

    def __exit__(self, *_: object) -> None:
        """Stop the threads and wait for their end."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
        self._reader.join()
        self._pool.shutdown(cancel_futures=True)

    def _consume(self) -> Iterator[T]:
        while True:
            began = time.perf_counter()
            try:
                result = self._next()
                if result is None:
                    return
                item = result.result()
            finally:
                self._idle.seconds += time.perf_counter() - began
            size = self._size(item)
            with self._changed:
                self._ready -= size
                self._changed.notify_all()
            yield item

    def _next(self) -> Future[T] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._results)
            return self._results.popleft()

    def _read(self) -> None:
        last: Future[T] | None = None
        try:
            for source in self._sources:
                with self._changed:
                    self._changed.wait_for(self._may_begin)
                    if self._is_stopped:
                        return
                    self._begun += 1
                    self._results.append(self._pool.submit(self._prepared, source))
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001  raised in the consumer
            last = Future()
            last.set_exception(error)
        with self._changed:
            self._results.append(last)
            self._changed.notify_all()

    def _may_begin(self) -> bool:
        return self._is_stopped or (self._ready < self._budget and self._begun < self._most_begun)

    def _prepared(self, source: S) -> T:
        size = 0
        try:
            item = self._prepare(source)
            size = self._size(item)
        except BaseException:
            with self._changed:
                self._is_stopped = True  # the consumer gets this exception, and then nothing more
            raise
        else:
            return item
        finally:
            with self._changed:
                self._begun -= 1
                self._ready += size
                self._changed.notify_all()


def windows(items: Iterable[T], size: Callable[[T], int], budget: int, first: int | None = None) -> Iterator[list[T]]:
    """Group consecutive items until their sizes add up to `budget` or more; the last group may be smaller.

    With `first`, that is the budget of the first group, and it doubles from group to group up to `budget`: who scores
    the groups begins earlier.
    """
    window: list[T] = []
    total = 0
    enough = min(budget, first or budget)
    for item in items:
        window.append(item)
        total += size(item)
        if total >= enough:
            yield window
            window, total, enough = [], 0, min(budget, 2 * enough)
    if window:
        yield window
