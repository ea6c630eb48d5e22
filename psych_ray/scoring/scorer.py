"""From transcripts to scored responses: condition, alignment, engine, sums. Usable without a cluster.

scorer = load_scorer(checkpoint, ScoringConfig())
for scored in scorer.score(transcripts, condition_named("plain")): ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from psych_ray.scoring.alignment import Alignment, align
from psych_ray.scoring.engines import Engine, Query, TokenScores
from psych_ray.scoring.scored import ScoredTranscript
from psych_ray.transcripts.conditions import Condition, Rendering, cut_characters
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.status import Status


@dataclass(frozen=True, slots=True)
class Cut:
    """Where transcripts end: at so many characters of the rendered text, and at so many tokens. None: no end."""

    tokens: int | None = None
    characters: int | None = None


class LanguageModelScorer:
    """Scores with a language model: condition -> text -> tokens -> likelihoods -> sums over responses."""

    def __init__(self, engine: Engine, tokenizer: PreTrainedTokenizerBase, cut: Cut) -> None:
        self.engine_name = engine.name
        self._engine = engine
        self._tokenizer = tokenizer
        self._cut = cut

    def score(self, transcripts: Iterable[Transcript], condition: Condition) -> Iterator[ScoredTranscript]:
        """Score transcripts one at a time, in their order."""
        for transcript in transcripts:
            alignment = self._align(condition.render(transcript, None))
            at = token_places(alignment)
            (scores,) = self._engine.score([Query(alignment.token_ids_T, at)])
            yield _sum_over_responses(transcript, alignment, scores)

    def _align(self, rendering: Rendering) -> Alignment:
        if self._cut.characters is not None:
            rendering = cut_characters(rendering, self._cut.characters)
        return align(rendering, self._tokenizer, self._cut.tokens)


def token_places(alignment: Alignment) -> NDArray[np.int64]:
    """Places of all tokens to be scored, ascending, response after response."""
    counts = alignment.last_R - alignment.first_R
    total = int(counts.sum())
    before = np.cumsum(counts) - counts
    places: NDArray[np.int64] = np.arange(total, dtype=np.int64) + np.repeat(alignment.first_R - before, counts)
    return places


def _sum_over_responses(transcript: Transcript, alignment: Alignment, scores: TokenScores) -> ScoredTranscript:
    counts = alignment.last_R - alignment.first_R
    response = np.repeat(np.arange(len(counts)), counts)
    nll = np.bincount(response, weights=scores.nll_R, minlength=len(counts))
    hits = np.bincount(response, weights=scores.top1_R, minlength=len(counts))
    scored = alignment.status_R == Status.scored.code
    return ScoredTranscript(
        transcript,
        n_tokens_R=counts.astype(np.int32),
        nll_R=np.where(scored, nll, np.nan).astype(np.float32),
        top1_R=scored & (hits == counts),
        status_R=alignment.status_R,
        tokens_read=len(alignment.token_ids_T),
        straddling=alignment.straddling,
    )
