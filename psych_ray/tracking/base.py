"""What a tracker is told while a sweep runs. Aggregates only: no response and no text reaches a tracker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from psych_ray.results.schema import CheckpointFacts, ScoringIdentity, Tally
from psych_ray.sweep.unit import UnitReport


@dataclass(frozen=True, kw_only=True)
class Task:
    """One checkpoint under one condition: a bar in the terminal, a run in Weights & Biases."""

    checkpoint: CheckpointFacts
    condition: str
    units: int
    """Units still to do."""
    responses: int
    """Responses in the plan."""
    responses_committed: int
    """Of those, committed by earlier runs."""
    characters: int
    """Characters of the transcripts still to do; what the remaining time is estimated from."""
    scored_by_study: Mapping[str, Tally] = field(default_factory=dict)
    """Of the committed responses, where known: running means go on from here. Empty: they begin with this sweep."""

    @property
    def key(self) -> tuple[str, str]:
        """Slug of the checkpoint, name of the condition."""
        return self.checkpoint.slug, self.condition


@dataclass(frozen=True, kw_only=True)
class SweepStart:
    """What a sweep is about to do."""

    name: str
    results_root: str
    scoring: ScoringIdentity
    tasks: tuple[Task, ...]


@dataclass(frozen=True, kw_only=True)
class SweepEnd:
    """How a sweep ended."""

    seconds: float
    failures: tuple[str, ...] = ()
    """A line each: what could not be scored, and why."""
    interrupted: bool = False


class Tracker(Protocol):
    """Told of every step, in order, from one thread. It may not raise and may not stall its caller."""

    def started(self, start: SweepStart) -> None:
        """Before the first replica starts."""

    def loading(self, checkpoint: str) -> None:
        """A replica of the checkpoint (slug) begins to load."""

    def ready(self, checkpoint: str, seconds: float) -> None:
        """A replica has loaded and begins to score."""

    def unit_started(self, checkpoint: str, condition: str, unit: str) -> None:
        """A replica has taken a unit."""

    def unit_done(self, report: UnitReport) -> None:
        """A part is committed."""

    def trouble(self, message: str) -> None:
        """Something failed and is retried or set aside; one line."""

    def note(self, message: str) -> None:
        """Nothing failed, but the user should know; one line."""

    def set_aside(self, checkpoint: str, condition: str, responses: int) -> None:
        """So many responses of a task cannot be scored in this sweep; why was told before."""

    def ended(self, end: SweepEnd) -> None:
        """Nothing follows."""
