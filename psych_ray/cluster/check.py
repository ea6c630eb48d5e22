"""The self-check of checkpoints on the machines that would score them: what `psych-ray check` shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from psych_ray.cluster.actor import Failure, ReplicaActor
from psych_ray.cluster.driver import replica_specs
from psych_ray.cluster.replica import CheckpointReport
from psych_ray.cluster.session import divide, ray_session
from psych_ray.config import Config
from psych_ray.sweep.prepare import Prepared
from psych_ray.transcripts.record import Transcript


@dataclass(frozen=True, slots=True)
class Refused:
    """Weights that could not be loaded, or did not pass."""

    checkpoints: tuple[str, ...]
    reason: str


def run_check(
    prepared: Prepared, config: Config, transcripts: Sequence[Transcript]
) -> Iterator[CheckpointReport | Refused]:
    """Load every checkpoint in turn, and tell what its self-check saw and how the transcripts align with its tokens."""
    with ray_session(config.cluster):
        specs = replica_specs(prepared, config, slots := divide(config.cluster, 1))
        for spec in specs.values():
            if spec.checkpoints[0].is_simulator:
                continue
            actor = ReplicaActor.options(  # type: ignore[attr-defined]
                num_cpus=slots.cpus, num_gpus=slots.gpus
            ).remote(spec)
            slugs = tuple(checkpoint.slug for checkpoint in spec.checkpoints)
            try:
                outcome: Any = ray.get(actor.load.remote())
                reports = ray.get(actor.check.remote(list(transcripts))) if isinstance(outcome, float) else outcome
            except RayError as error:
                reports = Failure(str(error).splitlines()[0], final=True, stops_sweep=False)
            finally:
                ray.kill(actor)
            if isinstance(reports, Failure):
                yield Refused(slugs, reports.reason)
            else:
                yield from reports
