"""Prepares the input of an engine in a background thread, and groups it into windows of about one size.

Does not depend on models or tokenizers. Does not import torch.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
_POLL_S = 0.01


@dataclass(slots=True)
class IdleTime:
    """Time that consumers spent waiting for an item of a prefetcher."""

    seconds: float = 0.0


class Prefetcher(Generic[T]):
    """Iterates over `items` in a background thread and buffers at most `capacity` of them.

    A context manager that returns the iterator. An exception of `items` is raised in the consumer, after the items
    before it. Leaving the block stops the thread. Waiting times are added to `idle`.
    """

    def __init__(self, items: Iterable[T], *, capacity: int, idle: IdleTime) -> None:
        self._items = items
        self._idle = idle
        self._buffer: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(capacity)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._produce, name="psych-ray-prefetch", daemon=True)

    def __enter__(self) -> Iterator[T]:
        """Start the thread."""
        self._thread.start()
        return self._consume()

    def __exit__(self, *_: object) -> None:
        """Stop the thread and wait for its end."""
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._buffer.get(timeout=_POLL_S)  # the thread may be blocked on a full buffer
            except queue.Empty:
                continue
        self._thread.join()

    def _consume(self) -> Iterator[T]:
        while True:
            began = time.perf_counter()
            kind, item = self._buffer.get()
            self._idle.seconds += time.perf_counter() - began
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(item, BaseException)
                raise item
            yield item  # type: ignore[misc]

    def _produce(self) -> None:
        try:
            for item in self._items:
                self._buffer.put(("item", item))
                if self._stop.is_set():
                    return
            self._buffer.put(("end", None))
        except BaseException as error:  # noqa: BLE001  raised in the consumer
            self._buffer.put(("error", error))


def windows(items: Iterable[T], size: Callable[[T], int], budget: int) -> Iterator[list[T]]:
    """Group consecutive items until their sizes add up to `budget` or more; the last group may be smaller."""
    window: list[T] = []
    total = 0
    for item in items:
        window.append(item)
        total += size(item)
        if total >= budget:
            yield window
            window, total = [], 0
    if window:
        yield window
