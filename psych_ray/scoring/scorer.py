"""From transcripts to scored responses: condition, alignment, engine, sums. Usable without a cluster.

scorer = load_scorer(checkpoint, ScoringConfig())
for scored in scorer.score(transcripts, condition_named("plain")): ...

Rendering and tokenization run in background threads. Scores of equal queries (participants with the same text,
conditions that render the same text) are computed once and cached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from psych_ray.errors import TranscriptError
from psych_ray.scoring.calibration import COLUMNS, NLL_AT
from psych_ray.scoring.engines.base import Engine, Query, TokenScores
from psych_ray.scoring.prefetch import IdleTime, Prefetcher, windows
from psych_ray.scoring.score_cache import QueryKey, ScoreCache
from psych_ray.scoring.scored import Check, ScoredTranscript
from psych_ray.scoring.tokens.alignment import Alignment, align
from psych_ray.scoring.tokens.option_tokens import option_tokens
from psych_ray.scoring.tokens.parity import align_as_authors
from psych_ray.scoring.work import Work
from psych_ray.transcripts.conditions import ChatTemplate, Condition, truncate_characters
from psych_ray.transcripts.options import option_index
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.status import Status

_WINDOW_BATCHES = 8
_PREFETCHED_WINDOWS = 2
_LEAST_PREFETCHED = 2**16
"""Tokens that are prepared ahead at least, as an engine that runs one sequence at a time has small windows."""
_MOST_THREADS = 4
"""Of preparation: Python runs a fifth of it, in which one thread keeps the others, and the engine, from running."""
_MOST_BYTES_PER_TOKEN = 1000
"""A transcript that is prepared ahead and takes more counts as one of more tokens; an ordinary one takes 16."""
_BYTES_PER_CHARACTER, _BYTES_PER_SPAN = 4, 25
"""What one takes, about: for its text and ids, and for each response in each of its renderings."""


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
    keys: tuple[QueryKey, ...]
    """Of the queries; computed when they are prepared, as the engine would wait for them."""
    is_option_R: NDArray[np.bool_]
    """Which responses are an option of the participant."""

    @property
    def n_tokens(self) -> int:
        return sum(query.length for query in self.queries)

    @property
    def size(self) -> int:
        """Its tokens; more where it takes much memory for them, as with a rendering for each of many responses."""
        spans = _BYTES_PER_SPAN * len(self.is_option_R) * len(self.alignments)
        n_bytes = _BYTES_PER_CHARACTER * len(self.transcript.text) + spans
        return max(1, self.n_tokens, n_bytes // _MOST_BYTES_PER_TOKEN)


class LanguageModelScorer:
    """Scores with a language model. `calibration`: the columns of `scoring.calibration` too."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        truncation: Truncation,
        *,
        template: ChatTemplate | None = None,
        parity: bool = False,
        calibration: bool = False,
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
        self._cache = ScoreCache()
        self._calibration = calibration

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
        pass_tokens = self.engine.batch_tokens
        window_tokens = _WINDOW_BATCHES * pass_tokens
        prefetcher = Prefetcher(
            transcripts,
            partial(self.align, condition=condition),
            size=lambda aligned: aligned.size,
            budget=max(_LEAST_PREFETCHED, _PREFETCHED_WINDOWS * window_tokens),
            threads=preparation_threads(),
            idle=self._idle,
        )
        with prefetcher as stream:
            for window in windows(stream, lambda aligned: aligned.n_tokens, window_tokens, first=pass_tokens):
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
        option_R = option_index(transcript)
        options_K = option_tokens(option_R, alignments) if self._calibration else None
        queries = tuple(Query(one.token_ids_T, token_indices(one), options_K) for one in alignments)
        keys = tuple(map(QueryKey.of, queries))
        return _Aligned(transcript, tuple(alignments), queries, keys, option_R >= 0)

    def _score_window(self, window: Sequence[_Aligned]) -> Iterator[ScoredTranscript]:
        queries = [query for aligned in window for query in aligned.queries]
        keys = [key for aligned in window for key in aligned.keys]
        n_characters = sum(len(aligned.transcript.text) for aligned in window)
        with self._work.of_reading(n_characters, sum(query.length for query in queries)):
            scores = iter(self._cache.score(queries, keys, self.engine))
        for aligned in window:
            yield _sum_per_response(aligned, list(islice(scores, len(aligned.queries))))


def preparation_threads() -> int:
    """Threads that prepare transcripts: at most those that torch has, as a replica may have a part of the cores."""
    return min(_MOST_THREADS, torch.get_num_threads())


def token_indices(alignment: Alignment) -> NDArray[np.int64]:
    """Indices of all tokens to be scored, ascending, response after response."""
    counts = alignment.last_R - alignment.first_R
    total = int(counts.sum())
    before = np.cumsum(counts) - counts
    indices: NDArray[np.int64] = np.arange(total, dtype=np.int64) + np.repeat(alignment.first_R - before, counts)
    return indices


def _sum_per_response(aligned: _Aligned, scores: Sequence[TokenScores]) -> ScoredTranscript:
    """Sum the scores of tokens per response [S of R that are scored], each in the rendering in which it is scored."""
    alignments = aligned.alignments
    n = len(alignments[0].status_R)
    scored = [np.flatnonzero(one.status_R == Status.scored.code) for one in alignments]
    scored_S = np.concatenate(scored)
    counts = [one.last_R[at] - one.first_R[at] for one, at in zip(alignments, scored, strict=True)]
    counts_S = np.concatenate(counts)
    place = np.repeat(np.arange(len(scored_S)), counts_S)
    status_R = alignments[0].status_R.copy()
    n_tokens_R, nll_R, top1_R = np.zeros(n, np.int32), np.full(n, np.nan, np.float32), np.zeros(n, np.bool_)
    status_R[scored_S] = Status.scored.code
    n_tokens_R[scored_S] = counts_S
    nll_R[scored_S] = np.bincount(place, np.concatenate([one.nll_R for one in scores]), len(scored_S))
    hits_S = np.bincount(place, np.concatenate([one.top1_R for one in scores]), len(scored_S))
    top1_R[scored_S] = hits_S == counts_S
    calibration_RC = None
    if aligned.queries[0].options_K is not None:
        calibration_RC = np.full((n, len(COLUMNS)), np.nan, np.float32)
        of_tokens = [one.calibration_RC for one in scores if one.calibration_RC is not None]
        if of_tokens and len(scored_S):
            starts = np.cumsum(counts_S) - counts_S
            calibration_RC[scored_S] = np.add.reduceat(np.concatenate(of_tokens), starts, axis=0, dtype=np.float64)
        calibration_RC[~(aligned.is_option_R & (n_tokens_R == 1)), len(NLL_AT) :] = np.nan
    return ScoredTranscript(
        aligned.transcript,
        n_tokens_R=n_tokens_R,
        nll_R=nll_R,
        top1_R=top1_R,
        status_R=status_R,
        tokens_read=sum(len(alignment.token_ids_T) for alignment in alignments),
        straddling_edges=sum(alignment.straddling_edges for alignment in alignments),
        calibration_RC=calibration_RC,
    )
