"""What a results root holds, told from the root alone: no configuration, no checkpoint and no source is needed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from psych_ray.errors import ResultsError
from psych_ray.results.catalogue import catalogue_index
from psych_ray.results.parts import PartName, part_names, read_footer
from psych_ray.results.reading import transcripts_in
from psych_ray.results.store import ResultsStore
from psych_ray.transcripts.status import Status

_PLAN = "plan.json"


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """One checkpoint under one condition."""

    checkpoint: str
    condition: str
    transcripts: int
    """Committed."""
    transcripts_missing: int
    """In `sources/` and not committed."""
    rows: int
    rows_not_scored: int
    """Cut, empty, altered or not applicable."""
    parts: int


@dataclass(frozen=True, slots=True)
class RootStatus:
    """A results root."""

    n_transcripts: int
    """With at least one response, in `sources/`."""
    lanes: tuple[TaskStatus, ...]


def status_of(store: ResultsStore) -> RootStatus:
    """Count what is committed. ResultsError where there is no sweep, or a part is damaged."""
    catalogued = {ref.id for ref in catalogue_index(store) if ref.n_responses}
    if not catalogued:
        raise ResultsError(f"{store.location}: no sweep there yet; run psych-ray sweep results.root={store.location}")
    by_lane: dict[tuple[str, str], list[PartName]] = {lane: [] for lane in _planned(store)}
    for part in part_names(store):
        by_lane.setdefault(part.task, []).append(part)
    return RootStatus(len(catalogued), tuple(_lane(store, *key, places, catalogued) for key, places in by_lane.items()))


def write_plan(store: ResultsStore, lanes: Sequence[tuple[str, str]]) -> None:
    """Note which checkpoints (slugs) and conditions the sweep on this root is about; the last sweep's plan stands."""
    content = [{"checkpoint": checkpoint, "condition": condition} for checkpoint, condition in lanes]
    store.write(_PLAN, json.dumps(content, indent=1).encode())


def _planned(store: ResultsStore) -> list[tuple[str, str]]:
    if not store.exists(_PLAN):
        return []
    return [(lane["checkpoint"], lane["condition"]) for lane in json.loads(store.read(_PLAN))]


def _lane(
    store: ResultsStore, checkpoint: str, condition: str, places: list[PartName], all_ids: set[str]
) -> TaskStatus:
    rows: dict[str, int] = defaultdict(int)
    for place in places:
        for status, count in read_footer(store, place).rows_by_status.items():
            rows[status] += count
    committed = transcripts_in(store, places)
    total = sum(rows.values())
    return TaskStatus(
        checkpoint=checkpoint,
        condition=condition,
        transcripts=len(committed),
        transcripts_missing=len(all_ids - committed),
        rows=total,
        rows_not_scored=total - rows[Status.scored],
        parts=len(places),
    )
