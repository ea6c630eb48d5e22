"""Keeps an engine busy: prepares ahead in the background, and cuts a stream into batches. Knows nothing of models."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class Waiting:
    """How long a consumer has waited for what should have been ready, seconds."""

    seconds: float = 0.0


class Ahead(Generic[T]):
    """Iterates over `items` in a thread of its own, at most `most` ahead of whoever reads.

    An exception there is raised here, in its place. Leaving the block ends the thread.
    """

    def __init__(self, items: Iterable[T], *, most: int, waiting: Waiting) -> None:
        self._items = items
        self._waiting = waiting
        self._ready: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(most)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="psych-ray-ahead", daemon=True)

    def __enter__(self) -> Iterator[T]:
        """Start the thread."""
        self._thread.start()
        return self._read()

    def __exit__(self, *_: object) -> None:
        """End the thread, wherever it is."""
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.01)
            except queue.Empty:
                continue
        self._thread.join()

    def _read(self) -> Iterator[T]:
        while True:
            began = time.perf_counter()
            kind, item = self._ready.get()
            self._waiting.seconds += time.perf_counter() - began
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(item, BaseException)
                raise item
            yield item  # type: ignore[misc]

    def _work(self) -> None:
        try:
            for item in self._items:
                self._ready.put(("item", item))
                if self._stop.is_set():
                    return
            self._ready.put(("end", None))
        except BaseException as error:  # noqa: BLE001  whatever it is, the reader is told
            self._ready.put(("error", error))


def windows(items: Iterable[T], size: Callable[[T], int], budget: int) -> Iterator[list[T]]:
    """Cut a stream into runs whose sizes add up to `budget` or a little more."""
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
