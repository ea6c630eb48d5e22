"""The plan: the tasks of a sweep, each with the units that are missing from the results.

A unit is a run of transcripts that takes about a minute. Resume is by transcript, not by unit: a root whose plan was
widened, or divided into other units, is completed without scoring any transcript twice. Pure logic: no I/O, no clock,
no Ray.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from psych_ray.results.schema import TranscriptRef
from psych_ray.sweep.cost import Device
from psych_ray.sweep.unit import Unit

_MIN_UNITS = 4


@dataclass(frozen=True, slots=True)
class Task:
    """One checkpoint under one condition: its transcripts, and the units that are missing."""

    checkpoint: str
    """Slug."""
    condition: str
    n_parameters: int
    transcripts: tuple[TranscriptRef, ...]
    """Those of the plan that have responses."""
    missing: tuple[Unit, ...]

    @property
    def n_responses(self) -> int:
        """Marked responses of the plan."""
        return sum(t.n_responses for t in self.transcripts)

    @property
    def n_responses_missing(self) -> int:
        """Of those, not committed."""
        return sum(unit.n_responses for unit in self.missing)

    @property
    def n_characters_missing(self) -> int:
        """Characters of the transcripts that are not committed."""
        return sum(unit.n_characters for unit in self.missing)


def plan_task(
    *,
    checkpoint: str,
    condition: str,
    n_parameters: int,
    transcripts: Sequence[TranscriptRef],
    unit_seconds: float,
    device: Device,
) -> Task:
    """Divide the transcripts that have responses into units of about `unit_seconds`, all of them missing."""
    with_responses = tuple(t for t in transcripts if t.n_responses)
    seconds = [device.seconds(t.n_characters, n_parameters) for t in with_responses]
    max_seconds = min(unit_seconds, sum(seconds) / _MIN_UNITS)
    units: list[Unit] = []
    run: list[TranscriptRef] = []
    run_seconds = 0.0
    for transcript, cost in zip(with_responses, seconds, strict=True):
        if run and run_seconds + cost > max_seconds:
            units.append(Unit(checkpoint, condition, tuple(run)))
            run, run_seconds = [], 0.0
        run.append(transcript)
        run_seconds += cost
    if run:
        units.append(Unit(checkpoint, condition, tuple(run)))
    return Task(checkpoint, condition, n_parameters, with_responses, tuple(units))


def without_committed(tasks: Iterable[Task], committed: Mapping[tuple[str, str], Collection[str]]) -> list[Task]:
    """Drop committed transcripts from the missing units of each task.

    `committed`: ids of transcripts by checkpoint (slug) and condition; a task that is not in it has none.
    """
    return [_without(task, frozenset(committed.get((task.checkpoint, task.condition), ()))) for task in tasks]


def _without(task: Task, committed: frozenset[str]) -> Task:
    if not committed:
        return task
    rest = (unit.only({t.id for t in unit.transcripts} - committed) for unit in task.missing)
    return replace(task, missing=tuple(unit for unit in rest if unit is not None))
