"""The plan: the tasks of a sweep, each with the units that are missing from the results.

A unit is a run of transcripts that takes about a minute. Resume is by transcript, not by unit: a root whose plan was
widened, or divided into other units, is completed without scoring any transcript twice. Tasks share what is equal
between them, so that a plan of hundreds of checkpoints is made in seconds. Pure logic: no I/O, no clock, no Ray.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from psych_ray.results.schema import TranscriptRef
from psych_ray.sweep.unit import Transcripts, Unit

_MIN_UNITS = 4
_Bounds = list[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class PlannedTranscripts:
    """The transcripts of a plan that have responses, in its order, and the ways in which they were divided so far.

    Shapes: T transcripts.
    """

    refs: Transcripts
    n_characters_T: NDArray[np.int64]
    _read: dict[int | None, NDArray[np.int64]] = field(default_factory=dict, repr=False)
    _bounds: dict[tuple[int | None, float], _Bounds] = field(default_factory=dict, repr=False)
    _shared: dict[tuple[int, int], Transcripts] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, transcripts: Iterable[TranscriptRef]) -> PlannedTranscripts:
        """Keep those with responses."""
        refs = Transcripts(t for t in transcripts if t.n_responses)
        return cls(refs, np.array([t.n_characters for t in refs], np.int64))

    def n_characters_read(self, most: int | None) -> NDArray[np.int64]:
        """Characters read of all transcripts up to each, [T + 1], where at most `most` are read of one."""
        if most not in self._read:
            read = self.n_characters_T if most is None else np.minimum(self.n_characters_T, most)
            self._read[most] = np.concatenate([[0], np.cumsum(read)])
        return self._read[most]

    def bounds(self, most: int | None, max_characters: float) -> _Bounds:
        """First and end of each run of transcripts of which at most `max_characters` are read, or of one alone."""
        key = most, max_characters
        if key not in self._bounds:
            self._bounds[key] = _runs(self.n_characters_read(most), max_characters)
        return self._bounds[key]

    def run(self, first: int, end: int) -> Transcripts:
        """The transcripts from `first` to before `end`: one object, however often it is asked for."""
        key = first, end
        if key not in self._shared:
            self._shared[key] = Transcripts(self.refs[first:end])
        return self._shared[key]


def _runs(before: NDArray[np.int64], max_characters: float) -> _Bounds:
    runs, first, n = [], 0, len(before) - 1
    most = np.int64(max_characters)  # a float would have all of `before` converted in each step
    while first < n:
        end = int(np.searchsorted(before, before[first] + most, side="right")) - 1
        end = max(first + 1, end)
        runs.append((first, end))
        first = end
    return runs


@dataclass(frozen=True)
class Task:
    """One checkpoint under one condition: its transcripts, and the units that are missing."""

    checkpoint: str
    """Slug."""
    condition: str
    transcripts: Transcripts
    """Those of the plan that have responses."""
    missing: tuple[Unit, ...]

    @property
    def n_responses(self) -> int:
        """Marked responses of the plan."""
        return self.transcripts.n_responses

    @cached_property
    def n_responses_missing(self) -> int:
        """Of those, not committed."""
        return sum(unit.n_responses for unit in self.missing)

    @cached_property
    def n_characters_missing(self) -> int:
        """Characters of the transcripts that are not committed."""
        return sum(unit.n_characters for unit in self.missing)

    @cached_property
    def seconds_missing(self) -> float:
        """Estimated time of one replica for what is not committed."""
        return sum(unit.seconds for unit in self.missing)


def plan_task(
    *,
    checkpoint: str,
    condition: str,
    transcripts: PlannedTranscripts,
    unit_seconds: float,
    characters_per_s: float,
    divided_at: float | None = None,
    most_characters: int | None = None,
) -> Task:
    """Divide the transcripts that have responses into units of about `unit_seconds`, all of them missing.

    `characters_per_s`: of one replica; infinite where the time does not matter. `divided_at`: the rate by which the
    units are divided, where it is another one; conditions of one checkpoint are divided alike, so that a transcript
    that reads the same under two of them is scored once. `most_characters`: how many are read of one transcript.
    """
    before = transcripts.n_characters_read(most_characters)
    max_characters = min(unit_seconds * (divided_at or characters_per_s), float(before[-1]) / _MIN_UNITS)
    units = (
        Unit(checkpoint, condition, transcripts.run(first, end), float(before[end] - before[first]) / characters_per_s)
        for first, end in transcripts.bounds(most_characters, max_characters)
    )
    return Task(checkpoint, condition, transcripts.refs, tuple(units))


def without_committed(tasks: Iterable[Task], committed: Mapping[tuple[str, str], NDArray[np.bool_]]) -> list[Task]:
    """Drop committed transcripts from the missing units of tasks of which all units are missing.

    `committed`: which of a task's transcripts are, [T], by checkpoint (slug) and condition; a task that is not in it
    has none. Units that were divided alike, and lack the same, share what is left.
    """
    shared: dict[tuple[int, bytes], Transcripts] = {}
    return [_without(task, committed.get((task.checkpoint, task.condition)), shared) for task in tasks]


def _without(task: Task, committed_T: NDArray[np.bool_] | None, shared: dict[tuple[int, bytes], Transcripts]) -> Task:
    if committed_T is None or not committed_T.any():
        return task
    missing, end = [], 0
    for unit in task.missing:
        first, end = end, end + len(unit.transcripts)
        held = committed_T[first:end]
        if not held.any():
            missing.append(unit)
        elif not held.all():
            key = id(unit.transcripts), held.tobytes()
            if key not in shared:
                shared[key] = Transcripts(unit.transcripts[number] for number in np.flatnonzero(~held))
            missing.append(unit.with_transcripts(shared[key]))
    assert end == len(committed_T)
    return Task(task.checkpoint, task.condition, task.transcripts, tuple(missing))


def by_transcript(tasks: Sequence[Task]) -> list[Unit]:
    """All missing units, those of the same transcripts under different conditions next to each other.

    A transcript that reads the same under two conditions is then scored once: the replica still has the scores.
    """
    numbers: dict[int, dict[str, int]] = {}
    numbered = []
    for task in tasks:
        index = numbers.get(id(task.transcripts))
        if index is None:
            index = {transcript.id: number for number, transcript in enumerate(task.transcripts)}
            numbers[id(task.transcripts)] = index
        numbered += [(index[unit.transcripts[0].id], unit) for unit in task.missing]
    return [unit for _, unit in sorted(numbered, key=lambda pair: pair[0])]


def fewer_units(units: Sequence[Unit], at_most: int) -> list[Unit]:
    """Join units of the same task where there are more than `at_most`, for a simulation: a plan has millions at times.

    The joined ones, about `at_most` of them, take as long together, and are in the order of the first of each.
    """
    size = -(-len(units) // at_most)
    if size <= 1:
        return list(units)
    groups: dict[tuple[str, str, int], list[Unit]] = {}
    seen = Counter[tuple[str, str]]()
    for unit in units:
        groups.setdefault((*unit.task, seen[unit.task] // size), []).append(unit)
        seen[unit.task] += 1
    return [
        Unit(
            checkpoint,
            condition,
            Transcripts(transcript for unit in group for transcript in unit.transcripts),
            seconds=sum(unit.seconds for unit in group),
        )
        for (checkpoint, condition, _), group in groups.items()
    ]
