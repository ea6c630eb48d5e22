"""Sets of transcripts, one bit of a byte each: a root may hold tens of millions of transcripts x tasks.

The ids of a table are numbered once; a set is an array over the numbers. Does not depend on where tables are stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class TranscriptIds:
    """Ids of transcripts, numbered from 0 in the order in which they were first seen."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._ids: list[str] = []

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, number: int) -> str:
        return self._ids[number]

    def number(self, one: str) -> int | None:
        """Number of an id; None where it has none."""
        return self._numbers.get(one)

    def numbers(self, ids: Iterable[str]) -> NDArray[np.int64]:
        """Number of each id, -1 where it has none."""
        return np.fromiter((self._numbers.get(one, -1) for one in ids), np.int64)

    def add(self, ids: Iterable[str]) -> NDArray[np.int64]:
        """Number of each id; an id that has none gets the next."""
        numbers = []
        for one in ids:
            number = self._numbers.setdefault(one, len(self._ids))
            if number == len(self._ids):
                self._ids.append(one)
            numbers.append(number)
        return np.array(numbers, np.int64)

    def encode(self, lists: pa.ChunkedArray) -> pa.Array:
        """The same lists with numbers in place of ids, which are added."""
        ids = lists.combine_chunks()
        ids = ids if isinstance(ids, pa.Array) else pa.concat_arrays(ids.chunks)
        ends = np.cumsum(ids.value_lengths().to_numpy(zero_copy_only=False), dtype=np.int32)
        encoded = ids.flatten().dictionary_encode()
        numbers = self.add(encoded.dictionary.to_pylist()).astype(np.int32)
        values = numbers[encoded.indices.to_numpy(zero_copy_only=False)]
        return pa.ListArray.from_arrays(np.concatenate([[np.int32(0)], ends]), pa.array(values, pa.int32()))

    def decode(self, lists: pa.ListArray) -> pa.ListArray:
        """The reverse of `encode`."""
        used, values = np.unique(lists.flatten().to_numpy(zero_copy_only=False), return_inverse=True)
        ids = pa.array([self._ids[number] for number in used], pa.string()).take(pa.array(values, pa.int32()))
        ends = np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False), dtype=np.int32)
        return pa.ListArray.from_arrays(np.concatenate([[np.int32(0)], ends]), ids)


class TranscriptSet(Set[str]):
    """Ids of transcripts, all of them numbered by the same `TranscriptIds`. Sets are only added to."""

    def __init__(self, ids: TranscriptIds, numbers: NDArray[np.integer] | None = None) -> None:
        """Hold the ids of these numbers."""
        self._ids = ids
        self._is_in = np.zeros(len(ids), np.bool_)
        if numbers is not None:
            self._is_in[numbers] = True
        self._n = int(np.count_nonzero(self._is_in))

    def __len__(self) -> int:
        return self._n

    def __contains__(self, one: object) -> bool:
        number = self._ids.number(one) if isinstance(one, str) else None
        return number is not None and number < len(self._is_in) and bool(self._is_in[number])

    def __iter__(self) -> Iterator[str]:
        return (self._ids[number] for number in np.flatnonzero(self._is_in).tolist())

    def isdisjoint(self, other: Iterable[str]) -> bool:
        """Whether none of these ids is in the set."""
        return not any(one in self for one in other)

    def update(self, ids: Iterable[str]) -> None:
        """Add ids."""
        numbers = self._ids.add(ids)
        if len(self._ids) > len(self._is_in):
            more = max(len(self._ids), 2 * len(self._is_in)) - len(self._is_in)
            self._is_in = np.concatenate([self._is_in, np.zeros(more, np.bool_)])
        self._is_in[numbers] = True
        self._n = int(np.count_nonzero(self._is_in))

    def holds(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the ids of these numbers, as `TranscriptIds.numbers` gives them, are in the set."""
        held = np.zeros(len(numbers), np.bool_)
        known = (numbers >= 0) & (numbers < len(self._is_in))
        held[known] = self._is_in[numbers[known]]
        return held

    @classmethod
    def _from_iterable(cls, ids: Iterable[str]) -> Set[str]:  # type: ignore[override]  # differences are plain sets
        return frozenset(ids)


def is_repeated(numbers: NDArray[np.integer], n_ids: int) -> bool:
    """Whether a number below `n_ids` is there twice."""
    return bool(len(numbers)) and int(np.bincount(numbers, minlength=n_ids).max()) > 1


def committed_among(sets: Sequence[TranscriptSet], ids: Sequence[str]) -> list[NDArray[np.bool_]]:
    """For each set, which of these ids it holds. The sets are of one table."""
    if not sets:
        return []
    numbers = sets[0]._ids.numbers(ids)
    return [one.holds(numbers) for one in sets]
