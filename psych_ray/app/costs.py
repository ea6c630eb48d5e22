"""What the tasks of a plan cost: rates from the footers of a results root, or assumed ones, and the units they give.

Reads nothing: all of it is in the snapshot already.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psych_ray.checkpoints.find import Checkpoint, load_group
from psych_ray.checkpoints.shape import CheckpointShape
from psych_ray.config import Config
from psych_ray.results.snapshot import Snapshot
from psych_ray.sweep.cost import Device, most_characters_read
from psych_ray.sweep.plan import PlannedTranscripts, Task, plan_task
from psych_ray.sweep.rates import Rate, Rates

_Tasks = Mapping[tuple[str, str], NDArray[np.bool_]]


def measured_rates(
    snapshot: Snapshot,
    checkpoints: Iterable[Checkpoint],
    shapes: Mapping[str, CheckpointShape],
    planned: PlannedTranscripts,
    committed: _Tasks,
    config: Config,
) -> Rates:
    """The rates that the root's footers give. `committed`: which of the planned transcripts are, by task.

    Characters per token are known of tasks of which all that is committed is in the plan.
    """
    n_parameters = {facts.slug: int(1e9 * (facts.size_b or 0.0)) for facts in snapshot.checkpoints}
    n_parameters |= {checkpoint.slug: checkpoint.n_parameters for checkpoint in checkpoints}
    characters: dict[tuple[str, str], tuple[int, int]] = {}
    for key, task in snapshot.tasks.items():
        shape, is_in_T = shapes.get(key[0]), committed.get(key)
        if shape is None or is_in_T is None or not task.tokens or is_in_T.sum() < len(task.transcripts):
            continue
        read_T = np.diff(planned.n_characters_read(most_characters_read(config.scoring, shape.context)))
        characters[key] = int(read_T[is_in_T].sum()), task.tokens
    return Rates.of({key: task.measured for key, task in snapshot.tasks.items()}, n_parameters, characters)


@dataclass(frozen=True, slots=True)
class Cost:
    """What is known of the time that a checkpoint takes."""

    rates: Rates
    checkpoint: Checkpoint
    shape: CheckpointShape
    device: Device
    """What one replica runs on."""

    def rate(self, condition: str | None = None) -> Rate:
        """Of one replica; None: over all conditions."""
        slug, n_parameters = self.checkpoint.slug, self.shape.n_parameters
        if condition is None:
            return self.rates.of_checkpoint(slug, n_parameters, self.device)
        return self.rates.of_task(slug, condition, n_parameters, self.device)


def costs_of(
    checkpoints: Iterable[Checkpoint],
    shapes: Mapping[str, CheckpointShape],
    devices: Mapping[str, Device],
    rates: Rates,
) -> dict[str, Cost]:
    """By slug, of those whose weights have a device."""
    return {
        one.slug: Cost(rates, one, shapes[one.slug], devices[load_group(one)])
        for one in checkpoints
        if load_group(one) in devices
    }


def planned_task(
    checkpoint: Checkpoint, condition: str, planned: PlannedTranscripts, cost: Cost | None, config: Config
) -> Task:
    """Divide a task; in no time where nothing of the checkpoint is missing, or it has no placement (`cost` is None)."""
    return plan_task(
        checkpoint=checkpoint.slug,
        condition=condition,
        transcripts=planned,
        unit_seconds=config.scoring.unit_seconds,
        characters_per_s=cost.rate(condition).characters_per_s if cost else math.inf,
        divided_at=cost.rate().characters_per_s if cost else None,
        most_characters=most_characters_read(config.scoring, cost.shape.context) if cost else None,
    )


def is_complete(committed_T: NDArray[np.bool_] | None) -> bool:
    """Whether all planned transcripts of a task are committed."""
    return committed_T is not None and bool(committed_T.all())
