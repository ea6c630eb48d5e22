"""From transcripts to scored responses: condition, alignment, engine, sums. Usable without a cluster.

scorer = load_scorer(checkpoint, ScoringConfig())
for scored in scorer.score(transcripts, condition_named("plain")): ...

Rendering and tokenizing run ahead in the background. What an engine has been asked before (another participant with the
same text, another condition that renders the same) is not asked again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
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
from psych_ray.transcripts.conditions import ChatTemplate, Condition, truncate_characters
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.status import Status

_PREFETCHED = 16
_WINDOW_BATCHES = 8
_REMEMBERED_TOKENS = 8_000_000


@dataclass(frozen=True, slots=True)
class Cut:
    """Where transcripts end: at so many characters of the rendered text, and at so many tokens. None: no end."""

    tokens: int | None = None
    characters: int | None = None


@dataclass(frozen=True, slots=True)
class _Aligned:
    """A transcript and its renderings, most often one, as questions to the engine."""

    transcript: Transcript
    alignments: tuple[Alignment, ...]
    queries: tuple[Query, ...]

    @property
    def length(self) -> int:
        return sum(query.length for query in self.queries)


class LanguageModelScorer:
    """Scores with a language model."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        cut: Cut,
        *,
        template: ChatTemplate | None = None,
        parity: bool = False,
        checks: Sequence[Check] = (),
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.checks = list(checks)
        """What the self-check saw."""
        self._idle = IdleTime()
        self._cut = cut
        self._template = template
        self._align = align_as_authors if parity else align
        self._known = _Known(_REMEMBERED_TOKENS)

    @property
    def engine_name(self) -> str:
        """How the weights are held."""
        return self.engine.name

    @property
    def idle_seconds(self) -> float:
        """Time that `score` has waited for tokenization so far."""
        return self._idle.seconds

    def score(self, transcripts: Iterable[Transcript], condition: Condition) -> Iterator[ScoredTranscript]:
        """Score transcripts, in their order."""
        aligned = (self.align(transcript, condition) for transcript in transcripts)
        with Prefetcher(aligned, capacity=_PREFETCHED, idle=self._idle) as stream:
            for window in windows(stream, lambda a: a.length, _WINDOW_BATCHES * self.engine.batch_tokens):
                yield from self._score_window(window)

    def straddling_edges(self, transcript: Transcript, condition: Condition) -> int:
        """Count the edges of responses that a scored token reaches over."""
        return sum(alignment.straddling_edges for alignment in self.align(transcript, condition).alignments)

    def align(self, transcript: Transcript, condition: Condition) -> _Aligned:
        """Render and tokenize one transcript. TranscriptError, with its id, where the condition cannot take it."""
        alignments = []
        try:
            for rendering in condition.renderings(transcript, self._template):
                if self._cut.characters is not None:
                    rendering = truncate_characters(rendering, self._cut.characters)
                alignments.append(self._align(rendering, self.tokenizer, self._cut.tokens))
        except TranscriptError as error:
            raise TranscriptError(str(error), transcript.id) from error
        queries = tuple(Query(alignment.token_ids_T, token_places(alignment)) for alignment in alignments)
        return _Aligned(transcript, tuple(alignments), queries)

    def _score_window(self, window: Sequence[_Aligned]) -> Iterator[ScoredTranscript]:
        asked = {_key(query): query for aligned in window for query in aligned.queries}
        scores = {key: known for key in asked if (known := self._known.get(key)) is not None}
        new = [key for key in asked if key not in scores]
        for key, answer in zip(new, self.engine.score([asked[key] for key in new]), strict=True):
            scores[key] = answer
            self._known.add(key, answer)
        for aligned in window:
            yield _sum_over_responses(aligned, [scores[_key(query)] for query in aligned.queries])


class _Known:
    """The latest answers of the engine, for as many tokens as there is room for."""

    def __init__(self, n_tokens: int) -> None:
        self._room = n_tokens
        self._answers: OrderedDict[tuple[bytes, bytes], TokenScores] = OrderedDict()

    def get(self, key: tuple[bytes, bytes]) -> TokenScores | None:
        return self._answers.get(key)

    def add(self, key: tuple[bytes, bytes], answer: TokenScores) -> None:
        self._answers[key] = answer
        self._room -= len(answer.nll_R)
        while self._room < 0:
            _, oldest = self._answers.popitem(last=False)
            self._room += len(oldest.nll_R)


def _key(query: Query) -> tuple[bytes, bytes]:
    """Equal for queries with equal answers; hashed, so that no token ids are kept."""
    last = query.length + 1 if query.length else 0
    return (
        hashlib.blake2b(query.token_ids_T[:last].tobytes(), digest_size=16).digest(),
        hashlib.blake2b(query.at_R.tobytes(), digest_size=16).digest(),
    )


def token_places(alignment: Alignment) -> NDArray[np.int64]:
    """Places of all tokens to be scored, ascending, response after response."""
    counts = alignment.last_R - alignment.first_R
    total = int(counts.sum())
    before = np.cumsum(counts) - counts
    places: NDArray[np.int64] = np.arange(total, dtype=np.int64) + np.repeat(alignment.first_R - before, counts)
    return places


def _sum_over_responses(aligned: _Aligned, scores: Sequence[TokenScores]) -> ScoredTranscript:
    """Sum tokens to responses, and take each response from the rendering that scores it."""
    n = len(aligned.alignments[0].status_R)
    status_R = aligned.alignments[0].status_R.copy()
    n_tokens_R, nll_R, top1_R = np.zeros(n, np.int32), np.full(n, np.nan, np.float32), np.zeros(n, np.bool_)
    for alignment, answer in zip(aligned.alignments, scores, strict=True):
        counts = alignment.last_R - alignment.first_R
        response = np.repeat(np.arange(n), counts)
        here = alignment.status_R == Status.scored.code
        hits = np.bincount(response, weights=answer.top1_R, minlength=n)
        status_R[here] = Status.scored.code
        n_tokens_R[here] = counts[here]
        nll_R[here] = np.bincount(response, weights=answer.nll_R, minlength=n)[here]
        top1_R[here] = (hits == counts)[here]
    return ScoredTranscript(
        aligned.transcript,
        n_tokens_R=n_tokens_R,
        nll_R=nll_R,
        top1_R=top1_R,
        status_R=status_R,
        tokens_read=sum(len(alignment.token_ids_T) for alignment in aligned.alignments),
        straddling_edges=sum(alignment.straddling_edges for alignment in aligned.alignments),
    )
