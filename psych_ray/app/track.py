"""Rebuilds tracking in Weights & Biases from a results root, of a sweep that has ended in whatever way.

Runs and their ids are those of the sweep; the points of their curves are parts, or several parts together, in the order
of the parts' names: footers do not say when a part was written. Reads no row for the runs, all rows for the report.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import polars as pl

from psych_ray.app.report import make_report, reported, sweep_name
from psych_ray.config import Config, TrackingKind
from psych_ray.errors import ConfigError, ResultsError
from psych_ray.results.catalogue import catalogue_index
from psych_ray.results.footers import made_by, scan_footers
from psych_ray.results.log import ResponsesLog
from psych_ray.results.schema import Part, PartName, Tally
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import ResultsStore, open_store
from psych_ray.sweep.unit import UnitReport
from psych_ray.tracking import events
from psych_ray.tracking.events import TaskPlan

_POINTS = 200
"""Of a run's curves, at most."""
_FINISH_S = 900.0


@dataclass(slots=True)
class _Clock:
    """Seconds that the replicas of the parts took, one after the other."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def track(config: Config, *, say: Callable[[str], None]) -> tuple[list[str], bool]:
    """Rebuild the runs; lines for the user, and whether all were recorded.

    ConfigError where the configuration names no tracking but the terminal; ResultsError where nothing is committed.
    """
    _require_wandb(config)
    from psych_ray.tracking.wandb_tracker import WandbTracker

    store = open_store(config.results.root)
    parts = ResponsesLog(store).parts()
    footers = scan_footers(store, parts)
    snapshot = Snapshot.of(store, parts, footers)
    if not snapshot.tasks:
        raise ResultsError(f"{store.location}: nothing is committed there, so there is nothing to track")
    clock = _Clock()
    directory = config.tracking_root() / "rebuilt"
    shutil.rmtree(directory, ignore_errors=True)  # files of an earlier `track`, which would be uploaded beside these
    tracker = WandbTracker(config.tracking, directory, warn=say, clock=clock, finish_seconds=_FINISH_S)
    tracker.handle(_started(config, store, snapshot))
    for (checkpoint, condition), rows in footers.rows.partition_by(
        "checkpoint", "condition", as_dict=True, maintain_order=True
    ).items():
        tracker.handle(events.UnitStarted(str(checkpoint), str(condition), ""))
        for report in _reports(rows):
            clock.now += report.seconds
            tracker.handle(events.UnitCommitted(report))
    tracker.handle(events.SweepEnded(seconds=clock.now))
    if not tracker.is_off:
        tracker.handle(reported(make_report(config, store, snapshot), store, snapshot))
    return tracker.summary_lines(), not tracker.is_off


def _require_wandb(config: Config) -> None:
    if config.tracking.kind != TrackingKind.wandb:
        raise ConfigError("tracking=console keeps no runs; psych-ray track needs tracking=wandb")
    if os.environ.get("WANDB_MODE") == "disabled":
        raise ConfigError("WANDB_MODE=disabled switches Weights & Biases off; unset it for psych-ray track")


def _started(config: Config, store: ResultsStore, snapshot: Snapshot) -> events.SweepStarted:
    """As if nothing had been committed before."""
    catalogued = [ref for ref in catalogue_index(store) if ref.n_responses]
    responses, characters = sum(ref.n_responses for ref in catalogued), sum(ref.n_characters for ref in catalogued)
    tasks = []
    for (checkpoint, condition), committed in snapshot.tasks.items():
        tasks.append(
            TaskPlan(
                checkpoint=checkpoint,
                condition=condition,
                units=committed.n_parts,
                responses=max(responses, committed.rows),
                responses_committed=0,
                characters=characters,
            )
        )
    return events.SweepStarted(
        name=sweep_name(config),
        results_root=config.results.root,
        scoring=snapshot.scoring[0],
        tasks=tuple(tasks),
        checkpoints={facts.slug: facts for facts in snapshot.checkpoints},
    )


def _reports(rows: pl.DataFrame) -> Iterator[UnitReport]:
    """The parts of a task as reports of units, several parts as one where there are many."""
    size = max(1, -(-rows.height // _POINTS))
    for some in rows.iter_slices(size):
        first = some.row(0, named=True)
        tallies: dict[str, Tally] = {}
        for one in some["tallies"].explode(empty_as_null=False).to_list():
            study = one.pop("study")
            tallies[study] = tallies.get(study, Tally()) + Tally(**one)
        yield UnitReport(
            checkpoint=first["checkpoint"],
            condition=first["condition"],
            unit=first["unit"],
            tokens=int(some["tokens"].sum()),
            responses=int(some["rows"].sum()),
            seconds=float(some["seconds"].sum()),
            by_study=tallies,
            part=Part(
                PartName(first["checkpoint"], first["condition"], first["unit"]),
                first["size"],
                made_by(first["made_by"]),
            ),
        )
