"""The sweep: what its replicas need to know, a Ray session, and a scheduler that is driven in it."""

from __future__ import annotations

from collections import defaultdict

from psych_ray.app.prepare import Prepared, checkpoint_facts
from psych_ray.checkpoints.find import Checkpoint, load_group
from psych_ray.cluster.driver import drive
from psych_ray.cluster.session import ray_session
from psych_ray.config import Config
from psych_ray.sweep.plan import by_transcript
from psych_ray.sweep.scheduler import Scheduler
from psych_ray.tracking.events import Tracker
from psych_ray.worker.spec import ReplicaSpec


def run_sweep(prepared: Prepared, config: Config, tracker: Tracker) -> list[str]:
    """Score all that is missing; a line for everything that was skipped.

    Raises ResultsError when nothing can be committed any more. KeyboardInterrupt passes through; what is committed by
    then stays.
    """
    units = by_transcript(prepared.tasks)
    if not units:
        return []
    weights_of = {slug: load_group(checkpoint) for slug, checkpoint in prepared.checkpoints.items()}
    cost: dict[str, float] = defaultdict(float)
    for task in prepared.tasks:
        cost[weights_of[task.checkpoint]] += task.seconds_missing
    scheduler = Scheduler.plan(
        units,
        slots=prepared.slots.ranks,
        attempts=config.cluster.attempts,
        cost=cost,
        weights_of=weights_of,
        ranks={weights_of[unit.checkpoint]: prepared.placements[weights_of[unit.checkpoint]].ranks for unit in units},
    )
    specs = replica_specs(prepared, config)
    with ray_session(config.cluster):
        return drive(scheduler, specs, prepared.slots, tracker, across_nodes=config.cluster.across_nodes)


def replica_specs(prepared: Prepared, config: Config) -> dict[str, ReplicaSpec]:
    """What a replica of each set of weights needs to know, by the slug of the weights."""
    groups: dict[str, list[Checkpoint]] = {}
    for checkpoint in prepared.checkpoints.values():
        groups.setdefault(load_group(checkpoint), []).append(checkpoint)
    return {
        weights: ReplicaSpec(
            checkpoints=tuple(checkpoints),
            facts={checkpoint.slug: checkpoint_facts(checkpoint) for checkpoint in checkpoints},
            identity=prepared.scoring,
            engine=prepared.placements[weights].engine,
            device=config.scoring.device,
            nvme=config.scoring.nvme,
            results_root=prepared.store.location,
            allow_pickle=config.checkpoints.allow_pickle,
            threads=prepared.slots.cpus,
            ranks=prepared.placements[weights].ranks,
            stall_seconds=config.cluster.stall_seconds,
        )
        for weights, checkpoints in groups.items()
    }
