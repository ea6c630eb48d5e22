"""What a results store holds and lacks, from the store alone: no configuration, checkpoint or source is read."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from psych_ray.errors import ResultsError, first_line
from psych_ray.results.catalogue import catalogue_index
from psych_ray.results.lease import Holder, holder_of
from psych_ray.results.running import RunningSweep, read_running
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import ResultsStore
from psych_ray.transcripts.status import Status

PLAN = "plan.json"


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """One checkpoint under one condition."""

    checkpoint: str
    """Slug."""
    condition: str
    transcripts: int = 0
    """Committed."""
    transcripts_missing: int = 0
    """In `sources/`, with responses, and not committed."""
    rows: int = 0
    rows_not_scored: int = 0
    """Cut, empty, altered or not applicable."""
    parts: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """A results store to which a process writes."""

    holder: Holder
    is_sure: bool
    """Whether that process runs on this machine; of other machines it is not known."""
    running: RunningSweep | None
    """How far it is, as it told last; None where it scores nothing at the moment."""
    seconds_ago: float
    """When it told that, by the clocks of both machines."""


@dataclass(frozen=True, slots=True)
class RootStatus:
    """A results store."""

    n_transcripts: int
    """In `sources/`, with at least one response."""
    tasks: tuple[TaskStatus, ...]


def status_of(store: ResultsStore) -> RootStatus:
    """Count what is committed. ResultsError where there is no sweep, or a part is damaged."""
    catalogued = [ref.id for ref in catalogue_index(store) if ref.n_responses]
    if not catalogued:
        raise ResultsError(f"{store.location}: no sweep there yet; run psych-ray sweep results.root={store.location}")
    snapshot = Snapshot.read(store)
    keys = dict.fromkeys([*planned_tasks(store), *snapshot.tasks])
    n_committed = {key: int(is_in.sum()) for key, is_in in snapshot.committed_among(catalogued).items()}
    missing = {key: len(catalogued) - n_committed.get(key, 0) for key in keys}
    return RootStatus(len(catalogued), tuple(_task(snapshot, *key, n) for key, n in missing.items()))


def held_by(store: ResultsStore) -> Held | None:
    """Who writes to a results store, and how far that is; None where nobody is known to."""
    holder = holder_of(store)
    if holder is None:
        return None
    running = read_running(store)
    seconds_ago = max(0.0, time.time() - running.at) if running else 0.0
    return Held(holder, holder.runs is True, running, seconds_ago)


def write_plan(store: ResultsStore, tasks: Sequence[tuple[str, str]]) -> None:
    """Record the tasks of a sweep, each by checkpoint (slug) and condition, in place of those of earlier sweeps."""
    content = [{"checkpoint": checkpoint, "condition": condition} for checkpoint, condition in tasks]
    store.write(PLAN, json.dumps(content, indent=1).encode())


def planned_tasks(store: ResultsStore) -> list[tuple[str, str]]:
    """Tasks of the last sweep, each by checkpoint (slug) and condition; [] where there was none."""
    if not store.exists(PLAN):
        return []
    try:
        return [(_name(task, "checkpoint"), _name(task, "condition")) for task in json.loads(store.read(PLAN))]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ResultsError(
            f"{store.location}/{PLAN}: damaged ({first_line(error)}); the sweep's command writes it again"
        ) from error


def _name(task: dict[str, object], key: str) -> str:
    name = task[key]
    if not isinstance(name, str) or not name:
        raise ValueError(f"{key} is no name")
    return name


def _task(snapshot: Snapshot, checkpoint: str, condition: str, missing: int) -> TaskStatus:
    committed = snapshot.tasks.get((checkpoint, condition))
    if committed is None:
        return TaskStatus(checkpoint, condition, transcripts_missing=missing)
    return TaskStatus(
        checkpoint,
        condition,
        transcripts=len(committed.transcripts),
        transcripts_missing=missing,
        rows=committed.rows,
        rows_not_scored=committed.rows - committed.rows_by_status.get(Status.scored, 0),
        parts=committed.n_parts,
    )
