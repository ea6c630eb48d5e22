"""The self-check of checkpoints, on the cluster that would score them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psych_ray.app.prepare import Prepared
from psych_ray.app.sweep import replica_specs
from psych_ray.cluster.check import Refused, run_check
from psych_ray.cluster.gang import require_room
from psych_ray.cluster.session import divide, ray_session
from psych_ray.config import Config
from psych_ray.transcripts.record import Transcript
from psych_ray.worker.spec import CheckpointReport


def check(
    prepared: Prepared, config: Config, transcripts: Sequence[Transcript]
) -> Iterator[CheckpointReport | Refused]:
    """Load every checkpoint in turn; what its self-check saw and how the transcripts align with its tokens."""
    most = max(placement.ranks for placement in prepared.placements.values())
    with ray_session(config.cluster):
        slots = divide(config.cluster, most)
        require_room(config.cluster, slots, most)
        specs = replica_specs(prepared, config, slots)
        yield from run_check(specs, slots, transcripts, across_nodes=config.cluster.across_nodes)
