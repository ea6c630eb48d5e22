"""Scores equal queries once: participants with the same text, conditions that render the same text.

Does not depend on transcripts or on how an engine works.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

from psych_ray.scoring.engines.base import Engine, Query, TokenScores

_ByOptions: TypeAlias = dict[bytes, TokenScores]
"""Scores of queries that differ in their options only."""

_BYTES = 128 * 2**20
_ENTRY_BYTES = 1024
"""Of a query's scores beside their arrays, about."""


class QueryKey(NamedTuple):
    """Hashes, equal for queries with equal scores."""

    tokens: bytes
    """Of the tokens up to the last scored one, and of the scored indices."""
    options: bytes

    @classmethod
    def of(cls, query: Query) -> QueryKey:
        """Hash a query."""
        last = query.length + 1 if query.length else 0
        options = b"" if query.options_K is None else b"options" + query.options_K.tobytes()
        return cls(_hash(query.token_ids_T[:last].tobytes()) + _hash(query.at_R.tobytes()), options)


class ScoreCache:
    """The most recent scores of an engine, `n_bytes` of them at most."""

    def __init__(self, *, n_bytes: int = _BYTES) -> None:
        self._capacity = self._free = n_bytes
        self._scores: OrderedDict[bytes, _ByOptions] = OrderedDict()

    def clear(self) -> None:
        """Remove all scores, so that the engine computes them again."""
        self._scores.clear()
        self._free = self._capacity

    def score(self, queries: Sequence[Query], keys: Sequence[QueryKey], engine: Engine) -> list[TokenScores]:
        """The engine's scores, one result per query, in order; those with equal `keys` are scored once.

        Queries that differ in their options only have the same NLLs, to the last bit, and options do not decide what
        the engine computes in one call: it is called again for the other options.
        """
        found: dict[bytes, _ByOptions] = {key.tokens: dict(self._scores.get(key.tokens, {})) for key in keys}
        first: dict[bytes, QueryKey] = {}
        for key in keys:
            first.setdefault(key.tokens, key)
        unique = dict(zip(keys, queries, strict=True))
        self._compute({key: unique[key] for tokens, key in first.items() if not found[tokens]}, found, engine)
        other_options = {key: query for key, query in unique.items() if key.options not in found[key.tokens]}
        self._compute(other_options, found, engine)
        return [found[key.tokens][key.options] for key in keys]

    def _compute(self, missing: Mapping[QueryKey, Query], found: Mapping[bytes, _ByOptions], engine: Engine) -> None:
        """Add the scores of these queries to `found` and to the cache."""
        computed = engine.score(list(missing.values())) if missing else []
        for key, scores in zip(missing, computed, strict=True):
            same_tokens = found[key.tokens]
            for other in same_tokens.values():
                scores = replace(scores, nll_R=other.nll_R, top1_R=other.top1_R)
            same_tokens[key.options] = scores
            self._add(key, scores)

    def _add(self, key: QueryKey, scores: TokenScores) -> None:
        self._scores.setdefault(key.tokens, {})[key.options] = scores
        self._free -= _size(scores)
        while self._free < 0:
            _, oldest = self._scores.popitem(last=False)
            self._free += sum(map(_size, oldest.values()))


def _size(scores: TokenScores) -> int:
    arrays = (scores.nll_R, scores.top1_R, scores.calibration_RC)
    return _ENTRY_BYTES + sum(array.nbytes for array in arrays if array is not None)


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
