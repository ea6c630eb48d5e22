"""The sweep: plan it, drive its scheduler in a Ray session, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib import import_module
from threading import Thread

from psych_ray.app.cluster import cluster_to_run_on
from psych_ray.app.prepare import Prepared, checkpoint_facts, find_sweep, prepare
from psych_ray.app.report import make_report, reported, sweep_name
from psych_ray.checkpoints.find import Checkpoint, load_group
from psych_ray.checkpoints.wanted import Described
from psych_ray.config import Config, EngineName
from psych_ray.ending import ENDING
from psych_ray.results.store import RETRY_S, open_store
from psych_ray.results.table import ResponsesTable, open_table
from psych_ray.sweep.cluster_shape import Slots
from psych_ray.sweep.placement import Placement
from psych_ray.sweep.plan import by_transcript
from psych_ray.sweep.scheduler import Scheduler
from psych_ray.sweep.stalls import Deadlines
from psych_ray.sweep.starts import WeightsFacts
from psych_ray.tracking.events import SweepEnded, SweepStarted, TaskPlan, Tracker
from psych_ray.worker.spec import ReplicaSpec

_SHARING_PARAMETERS = 100_000_000
"""So many are loaded in less time than a new process takes to import what loads them."""


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """How a sweep ended."""

    lines: tuple[str, ...]
    """For the user: headline numbers, and where everything was written."""
    skipped: tuple[str, ...]
    """A line for everything that was not scored, with its reason."""


def sweep(config: Config, *, say: Callable[[str], None]) -> SweepResult:
    """Score what is missing, then report.

    `say` gets a line for every step that may take long, and for everything that was not scored.
    """
    from psych_ray.tracking import open_tracker

    if config.study.domains is not None:
        from psych_ray.study.domains import load_domains

        load_domains(config.study.domains)  # here, as the report is written only when all is scored
    results = config.results
    store = open_store(results.root, retry_s=min(RETRY_S, results.unreachable_seconds))
    found = find_sweep(config, say=say)
    for one in found.described:
        say(proposal_line(one))
    with (
        cluster_to_run_on(config.cluster) as cluster,
        open_table(
            store,
            "psych-ray sweep",
            say=say,
            lease_seconds=results.lease_seconds,
            unreachable_seconds=results.unreachable_seconds,
        ) as table,
    ):
        prepared = prepare(config, found.checkpoints, table.snapshot, store, cluster)
        tracker = open_tracker(config.tracking, config.tracking_root(), store=store)
        for left in prepared.left_out:
            say(str(left))
        skipped = [*found.missing.values(), *(f"{record.where}: {record.reason}" for record in prepared.skipped)]
        skipped += _tracked(prepared, config, table, tracker, skipped)
        for line in table.recover():
            say(line)
    for line in skipped:  # now: a report that fails must not hide them
        say(f"not scored: {line}")
    lines: tuple[str, ...] = ("nothing could be scored, so there is no report",)
    if table.snapshot.parts:
        made = make_report(config, store, table.snapshot)
        lines = made.lines
        tracker.handle(reported(made, store, table.snapshot))
    return SweepResult(lines=(*lines, *tracker.summary_lines()), skipped=tuple(skipped))


def proposal_line(described: Described) -> str:
    """What is proposed of a checkpoint, and what it follows from."""
    card = described.card
    values = {"family": card.family, "generation": card.generation, "size_b": card.size_b, "stage": card.stage}
    said = ", ".join(f"{name} {value}" for name, value in (values | {"base": card.base}).items() if value is not None)
    return f"{card.id}: {said} ({described.sources})"


def _tracked(
    prepared: Prepared, config: Config, table: ResponsesTable, tracker: Tracker, skipped: Sequence[str]
) -> list[str]:
    """Run the sweep and report its beginning and end to the tracker, whatever happens; lines as of `run_sweep`."""
    began = time.monotonic()
    tracker.handle(_started(prepared, config))
    failures: list[str] = []
    interrupted = False
    try:
        failures = run_sweep(prepared, config, table, tracker)
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        seconds = time.monotonic() - began
        tracker.handle(SweepEnded(seconds=seconds, failures=(*skipped, *failures), interrupted=interrupted))
    return failures


def _started(prepared: Prepared, config: Config) -> SweepStarted:
    tasks = [
        TaskPlan(
            checkpoint=task.checkpoint,
            condition=task.condition,
            units=len(task.missing),
            responses=task.n_responses,
            responses_committed=task.n_responses - task.n_responses_missing,
            characters=task.n_characters_missing,
            seconds=task.seconds_missing,
            weights=(weights := load_group(prepared.checkpoints[task.checkpoint])),
            ranks=prepared.placements[weights].ranks if weights in prepared.placements else 1,
            load_seconds=prepared.load_seconds.get(weights, 0.0),
            tallies=prepared.snapshot.tallies.get((task.checkpoint, task.condition), {}),
        )
        for task in prepared.tasks
    ]
    return SweepStarted(
        name=sweep_name(config),
        results_root=config.results.root,
        scoring=prepared.scoring,
        tasks=tuple(tasks),
        checkpoints={slug: checkpoint_facts(checkpoint) for slug, checkpoint in prepared.checkpoints.items()},
    )


def run_sweep(prepared: Prepared, config: Config, table: ResponsesTable, tracker: Tracker) -> list[str]:
    """Score all that is missing; a line for everything that was skipped.

    Raises ResultsError when nothing can be committed any more. KeyboardInterrupt passes through; what is committed by
    then stays.
    """
    units = by_transcript(prepared.tasks)
    if not units:
        return []
    from psych_ray.cluster.driver import drive
    from psych_ray.cluster.fetcher import Fetchers
    from psych_ray.cluster.nodes import NodesWatch
    from psych_ray.cluster.notices import NoticesWatch
    from psych_ray.cluster.session import ray_session

    specs = replica_specs(prepared, config)
    scheduler = Scheduler.plan(
        units,
        attempts=config.cluster.attempts,
        facts=weights_facts(prepared, specs),
        weights_of={slug: load_group(checkpoint) for slug, checkpoint in prepared.checkpoints.items()},
        deadlines=deadlines_of(config),
        across_nodes=config.cluster.across_nodes,
        replicas=config.cluster.replicas,
        prefetches=config.checkpoints.disk is not None,
    )
    _import_ahead()
    with (
        ray_session(config.cluster, prepared.cluster) as check,
        NodesWatch(prepared.slots, notices=NoticesWatch(config.cluster.notices)) as nodes,
        closing(Fetchers(specs)) as fetches,
    ):
        return drive(
            scheduler,
            specs,
            prepared.slots,
            table,
            tracker,
            nodes,
            fetches=fetches,
            across_nodes=config.cluster.across_nodes,
            ending=ENDING,
            check=check,
        )


def _import_ahead() -> None:
    """Import what the report needs in a thread, as this process would only wait while Ray starts."""

    def run() -> None:
        with suppress(Exception):  # the report imports it again, and raises
            import_module("psych_ray.report")

    Thread(target=run, name="imports", daemon=True).start()


def weights_facts(prepared: Prepared, specs: Mapping[str, ReplicaSpec]) -> dict[str, WeightsFacts]:
    """What the scheduler knows of all weights that have a placement, by their slug."""
    return {
        weights: WeightsFacts(spec.ranks, spec.needs_process_group, prepared.load_seconds[weights])
        for weights, spec in specs.items()
    }


def deadlines_of(config: Config) -> Deadlines:
    """How long replicas may show no progress."""
    cluster = config.cluster
    return Deadlines(
        stall_seconds=cluster.stall_seconds, load_seconds=cluster.load_seconds, place_seconds=cluster.place_seconds
    )


def replica_specs(prepared: Prepared, config: Config) -> dict[str, ReplicaSpec]:
    """Specification of a replica of all weights that have a placement, by their slug."""
    groups: dict[str, list[Checkpoint]] = {}
    for checkpoint in prepared.checkpoints.values():
        if load_group(checkpoint) in prepared.placements:
            groups.setdefault(load_group(checkpoint), []).append(checkpoint)
    return {
        weights: ReplicaSpec(
            checkpoints=tuple(checkpoints),
            facts={checkpoint.slug: checkpoint_facts(checkpoint) for checkpoint in checkpoints},
            identity=prepared.scoring,
            calibration=config.scoring.calibration,
            engine=prepared.placements[weights].engine,
            device=config.scoring.device,
            device_name=prepared.devices[weights].name,
            nvme=config.scoring.nvme,
            disk=config.checkpoints.disk,
            disk_gb=config.checkpoints.disk_gb,
            results_root=prepared.store.location,
            allow_pickle=config.checkpoints.allow_pickle,
            threads=prepared.slots.cpus,
            ranks=prepared.placements[weights].ranks,
            stall_seconds=config.cluster.stall_seconds,
            shares_process=_share_process(checkpoints, prepared.placements[weights], prepared.slots, config),
        )
        for weights, checkpoints in groups.items()
    }


def _share_process(checkpoints: Sequence[Checkpoint], placement: Placement, slots: Slots, config: Config) -> bool:
    """Whether weights are small, on one CPU rank, and come without code that could change what is loaded next."""
    return (
        placement.ranks == 1
        and placement.engine == EngineName.transformers
        and not slots.gpus
        and not config.checkpoints.allow_pickle
        and all(one.reference or 0 < one.n_parameters <= _SHARING_PARAMETERS for one in checkpoints)
        and not any(one.card.trust_remote_code for one in checkpoints)
    )
