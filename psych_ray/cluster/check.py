"""The self-check of checkpoints on the machines that would score them: what `psych-ray check` shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from psych_ray.cluster.driver import POLL_S
from psych_ray.cluster.gang import Gang
from psych_ray.errors import FailureKind, first_line
from psych_ray.sweep.cluster_shape import Slots
from psych_ray.sweep.failure import Failure
from psych_ray.transcripts.record import Transcript
from psych_ray.worker.spec import CheckpointReport, ReplicaSpec

LONGEST_S = 3600.0
"""How long the first rank may take to load the weights."""


@dataclass(frozen=True, slots=True)
class NotLoaded:
    """Weights that could not be loaded, or did not pass."""

    checkpoints: tuple[str, ...]
    reason: str


def run_check(
    specs: Mapping[str, ReplicaSpec],
    slots: Slots,
    transcripts: Sequence[Transcript],
    *,
    across_nodes: bool,
    check_cluster: Callable[[], None] = lambda: None,
) -> Iterator[CheckpointReport | NotLoaded]:
    """Load every checkpoint in turn, and report its self-check and how the transcripts align with its tokens.

    Needs a Ray session, of which `check_cluster` raises an error once it no longer answers.
    """
    for weights, spec in specs.items():
        if spec.checkpoints[0].is_simulator:
            continue
        gang = Gang(spec, slots, name=f"check-{weights}", across_nodes=across_nodes)
        try:
            found = _of_all(gang.load(), spec.stall_seconds, check_cluster)
            if not isinstance(found, Failure):
                found = _of_all(gang.check(transcripts), spec.stall_seconds, check_cluster)
        except RayError as error:
            found = Failure(FailureKind.lost, first_line(error))
        finally:
            gang.kill()
        if isinstance(found, Failure):
            yield NotLoaded(tuple(checkpoint.slug for checkpoint in spec.checkpoints), found.reason)
        else:
            yield from found


def _of_all(references: Sequence[Any], stall_seconds: float, check_cluster: Callable[[], None]) -> Any:
    """Return rank 0's outcome once all ranks are done, or the first failure: the others may then wait for that rank.

    A failure as well where no rank is done in `LONGEST_S`, or another one `stall_seconds` after the last.
    """
    waiting = list(references)
    deadline = time.monotonic() + LONGEST_S
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1, timeout=POLL_S)
        check_cluster()
        for reference in done:
            outcome = ray.get(reference)
            if isinstance(outcome, Failure):
                return outcome
            deadline = time.monotonic() + stall_seconds
        if waiting and time.monotonic() > deadline:
            return Failure(FailureKind.lost, f"rank {references.index(waiting[0])} reported nothing")
    return ray.get(references[0])
