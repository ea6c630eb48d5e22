"""The self-check of checkpoints, on the cluster that would score them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from psych_ray.app.prepare import Prepared
from psych_ray.app.sweep import deadlines_of, replica_specs
from psych_ray.cluster.check import NotLoaded, run_check
from psych_ray.cluster.session import ray_session
from psych_ray.config import Config
from psych_ray.sweep.cluster_shape import divide
from psych_ray.transcripts.record import Transcript
from psych_ray.worker.spec import CheckpointReport


def check(
    prepared: Prepared, config: Config, transcripts: Sequence[Transcript]
) -> Iterator[CheckpointReport | NotLoaded]:
    """Load one checkpoint after the other: what its self-check saw and how the transcripts align with its tokens."""
    most = max(placement.ranks for placement in prepared.placements.values())
    slots = divide(prepared.cluster, most, gang=most, cpus_per_rank=config.cluster.cpus_per_replica)
    specs = replica_specs(replace(prepared, slots=slots), config)
    with ray_session(config.cluster, prepared.cluster) as check_cluster:
        yield from run_check(
            specs,
            slots,
            transcripts,
            across_nodes=config.cluster.across_nodes,
            deadlines=deadlines_of(config),
            check_cluster=check_cluster,
        )
