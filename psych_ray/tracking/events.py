"""What trackers receive while a sweep runs: one event per step. Counts, sums and messages only, no text of a response.

Does not import rich or wandb.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from psych_ray.results.schema import CheckpointFacts, ScoringIdentity
from psych_ray.sweep.unit import UnitReport
from psych_ray.tracking.running import Tallies
from psych_ray.worker.heartbeat import GpuUse

if TYPE_CHECKING:
    import polars as pl


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
    """Characters of the transcripts that are missing."""
    seconds: float = 0.0
    """Estimated time of one replica for what is missing, without loading."""
    ranks: int = 1
    """Of a replica."""
    weights: str = ""
    """Slug of what a replica loads, where it is another one than the checkpoint's: adapters share their base."""
    load_seconds: float = 0.0
    """Estimated time to load them."""
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
    characters: int = 0
    responses: int = 0


@dataclass(frozen=True, slots=True)
class UnitReading:
    """How far a replica is with a unit."""

    checkpoint: str
    condition: str
    unit: str
    characters: float
    """Read, of those of the unit."""
    tokens: float
    """Read."""
    gpus: tuple[GpuUse, ...] = ()
    """Of its ranks."""


@dataclass(frozen=True, slots=True)
class Progressed:
    """Replicas have answered, every few seconds."""

    units: tuple[UnitReading, ...]
    """All that are being scored."""
    ranks: int
    """Of all replicas that load or score."""


@dataclass(frozen=True, slots=True)
class UnitLost:
    """A unit will not be reported by the replica that had it; it is scored again, or skipped."""

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
    """The last event but the report."""

    seconds: float
    failures: tuple[str, ...] = ()
    """One line each: what could not be scored, and why."""
    interrupted: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Reported:
    """The report was written, after the sweep ended: what it says."""

    headlines: tuple[str, ...]
    tables: Mapping[str, pl.DataFrame]
    """By name; what a tracker shows of them, it decides."""
    figures: tuple[Path, ...]
    """PNG files."""
    location: str
    """Of the results store, as the user knows it."""
    uri: str
    """The same as a URI."""
    parts: tuple[tuple[str, int], ...]
    """Name below `uri`, bytes."""
    rows: int


Event = (
    SweepStarted
    | CheckpointLoading
    | CheckpointLoaded
    | UnitStarted
    | Progressed
    | UnitLost
    | UnitCommitted
    | Failed
    | Noted
    | ResponsesSkipped
    | SweepEnded
    | Reported
)


class Tracker(Protocol):
    """Receives every event in order, from one thread. It neither raises nor delays its caller."""

    def handle(self, event: Event) -> None:
        """Show or record the event."""
