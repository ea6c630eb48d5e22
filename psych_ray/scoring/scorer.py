"""From transcripts to scored responses: condition, alignment, engine, sums. Usable without a cluster.

scorer = load_scorer(checkpoint, ScoringConfig())
for scored in scorer.score(transcripts, condition_named("plain")): ...

Rendering and tokenization run in a background thread. Scores of equal queries (participants with the same text,
conditions that render the same text) are computed once and cached.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from psych_ray.errors import TranscriptError
from psych_ray.scoring.engines.base import Engine, Query, TokenScores
from psych_ray.scoring.prefetch import IdleTime, Prefetcher, windows
from psych_ray.scoring.scored import Check, ScoredTranscript
from psych_ray.scoring.tokens.alignment import Alignment, align
from psych_ray.scoring.tokens.parity import align_as_authors
from psych_ray.scoring.work import Work
from psych_ray.transcripts.conditions import ChatTemplate, Condition, truncate_characters
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.status import Status

_PREFETCHED = 16
_WINDOW_BATCHES = 8
_CACHED_TOKENS = 8_000_000


@dataclass(frozen=True, slots=True)
class Truncation:
    """Maximum length of a rendered transcript, in tokens and in characters of its text. None: no limit."""

    tokens: int | None = None
    characters: int | None = None


@dataclass(frozen=True, slots=True)
class _Aligned:
    """A transcript and its renderings, for most conditions one, as queries to the engine."""

    transcript: Transcript
    alignments: tuple[Alignment, ...]
    queries: tuple[Query, ...]

    @property
    def n_tokens(self) -> int:
        return sum(query.length for query in self.queries)


class LanguageModelScorer:
    """Scores with a language model."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        truncation: Truncation,
        *,
        template: ChatTemplate | None = None,
        parity: bool = False,
        checks: Sequence[Check] = (),
        work: Work | None = None,
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.checks = list(checks)
        """Results of the self-check when the checkpoint was loaded."""
        self._work = work or Work()
        self._idle = IdleTime()
        self.truncation = truncation
        self._template = template
        self._align = align_as_authors if parity else align
        self._cache = _ScoreCache(_CACHED_TOKENS)

    @property
    def engine_name(self) -> str:
        """Name of the engine that runs the weights."""
        return self.engine.name

    @property
    def idle_seconds(self) -> float:
        """Time that `score` has waited for tokenization so far."""
        return self._idle.seconds

    def score(
        self, transcripts: Iterable[Transcript], condition: Condition, goes_on: Callable[[], bool] = lambda: True
    ) -> Iterator[ScoredTranscript]:
        """Score transcripts, in their order, for as long as `goes_on()`, which is asked before each window of them."""
        aligned = (self.align(transcript, condition) for transcript in transcripts)
        with Prefetcher(aligned, capacity=_PREFETCHED, idle=self._idle) as stream:
            for window in windows(stream, lambda a: a.n_tokens, _WINDOW_BATCHES * self.engine.batch_tokens):
                if not goes_on():
                    return
                yield from self._score_window(window)

    def clear_cache(self) -> None:
        """Remove cached scores, so that the engine computes them again."""
        self._cache.clear()

    def straddling_edges(self, transcript: Transcript, condition: Condition) -> int:
        """Number of edges of responses that lie within a scored token."""
        return sum(alignment.straddling_edges for alignment in self.align(transcript, condition).alignments)

    def align(self, transcript: Transcript, condition: Condition) -> _Aligned:
        """Render and tokenize one transcript. TranscriptError, with its id, where the condition cannot render it."""
        alignments = []
        try:
            for rendering in condition.renderings(transcript, self._template):
                if self.truncation.characters is not None:
                    rendering = truncate_characters(rendering, self.truncation.characters)
                alignments.append(self._align(rendering, self.tokenizer, self.truncation.tokens))
                self._work.add()
        except TranscriptError as error:
            raise TranscriptError(str(error), transcript.id) from error
        queries = tuple(Query(alignment.token_ids_T, token_indices(alignment)) for alignment in alignments)
        return _Aligned(transcript, tuple(alignments), queries)

    def _score_window(self, window: Sequence[_Aligned]) -> Iterator[ScoredTranscript]:
        queries = {_key(query): query for aligned in window for query in aligned.queries}
        scores = {key: cached for key in queries if (cached := self._cache.get(key)) is not None}
        new = [key for key in queries if key not in scores]
        for key, computed in zip(new, self.engine.score([queries[key] for key in new]), strict=True):
            scores[key] = computed
            self._cache.add(key, computed)
        for aligned in window:
            yield _sum_per_response(aligned, [scores[_key(query)] for query in aligned.queries])


class _ScoreCache:
    """The most recent scores of the engine, up to `capacity` scored tokens in all."""

    def __init__(self, capacity: int) -> None:
        self._capacity = self._free = capacity
        self._scores: OrderedDict[tuple[bytes, bytes], TokenScores] = OrderedDict()

    def clear(self) -> None:
        self._scores.clear()
        self._free = self._capacity

    def get(self, key: tuple[bytes, bytes]) -> TokenScores | None:
        return self._scores.get(key)

    def add(self, key: tuple[bytes, bytes], scores: TokenScores) -> None:
        self._scores[key] = scores
        self._free -= len(scores.nll_R)
        while self._free < 0:
            _, oldest = self._scores.popitem(last=False)
            self._free += len(oldest.nll_R)


def _key(query: Query) -> tuple[bytes, bytes]:
    """Hashes of the tokens up to the last scored one and of the scored indices: equal for queries with equal scores."""
    last = query.length + 1 if query.length else 0
    return (
        hashlib.blake2b(query.token_ids_T[:last].tobytes(), digest_size=16).digest(),
        hashlib.blake2b(query.at_R.tobytes(), digest_size=16).digest(),
    )


def token_indices(alignment: Alignment) -> NDArray[np.int64]:
    """Indices of all tokens to be scored, ascending, response after response."""
    counts = alignment.last_R - alignment.first_R
    total = int(counts.sum())
    before = np.cumsum(counts) - counts
    indices: NDArray[np.int64] = np.arange(total, dtype=np.int64) + np.repeat(alignment.first_R - before, counts)
    return indices


def _sum_per_response(aligned: _Aligned, scores: Sequence[TokenScores]) -> ScoredTranscript:
    """Sum the scores of tokens per response; each response comes from the rendering in which it is scored."""
    n = len(aligned.alignments[0].status_R)
    status_R = aligned.alignments[0].status_R.copy()
    n_tokens_R, nll_R, top1_R = np.zeros(n, np.int32), np.full(n, np.nan, np.float32), np.zeros(n, np.bool_)
    for alignment, of_tokens in zip(aligned.alignments, scores, strict=True):
        counts = alignment.last_R - alignment.first_R
        response = np.repeat(np.arange(n), counts)
        is_scored = alignment.status_R == Status.scored.code
        hits = np.bincount(response, weights=of_tokens.top1_R, minlength=n)
        status_R[is_scored] = Status.scored.code
        n_tokens_R[is_scored] = counts[is_scored]
        nll_R[is_scored] = np.bincount(response, weights=of_tokens.nll_R, minlength=n)[is_scored]
        top1_R[is_scored] = (hits == counts)[is_scored]
    return ScoredTranscript(
        aligned.transcript,
        n_tokens_R=n_tokens_R,
        nll_R=nll_R,
        top1_R=top1_R,
        status_R=status_R,
        tokens_read=sum(len(alignment.token_ids_T) for alignment in aligned.alignments),
        straddling_edges=sum(alignment.straddling_edges for alignment in aligned.alignments),
    )
