"""The results of scoring, and the interface of everything that scores. Does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from psych_ray.transcripts.conditions import Condition, response_spans
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.status import Status


@dataclass(frozen=True, slots=True)
class ScoredTranscript:
    """The responses of one transcript under one checkpoint and condition. Arrays have one entry per response [R]."""

    transcript: Transcript
    n_tokens_R: NDArray[np.int32]
    nll_R: NDArray[np.float32]
    """Nats, summed over the tokens of the response; NaN unless scored."""
    top1_R: NDArray[np.bool_] | None
    """Every token is the arg max of the vocabulary; False unless scored. None: the scorer has no vocabulary."""
    status_R: NDArray[np.int8]
    """Codes of `Status`."""
    tokens_read: int
    straddling_edges: int = 0
    """Number of edges of responses that lie within a scored token."""
    calibration_RC: NDArray[np.float32] | None = None
    """The columns `calibration.COLUMNS`, NaN where there is no number; None: none were computed."""


class Scorer(Protocol):
    """Computes negative log-likelihoods of human responses."""

    @property
    def engine_name(self) -> str:
        """Name of the engine, for tables and messages."""

    def score(
        self, transcripts: Iterable[Transcript], condition: Condition, goes_on: Callable[[], bool] = lambda: True
    ) -> Iterator[ScoredTranscript]:
        """Score transcripts, one result per transcript, in any order, for as long as `goes_on()`."""


@dataclass(frozen=True, slots=True)
class Check:
    """Result of one check of a loaded checkpoint."""

    name: str
    passed: bool
    detail: str


@runtime_checkable
class AlignsTranscripts(Scorer, Protocol):
    """A scorer of tokens, whose checkpoint was checked when it was loaded."""

    checks: list[Check]

    def straddling_edges(self, transcript: Transcript, condition: Condition) -> int:
        """Number of edges of responses that lie within a scored token."""


class SimulatorScorer:
    """The noise floor: NLL under the simulator that generated the responses, the lowest expected NLL of any model."""

    engine_name = "simulator"

    def score(
        self, transcripts: Iterable[Transcript], condition: Condition, goes_on: Callable[[], bool] = lambda: True
    ) -> Iterator[ScoredTranscript]:
        """Return the true NLL of simulated transcripts; responses of other transcripts are not applicable."""
        for transcript in transcripts:
            if not goes_on():
                return
            starts, ends = response_spans(transcript)
            status = np.where(ends > starts, Status.scored.code, Status.empty.code).astype(np.int8)
            if transcript.true_nll_nats is None:
                nll = np.full(len(starts), np.nan, np.float32)
                status[:] = Status.not_applicable.code
            else:
                nll = np.asarray(transcript.true_nll_nats, np.float32)
            yield ScoredTranscript(transcript, np.zeros(len(starts), np.int32), nll, None, status, tokens_read=0)
