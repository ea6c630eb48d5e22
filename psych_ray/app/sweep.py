"""The sweep: specifications of its replicas, a Ray session, and a scheduler that is driven in it."""

from __future__ import annotations

from collections import defaultdict

from psych_ray.app.prepare import Prepared, checkpoint_facts
from psych_ray.checkpoints.find import Checkpoint, load_group
from psych_ray.cluster.driver import drive
from psych_ray.cluster.gang import require_room
from psych_ray.cluster.session import Slots, divide, ray_session
from psych_ray.config import Config
from psych_ray.sweep.scheduler import Scheduler
from psych_ray.sweep.unit import Unit
from psych_ray.tracking.base import Tracker
from psych_ray.worker.spec import ReplicaSpec


def run_sweep(prepared: Prepared, config: Config, tracker: Tracker) -> list[str]:
    """Score all that is missing; a line for everything that was set aside.

    Raises ResultsError when nothing can be committed any more. KeyboardInterrupt passes through; what is committed by
    then stays.
    """
    units = _side_by_side(prepared)
    if not units:
        return []
    weights_of = {slug: load_group(checkpoint) for slug, checkpoint in prepared.checkpoints.items()}
    cost: dict[str, float] = defaultdict(float)
    for lane in prepared.lanes:
        cost[weights_of[lane.checkpoint]] += prepared.device.seconds(lane.n_characters_missing, lane.n_parameters)
    ranks = {weights: prepared.placements[weights].ranks for weights in {weights_of[u.checkpoint] for u in units}}
    with ray_session(config.cluster):
        slots = divide(config.cluster, sum(ranks.values()))
        require_room(config.cluster, slots, max(ranks.values()))
        scheduler = Scheduler.plan(
            units,
            slots=slots.ranks,
            attempts=config.cluster.attempts,
            cost=cost,
            weights_of=weights_of,
            ranks=ranks,
        )
        specs = replica_specs(prepared, config, slots)
        return drive(scheduler, specs, slots, tracker, across_nodes=config.cluster.across_nodes)


def _side_by_side(prepared: Prepared) -> list[Unit]:
    """All missing units, those of the same transcripts under different conditions next to each other.

    A transcript that reads the same under two conditions is then scored once: the replica still knows the answer.
    """
    placed = []
    for lane in prepared.lanes:
        place = {transcript.id: number for number, transcript in enumerate(lane.transcripts)}
        placed += [(place[unit.transcripts[0].id], unit) for unit in lane.missing]
    return [unit for _, unit in sorted(placed, key=lambda pair: pair[0])]


def replica_specs(prepared: Prepared, config: Config, slots: Slots) -> dict[str, ReplicaSpec]:
    """What each set of weights needs to know to be a replica, by the slug of the weights."""
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
            threads=slots.cpus,
            ranks=prepared.placements[weights].ranks,
            stall_seconds=config.cluster.stall_seconds,
        )
        for weights, checkpoints in groups.items()
    }
