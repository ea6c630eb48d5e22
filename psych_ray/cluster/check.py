"""The self-check of checkpoints on the machines that would score them: what `psych-ray check` shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from psych_ray.cluster.driver import POLL_S
from psych_ray.cluster.gang import Gang, resources
from psych_ray.errors import ClusterLostError, FailureKind, first_line
from psych_ray.sweep.cluster_shape import Slots
from psych_ray.sweep.failure import Failure
from psych_ray.sweep.stalls import Deadlines, Watch
from psych_ray.transcripts.record import Transcript
from psych_ray.worker.spec import CheckpointReport, ReplicaSpec


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
    deadlines: Deadlines,
    check_cluster: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[CheckpointReport | NotLoaded]:
    """Load every checkpoint in turn, and report its self-check and how the transcripts align with its tokens.

    Needs a Ray session, of which `check_cluster` raises an error once it no longer answers.
    """
    for weights, spec in specs.items():
        if spec.of_references:
            continue
        gang = Gang(spec, slots, name=f"check-{weights}", across_nodes=across_nodes)
        with ExitStack() as ends:
            ends.callback(gang.kill)
            try:
                wait = _Wait(gang, Watch(deadlines.place_seconds, clock()), deadlines, check_cluster, clock)
                found = wait.of_all(gang.load())
                found = found if isinstance(found, Failure) else wait.of_all(gang.check(transcripts))
            except RayError as error:
                found = Failure(FailureKind.lost, first_line(error))
            except ClusterLostError:
                ends.pop_all()  # it cannot be ended through Ray, and ends when it notices
                raise
        if isinstance(found, Failure):
            yield NotLoaded(tuple(checkpoint.slug for checkpoint in spec.checkpoints), found.reason)
        else:
            yield from found


@dataclass(slots=True)
class _Wait:
    """Waits for the ranks of a gang as long as they make progress."""

    gang: Gang
    watch: Watch
    deadlines: Deadlines
    check_cluster: Callable[[], None]
    clock: Callable[[], float]
    asked: dict[Any, int] = field(default_factory=dict)
    """Ranks that were asked for their progress, by the reference to the answer."""

    def of_all(self, references: Sequence[Any]) -> Any:
        """Rank 0's outcome once all ranks are done, or the first failure: the others may then wait for that rank."""
        waiting = {reference: rank for rank, reference in enumerate(references)}
        if self.watch.is_placed:
            self.watch.begin(self.deadlines.load_seconds, self.clock())
        while waiting:
            self._ask(set(waiting.values()))
            done, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL_S)
            self.check_cluster()
            for reference in done:
                del waiting[reference]
                outcome = ray.get(reference)
                if isinstance(outcome, Failure):
                    return outcome
            self._answers()
            if waiting and self.watch.deadline(waiting.values()) <= self.clock():
                return Failure(FailureKind.lost, self._late())
        return ray.get(references[0])

    def _ask(self, ranks: set[int]) -> None:
        for rank in ranks - set(self.asked.values()):
            self.asked[self.gang.progress(rank)] = rank

    def _answers(self) -> None:
        done, _ = ray.wait(list(self.asked), num_returns=len(self.asked), timeout=0)
        for reference in done:
            self.watch.answered(self.deadlines.load_seconds, self.clock())
            self.watch.progress(self.asked.pop(reference), ray.get(reference).work, self.clock())

    def _late(self) -> str:
        if self.watch.is_placed:
            return f"it made no progress for {self.watch.seconds:g} s"
        free = resources(ray.available_resources())
        return f"it had no place on the cluster for {self.watch.seconds:g} s: {self.gang.asks_for}; free are {free}"
