"""References: predictions of responses without a language model, for what a checkpoint is compared with.

They predict choices among the participant's options, the letters of `transcripts.options`; which letters a participant
ever chose is known to them from the first response on. Other responses, and those of participants who chose one letter
only, are not applicable. They read the whole transcript as it is, whatever the condition and the cut. Does not import
torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from psych_ray.checkpoints.find import SIMULATOR
from psych_ray.config import Reference
from psych_ray.scoring import rescorla_wagner
from psych_ray.scoring.scored import ScoredTranscript, Scorer, SimulatorScorer
from psych_ray.scoring.work import Work
from psych_ray.transcripts.conditions import Condition, response_spans
from psych_ray.transcripts.options import option_index, option_letters
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.rewards import rewards_of
from psych_ray.transcripts.status import Status

_Predict = Callable[[NDArray[np.int16], int, Transcript], NDArray[np.float64]]
"""From the index of each response among the options, -1 for another response, and their number K > 1: NLL, nats [R]."""


def reference_scorer(name: str, work: Work | None = None) -> Scorer:
    """The scorer of a checkpoint whose `reference` is `name`; `work` counts its transcripts. ValueError for another."""
    if name == SIMULATOR:
        return SimulatorScorer()
    return ReferenceScorer(Reference(name), _PREDICTIONS[Reference(name)], work or Work())


class ReferenceScorer:
    """Scores choices by what one reference predicts."""

    def __init__(self, reference: Reference, predict: _Predict, work: Work) -> None:
        self.engine_name = reference.value
        self._predict = predict
        self._work = work

    def score(
        self, transcripts: Iterable[Transcript], condition: Condition, goes_on: Callable[[], bool] = lambda: True
    ) -> Iterator[ScoredTranscript]:
        """Score transcripts; the condition changes nothing."""
        for transcript in transcripts:
            if not goes_on():
                return
            with self._work.of_reading(len(transcript.text), 0):
                scored = self._scored(transcript)
            yield scored
            self._work.add()

    def _scored(self, transcript: Transcript) -> ScoredTranscript:
        starts, ends = response_spans(transcript)
        index_R, n_options = option_index(transcript), len(option_letters(transcript))
        nll_R = np.full(len(index_R), np.nan)
        if n_options > 1:
            nll_R = np.where(index_R >= 0, self._predict(index_R, n_options, transcript), np.nan)
        status_R = np.where(np.isnan(nll_R), Status.not_applicable.code, Status.scored.code).astype(np.int8)
        status_R[starts == ends] = Status.empty.code
        n_tokens_R = np.zeros(len(index_R), np.int32)
        return ScoredTranscript(transcript, n_tokens_R, nll_R.astype(np.float32), None, status_R, tokens_read=0)


def _chance(index_R: NDArray[np.int16], n_options: int, _: Transcript) -> NDArray[np.float64]:
    """All options are as probable: log K."""
    return np.full(len(index_R), np.log(n_options))


def _frequencies(index_R: NDArray[np.int16], n_options: int, _: Transcript) -> NDArray[np.float64]:
    """Laplace's rule of succession: (n_k + 1) / (n + K), of n earlier choices n_k of this option."""
    chosen_RK = index_R[:, None] == np.arange(n_options)
    earlier_RK = np.cumsum(chosen_RK, 0) - chosen_RK
    of_chosen_R = (earlier_RK * chosen_RK).sum(1)
    nll_R: NDArray[np.float64] = np.log(earlier_RK.sum(1) + n_options) - np.log(of_chosen_R + 1)
    return nll_R


def _rescorla_wagner(index_R: NDArray[np.int16], n_options: int, transcript: Transcript) -> NDArray[np.float64]:
    """Two parameters, fitted to the same responses of this participant; NaN where no rewards are told."""
    nll_R = np.full(len(index_R), np.nan)
    rewards = rewards_of(transcript)
    if rewards is None:
        return nll_R
    is_choice_R = index_R >= 0
    begins = np.flatnonzero(rewards.begins_block_R)
    begins_N = np.isin(np.arange(is_choice_R.sum()), (np.cumsum(is_choice_R) - is_choice_R)[begins])
    choices_N = index_R[is_choice_R].astype(np.int64)
    fitted = rescorla_wagner.fit(choices_N, rewards.reward_R[is_choice_R], begins_N, n_arms=n_options)
    nll_R[is_choice_R] = fitted.nll_N
    return nll_R


_PREDICTIONS: dict[Reference, _Predict] = {
    Reference.chance: _chance,
    Reference.frequencies: _frequencies,
    Reference.rescorla_wagner: _rescorla_wagner,
}
