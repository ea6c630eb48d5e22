"""The work of a replica: load a checkpoint, score units, commit their parts. The actor around it is a thin shell.

Knows no Ray, so it also runs in a test, a notebook or a benchmark.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np

from psych_ray import __version__
from psych_ray.checkpoints.find import Checkpoint
from psych_ray.config import EngineName, ScoringConfig
from psych_ray.results.catalogue import read_catalogued
from psych_ray.results.parts import commit_part
from psych_ray.results.root import ResultsRoot
from psych_ray.results.schema import CheckpointFacts, Footer, ScoringIdentity
from psych_ray.scoring.scored import AlignsTranscripts, Check, ScoredTranscript, Scorer, SimulatorScorer
from psych_ray.sweep.unit import Tally, Unit, UnitReport
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.status import Status

if TYPE_CHECKING:
    from psych_ray.scoring.engines.sharded.process_group import Rank, Rendezvous


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
    ranks: int = 1
    """Processes that hold the weights together."""
    stall_seconds: float = 600.0
    """How long a rank may keep the others waiting."""
    pass_share: float = 1.0
    """Of the tokens that ranks read at a time if left alone; less after one of them ran out of memory."""

    @property
    def meets(self) -> bool:
        """Whether its processes, be it one, need a process group."""
        return self.scoring.engine in {EngineName.deepspeed_tp, EngineName.deepspeed_zero}


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What a replica tells the driver once its weights are loaded."""

    seconds: float
    notes: tuple[str, ...] = ()
    """A line for each way to score that was tried and is not used."""


@dataclass(frozen=True, kw_only=True)
class CheckpointReport:
    """What the self-check of a checkpoint saw, and how transcripts align with its tokens."""

    checkpoint: str
    engine: str
    checks: tuple[Check, ...]
    responses: dict[str, int]
    """By study: responses looked at."""
    straddling_edges: dict[str, int]
    """By study: edges of responses that a token reaches over."""


class Replica:
    """One set of loaded weights, or one rank's share of them."""

    def __init__(self, spec: ReplicaSpec, rank: int = 0) -> None:
        self._spec = spec
        self._rank = rank
        self._rendezvous: Rendezvous | None = None
        self._root = ResultsRoot(spec.results_root)
        self._scorers: dict[str, Scorer] = {}

    def open_rendezvous(self, host: str) -> tuple[str, int]:
        """Bind a port of this host for the ranks to meet at; rank 0 only."""
        from psych_ray.scoring.engines.sharded.process_group import Rendezvous

        self._rendezvous = Rendezvous(host, self._spec.ranks, timeout_s=self._spec.stall_seconds)
        return host, self._rendezvous.port

    def load(self, place: tuple[str, int] | None = None) -> LoadReport:
        """Load the weights, with the other ranks that meet at `place`. CheckpointError where that cannot be done."""
        began = time.monotonic()
        spec = self._spec
        if spec.checkpoints[0].is_simulator:
            self._scorers[spec.checkpoints[0].slug] = SimulatorScorer()
            return LoadReport(seconds=time.monotonic() - began)
        import torch

        from psych_ray.scoring.loading import load_scorers

        if spec.threads is not None:
            torch.set_num_threads(spec.threads)
        rank = self._join(place) if place else None
        scorers = load_scorers(
            spec.checkpoints,
            spec.scoring,
            allow_pickle=spec.allow_pickle,
            rank=rank,
            pass_share=spec.pass_share,
        )
        self._scorers |= scorers
        notes = {
            f"{spec.checkpoints[0].card.id}: {check.name}: {check.detail}; scored by {scorer.engine_name}"
            for scorer in scorers.values()
            for check in scorer.checks
            if not check.passed
        }
        return LoadReport(seconds=time.monotonic() - began, notes=tuple(sorted(notes)))

    def _join(self, place: tuple[str, int]) -> Rank:
        from psych_ray.scoring.engines.sharded.process_group import join
        from psych_ray.scoring.models.load import device_of

        host, port = place
        device = device_of(self._spec.scoring.device).type
        if self._rendezvous is not None:
            return self._rendezvous.join(self._spec.ranks, device=device)
        limit = self._spec.stall_seconds
        return join(self._rank, self._spec.ranks, host=host, port=port, device=device, timeout_s=limit)

    def score(self, unit: Unit) -> UnitReport:
        """Score a unit and, as rank 0, commit its part."""
        scorer = self._scorers[unit.checkpoint]
        began = time.monotonic()
        transcripts = read_catalogued(self._root, unit.transcripts)
        with _warnings_of("psych_ray.scoring") as notes:
            scored = list(scorer.score(transcripts, condition_named(unit.condition, parity=self._spec.scoring.parity)))
        seconds = time.monotonic() - began
        if self._rank == 0:
            commit_part(self._root, scored, self._footer(unit, scorer.engine_name, scored, seconds))
        return UnitReport(
            checkpoint=unit.checkpoint,
            condition=unit.condition,
            unit=unit.id,
            tokens=sum(s.tokens_read for s in scored),
            responses=sum(len(s.status_R) for s in scored),
            seconds=time.monotonic() - began,
            by_study=_tallies(scored),
            notes=tuple(f"{unit.checkpoint}: {note}" for note in notes),
        )

    def check(self, transcripts: Sequence[Transcript]) -> list[CheckpointReport]:
        """Tell what the self-check saw when the weights were loaded, and align these transcripts as `plain` would."""
        plain, reports = condition_named("plain"), []
        for slug, scorer in self._scorers.items():
            assert isinstance(scorer, AlignsTranscripts)
            responses, straddling = Counter[str](), Counter[str]()
            for transcript in transcripts:
                responses[transcript.study] += len(transcript.responses)
                straddling[transcript.study] += scorer.straddling_edges(transcript, plain)
            reports.append(
                CheckpointReport(
                    checkpoint=slug,
                    engine=scorer.engine_name,
                    checks=tuple(scorer.checks),
                    responses=dict(responses),
                    straddling_edges=dict(straddling),
                )
            )
        return reports

    def _footer(self, unit: Unit, engine: str, scored: Sequence[ScoredTranscript], seconds: float) -> Footer:
        straddling = Counter[str]()
        for s in scored:
            straddling[s.transcript.study] += s.straddling_edges
        return Footer(
            unit=unit.id,
            condition=unit.condition,
            checkpoint=self._spec.facts[unit.checkpoint],
            scoring=self._spec.identity,
            engine=engine,
            versions=_versions(),
            straddling_edges=dict(straddling),
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
    for name in ("torch", "transformers", "tokenizers", "deepspeed"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def _warnings_of(logger: str) -> Iterator[list[str]]:
    """Collect what a part of the package warns of while the block runs."""
    lines: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Collect(logging.WARNING)
    logging.getLogger(logger).addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger(logger).removeHandler(handler)
