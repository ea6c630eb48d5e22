"""The self-check of checkpoints on the machines that would score them: what `psych-ray check` shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from psych_ray.cluster.gang import Gang
from psych_ray.errors import FailureKind, first_line
from psych_ray.sweep.cluster_shape import Slots
from psych_ray.sweep.failure import Failure
from psych_ray.transcripts.record import Transcript
from psych_ray.worker.spec import CheckpointReport, ReplicaSpec


@dataclass(frozen=True, slots=True)
class NotLoaded:
    """Weights that could not be loaded, or did not pass."""

    checkpoints: tuple[str, ...]
    reason: str


def run_check(
    specs: Mapping[str, ReplicaSpec], slots: Slots, transcripts: Sequence[Transcript], *, across_nodes: bool
) -> Iterator[CheckpointReport | NotLoaded]:
    """Load every checkpoint in turn, and report its self-check and how the transcripts align with its tokens.

    Needs a Ray session.
    """
    for weights, spec in specs.items():
        if spec.checkpoints[0].is_simulator:
            continue
        gang = Gang(spec, slots, name=f"check-{weights}", across_nodes=across_nodes)
        try:
            found = _of_all(gang.load())
            found = found if isinstance(found, Failure) else _of_all(gang.check(transcripts))
        except RayError as error:
            found = Failure(FailureKind.lost, first_line(error))
        finally:
            gang.kill()
        if isinstance(found, Failure):
            yield NotLoaded(tuple(checkpoint.slug for checkpoint in spec.checkpoints), found.reason)
        else:
            yield from found


def _of_all(references: Sequence[Any]) -> Any:
    """Return rank 0's outcome once all ranks are done, or the first failure: the others may then wait for that rank."""
    waiting = list(references)
    while waiting:
        (done,), waiting = ray.wait(waiting, num_returns=1)
        outcome = ray.get(done)
        if isinstance(outcome, Failure):
            return outcome
    return ray.get(references[0])
