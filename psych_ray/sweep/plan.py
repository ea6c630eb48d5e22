"""The plan: all units of a sweep, and those of them that are still missing from the results.

A unit is a run of transcripts that takes about a minute. What is committed is known by transcript, not by unit: a root
whose plan was widened, or whose units were cut differently, goes on without scoring any transcript twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from psych_ray.results.reading import PartPlace, transcripts_in
from psych_ray.results.root import ResultsRoot
from psych_ray.results.schema import TranscriptRef
from psych_ray.sweep.cost import Device
from psych_ray.sweep.unit import Unit

_UNITS_AT_LEAST = 4


@dataclass(frozen=True, slots=True)
class Lane:
    """One checkpoint under one condition: its transcripts, and the units that are still missing."""

    checkpoint: str
    condition: str
    n_parameters: int
    transcripts: tuple[TranscriptRef, ...]
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


def plan_lane(
    *,
    checkpoint: str,
    condition: str,
    n_parameters: int,
    transcripts: Sequence[TranscriptRef],
    unit_seconds: float,
    device: Device,
) -> Lane:
    """Cut the transcripts that have responses into units of about `unit_seconds`, all of them missing."""
    worth = tuple(t for t in transcripts if t.n_responses)
    seconds = [device.seconds(t.n_characters, n_parameters) for t in worth]
    budget = min(unit_seconds, sum(seconds) / _UNITS_AT_LEAST)
    units: list[Unit] = []
    run: list[TranscriptRef] = []
    spent = 0.0
    for transcript, cost in zip(worth, seconds, strict=True):
        if run and spent + cost > budget:
            units.append(Unit(checkpoint, condition, tuple(run)))
            run, spent = [], 0.0
        run.append(transcript)
        spent += cost
    if run:
        units.append(Unit(checkpoint, condition, tuple(run)))
    return Lane(checkpoint, condition, n_parameters, worth, tuple(units))


def without_committed(lanes: Iterable[Lane], root: ResultsRoot, parts: Iterable[PartPlace]) -> list[Lane]:
    """Take out of each lane's missing units what its parts hold.

    Reads only the parts that are none of the planned units.
    """
    committed: dict[tuple[str, str], set[str]] = defaultdict(set)
    for part in parts:
        committed[part.checkpoint, part.condition].add(part.unit)
    return [_without(lane, root, committed[lane.checkpoint, lane.condition]) for lane in lanes]


def _without(lane: Lane, root: ResultsRoot, committed: set[str]) -> Lane:
    missing = [unit for unit in lane.missing if unit.id not in committed]
    unplanned = committed - {unit.id for unit in lane.missing}
    if unplanned and missing:
        done = transcripts_in(root, lane.checkpoint, lane.condition, sorted(unplanned))
        rests = (tuple(t for t in unit.transcripts if t.id not in done) for unit in missing)
        missing = [Unit(lane.checkpoint, lane.condition, rest) for rest in rests if rest]
    return replace(lane, missing=tuple(missing))
