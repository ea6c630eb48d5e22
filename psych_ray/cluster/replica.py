"""The work of a replica: load a checkpoint, score units, commit their parts. The actor around it is a thin shell.

Knows no Ray, so it also runs in a test, a notebook or a benchmark.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from psych_ray import __version__
from psych_ray.config import ScoringConfig
from psych_ray.results.catalogue import read_catalogued
from psych_ray.results.parts import commit_part
from psych_ray.results.root import ResultsRoot
from psych_ray.results.schema import CheckpointFacts, Footer, ScoringIdentity
from psych_ray.scoring.checkpoints import Checkpoint
from psych_ray.scoring.scored import ScoredTranscript, Scorer, SimulatorScorer
from psych_ray.sweep.unit import Tally, Unit, UnitReport
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.status import Status


@dataclass(frozen=True, kw_only=True)
class ReplicaSpec:
    """All that a replica needs to know; small, and the same wherever it runs."""

    checkpoint: Checkpoint
    facts: CheckpointFacts
    identity: ScoringIdentity
    scoring: ScoringConfig
    results_root: str
    allow_pickle: bool = False
    threads: int | None = None
    """CPU threads for torch; None: its own choice."""


class Replica:
    """One loaded checkpoint."""

    def __init__(self, spec: ReplicaSpec) -> None:
        self._spec = spec
        self._root = ResultsRoot(spec.results_root)
        self._scorer: Scorer | None = None

    def load(self) -> float:
        """Load the checkpoint and return the seconds that it took. CheckpointError where that cannot be done."""
        began = time.monotonic()
        spec = self._spec
        if spec.checkpoint.is_simulator:
            self._scorer = SimulatorScorer()
        else:
            import torch

            from psych_ray.scoring.loading import load_scorer

            if spec.threads is not None:
                torch.set_num_threads(spec.threads)
            self._scorer = load_scorer(spec.checkpoint, spec.scoring, allow_pickle=spec.allow_pickle)
        return time.monotonic() - began

    def score(self, unit: Unit) -> UnitReport:
        """Score a unit and commit its part."""
        assert self._scorer is not None, "load() comes first"
        began = time.monotonic()
        transcripts = read_catalogued(self._root, unit.transcripts)
        scored = list(self._scorer.score(transcripts, condition_named(unit.condition)))
        seconds = time.monotonic() - began
        commit_part(self._root, scored, self._footer(unit, scored, seconds))
        return UnitReport(
            checkpoint=unit.checkpoint,
            condition=unit.condition,
            unit=unit.id,
            tokens=sum(s.tokens_read for s in scored),
            responses=sum(len(s.status_R) for s in scored),
            seconds=time.monotonic() - began,
            by_study=_tallies(scored),
            peak_memory_bytes=_peak_memory_bytes(),
        )

    def _footer(self, unit: Unit, scored: Sequence[ScoredTranscript], seconds: float) -> Footer:
        assert self._scorer is not None
        straddling: dict[str, int] = {}
        for s in scored:
            straddling[s.transcript.study] = straddling.get(s.transcript.study, 0) + s.straddling
        return Footer(
            unit=unit.id,
            condition=unit.condition,
            checkpoint=self._spec.facts,
            scoring=self._spec.identity,
            engine=self._scorer.engine_name,
            versions=_versions(),
            straddling_tokens=straddling,
            tokens=sum(s.tokens_read for s in scored),
            seconds=round(seconds, 3),
        )


def _tallies(scored: Sequence[ScoredTranscript]) -> dict[str, Tally]:
    tallies: dict[str, Tally] = {}
    for s in scored:
        use = s.status_R == Status.scored.code
        before = tallies.get(s.transcript.study, Tally())
        tallies[s.transcript.study] = Tally(
            responses=before.responses + int(use.sum()),
            nll_nats=before.nll_nats + float(s.nll_R[use].sum(dtype=np.float64)),
            top1=before.top1 + (0 if s.top1_R is None else int(s.top1_R[use].sum())),
        )
    return tallies


def _versions() -> dict[str, str]:
    found = {"psych_ray": __version__}
    for name in ("torch", "transformers", "tokenizers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _peak_memory_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
