"""A random sample of each study's transcripts, the same for the same seed, in whatever order they are read.

A transcript is drawn by a hash of the seed and its id, so that the hub's rows and contributions of the same
participants give the same sample. Keeps ids, no texts.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from fractions import Fraction


class Sample:
    """Draws at most `n` transcripts of each study, and at most the fraction `of_study` of them, rounded down."""

    def __init__(self, n: int | None, of_study: float | None, seed: int) -> None:
        self._n = n
        self._of_study = None if of_study is None else Fraction(str(of_study))
        self._seed = seed
        self._by_study: defaultdict[str, list[tuple[bytes, str]]] = defaultdict(list)

    def add(self, study: str, transcript: str) -> None:
        """Take part in the draw, by id."""
        rank = hashlib.blake2b(f"{self._seed} {transcript}".encode(), digest_size=16).digest()
        self._by_study[study].append((rank, transcript))

    def drawn(self) -> frozenset[str]:
        """Ids of the sample."""
        return frozenset(one for ranked in self._by_study.values() for _, one in sorted(ranked)[: self._size(ranked)])

    def not_drawn(self) -> dict[str, int]:
        """Studies of which nothing is drawn, with the number of their transcripts."""
        return {study: len(ranked) for study, ranked in self._by_study.items() if not self._size(ranked)}

    def _size(self, ranked: list[tuple[bytes, str]]) -> int:
        size = len(ranked) if self._of_study is None else int(self._of_study * len(ranked))
        return size if self._n is None else min(size, self._n)
