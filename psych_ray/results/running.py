"""What a running sweep tells of itself in its results root, so that `psych-ray status` elsewhere can show it.

A file beside the lease, written every few seconds and removed at the end. For people only: nothing is decided by it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from psych_ray.results.store import ResultsStore

_NAME = "lease/progress.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTask:
    """A checkpoint under a condition of which units are being scored."""

    checkpoint: str
    """Slug."""
    condition: str
    responses: int
    """Committed, or read in units that are not."""
    planned: int
    seconds_left: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningSweep:
    """A sweep at one moment."""

    at: float
    """Seconds since 1970, by the clock of the machine that runs it."""
    responses: int
    """Committed, or read in units that are not."""
    planned: int
    tokens_per_second: float | None
    """Since the first unit; None before anything was read."""
    seconds_left: float | None
    """None before anything was read."""
    failures: int
    """Including those that were retried."""
    loading: tuple[str, ...] = ()
    """Slugs of checkpoints."""
    tasks: tuple[RunningTask, ...] = ()


def write_running(store: ResultsStore, running: RunningSweep) -> None:
    """Tell how far a sweep is. ResultsError where the store fails."""
    store.write(_NAME, json.dumps(asdict(running)).encode())


def forget_running(store: ResultsStore) -> None:
    """The sweep has ended. ResultsError where the store fails."""
    store.remove([_NAME])


def read_running(store: ResultsStore) -> RunningSweep | None:
    """What a sweep told last; None where there is none, or its file is damaged."""
    if not store.exists(_NAME):
        return None
    try:
        found = json.loads(store.read(_NAME))
        tasks = tuple(RunningTask(**task) for task in found.pop("tasks"))
        return RunningSweep(tasks=tasks, loading=tuple(found.pop("loading")), **found)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
