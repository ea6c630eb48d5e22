"""What trackers receive while a sweep runs: one event per step. Counts, sums and messages only, no text of a response.

Does not import rich or wandb.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from psych_ray.results.schema import CheckpointFacts, ScoringIdentity
from psych_ray.sweep.unit import UnitReport
from psych_ray.tracking.running import Tallies


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskPlan:
    """One checkpoint under one condition, as the plan has it: a bar in the terminal, a run in Weights & Biases."""

    checkpoint: str
    """Slug."""
    condition: str
    units: int
    """Units that are missing from the results."""
    responses: int
    """Responses in the plan."""
    responses_committed: int
    """Of those, committed by earlier sweeps."""
    characters: int
    """Characters of the transcripts that are missing; what the remaining time is estimated from."""
    tallies: Tallies = field(default_factory=dict)
    """Scored responses of earlier sweeps, by study: the running means include them. Empty: this sweep only."""

    @property
    def key(self) -> tuple[str, str]:
        """Slug of the checkpoint, name of the condition."""
        return self.checkpoint, self.condition


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepStarted:
    """The first event, before the first replica starts."""

    name: str
    results_root: str
    scoring: ScoringIdentity
    tasks: tuple[TaskPlan, ...]
    checkpoints: Mapping[str, CheckpointFacts]
    """By slug, of all tasks."""


@dataclass(frozen=True, slots=True)
class CheckpointLoading:
    """A replica begins to load the checkpoint."""

    checkpoint: str


@dataclass(frozen=True, slots=True)
class CheckpointLoaded:
    """A replica has loaded the checkpoint and begins to score."""

    checkpoint: str
    seconds: float


@dataclass(frozen=True, slots=True)
class UnitStarted:
    """A replica has received a unit."""

    checkpoint: str
    condition: str
    unit: str


@dataclass(frozen=True, slots=True)
class UnitCommitted:
    """A part is committed."""

    report: UnitReport


@dataclass(frozen=True, slots=True)
class Failed:
    """Something failed and is retried or skipped; one line."""

    message: str


@dataclass(frozen=True, slots=True)
class Noted:
    """Nothing failed, but the user should see this; one line."""

    message: str


@dataclass(frozen=True, slots=True)
class ResponsesSkipped:
    """Responses of a task that this sweep cannot score; a `Failed` before it has the reason."""

    checkpoint: str
    condition: str
    responses: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepEnded:
    """The last event."""

    seconds: float
    failures: tuple[str, ...] = ()
    """One line each: what could not be scored, and why."""
    interrupted: bool = False


Event = (
    SweepStarted
    | CheckpointLoading
    | CheckpointLoaded
    | UnitStarted
    | UnitCommitted
    | Failed
    | Noted
    | ResponsesSkipped
    | SweepEnded
)


class Tracker(Protocol):
    """Receives every event in order, from one thread. It neither raises nor delays its caller."""

    def handle(self, event: Event) -> None:
        """Show or record the event."""
