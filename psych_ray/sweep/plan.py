"""The plan: the tasks of a sweep, each with the units that are missing from the results.

A unit is a run of transcripts that takes about a minute. Resume is by transcript, not by unit: a root whose plan was
widened, or divided into other units, is completed without scoring any transcript twice. Pure logic: no I/O, no clock,
no Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from psych_ray.results.schema import TranscriptRef
from psych_ray.sweep.unit import Unit

_MIN_UNITS = 4


@dataclass(frozen=True, slots=True)
class Task:
    """One checkpoint under one condition: its transcripts, and the units that are missing."""

    checkpoint: str
    """Slug."""
    condition: str
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

    @property
    def seconds_missing(self) -> float:
        """Estimated time of one replica for what is not committed."""
        return sum(unit.seconds for unit in self.missing)


def plan_task(
    *,
    checkpoint: str,
    condition: str,
    transcripts: Sequence[TranscriptRef],
    unit_seconds: float,
    seconds_of: Callable[[TranscriptRef], float],
) -> Task:
    """Divide the transcripts that have responses into units of about `unit_seconds`, all of them missing.

    `seconds_of`: estimated time of one replica for one transcript.
    """
    with_responses = tuple(t for t in transcripts if t.n_responses)
    seconds = [seconds_of(t) for t in with_responses]
    max_seconds = min(unit_seconds, sum(seconds) / _MIN_UNITS)
    units: list[Unit] = []
    run: list[TranscriptRef] = []
    run_seconds = 0.0
    for transcript, cost in zip(with_responses, seconds, strict=True):
        if run and run_seconds + cost > max_seconds:
            units.append(Unit(checkpoint, condition, tuple(run), run_seconds))
            run, run_seconds = [], 0.0
        run.append(transcript)
        run_seconds += cost
    if run:
        units.append(Unit(checkpoint, condition, tuple(run), run_seconds))
    return Task(checkpoint, condition, with_responses, tuple(units))


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


def by_transcript(tasks: Iterable[Task]) -> list[Unit]:
    """All missing units, those of the same transcripts under different conditions next to each other.

    A transcript that reads the same under two conditions is then scored once: the replica still has the scores.
    """
    numbered = []
    for task in tasks:
        index = {transcript.id: number for number, transcript in enumerate(task.transcripts)}
        numbered += [(index[unit.transcripts[0].id], unit) for unit in task.missing]
    return [unit for _, unit in sorted(numbered, key=lambda pair: pair[0])]
