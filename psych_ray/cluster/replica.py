"""The work of a replica: load a checkpoint, score units, commit their parts. The actor around it is a thin shell.

Knows no Ray, so it also runs in a test, a notebook or a benchmark.
"""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Mapping, Sequence
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
from psych_ray.scoring.scored import AlignsTranscripts, Check, ScoredTranscript, Scorer, SimulatorScorer
from psych_ray.sweep.unit import Tally, Unit, UnitReport
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.status import Status


@dataclass(frozen=True, kw_only=True)
class ReplicaSpec:
    """All that a replica needs to know; small, and the same wherever it runs."""

    checkpoints: tuple[Checkpoint, ...]
    """What it scores with: one checkpoint, or checkpoints that share their weights."""
    facts: Mapping[str, CheckpointFacts]
    """By slug."""
    identity: ScoringIdentity
    scoring: ScoringConfig
    results_root: str
    allow_pickle: bool = False
    threads: int | None = None
    """CPU threads for torch; None: its own choice."""


@dataclass(frozen=True, kw_only=True)
class CheckpointReport:
    """What the self-check of a checkpoint saw, and how transcripts align with its tokens."""

    checkpoint: str
    engine: str
    checks: tuple[Check, ...]
    responses: dict[str, int]
    """By study: responses looked at."""
    straddling: dict[str, int]
    """By study: edges of responses that a token reaches over."""


class Replica:
    """One set of loaded weights."""

    def __init__(self, spec: ReplicaSpec) -> None:
        self._spec = spec
        self._root = ResultsRoot(spec.results_root)
        self._scorers: dict[str, Scorer] = {}

    def load(self) -> float:
        """Load the weights and return the seconds that it took. CheckpointError where that cannot be done."""
        began = time.monotonic()
        spec = self._spec
        if spec.checkpoints[0].is_simulator:
            self._scorers[spec.checkpoints[0].slug] = SimulatorScorer()
        else:
            import torch

            from psych_ray.scoring.loading import load_scorers

            if spec.threads is not None:
                torch.set_num_threads(spec.threads)
            self._scorers |= load_scorers(spec.checkpoints, spec.scoring, allow_pickle=spec.allow_pickle)
        return time.monotonic() - began

    def score(self, unit: Unit) -> UnitReport:
        """Score a unit and commit its part."""
        scorer = self._scorers[unit.checkpoint]
        began = time.monotonic()
        transcripts = read_catalogued(self._root, unit.transcripts)
        scored = list(scorer.score(transcripts, condition_named(unit.condition, parity=self._spec.scoring.parity)))
        seconds = time.monotonic() - began
        commit_part(self._root, scored, self._footer(unit, scorer.engine_name, scored, seconds))
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

    def check(self, transcripts: Sequence[Transcript]) -> list[CheckpointReport]:
        """Tell what the self-check saw when the weights were loaded, and align these transcripts as `plain` would."""
        plain, reports = condition_named("plain"), []
        for slug, scorer in self._scorers.items():
            assert isinstance(scorer, AlignsTranscripts)
            responses, straddling = Counter[str](), Counter[str]()
            for transcript in transcripts:
                responses[transcript.study] += len(transcript.responses)
                straddling[transcript.study] += scorer.straddling(transcript, plain)
            reports.append(
                CheckpointReport(
                    checkpoint=slug,
                    engine=scorer.engine_name,
                    checks=tuple(scorer.checks),
                    responses=dict(responses),
                    straddling=dict(straddling),
                )
            )
        return reports

    def _footer(self, unit: Unit, engine: str, scored: Sequence[ScoredTranscript], seconds: float) -> Footer:
        straddling = Counter[str]()
        for s in scored:
            straddling[s.transcript.study] += s.straddling
        return Footer(
            unit=unit.id,
            condition=unit.condition,
            checkpoint=self._spec.facts[unit.checkpoint],
            scoring=self._spec.identity,
            engine=engine,
            versions=_versions(),
            straddling_tokens=dict(straddling),
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
