"""A plan of many checkpoints in few rows: those of one generation that are held alike together.

Pure: from what was planned.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from psych_ray.app.plan import SweepPlan
from psych_ray.checkpoints.find import Checkpoint, load_group


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedGroup:
    """Checkpoints of one generation whose weights are held by one engine on as many ranks."""

    generation: str
    checkpoints: int
    sizes_b: tuple[float, ...]
    """Billions of parameters, each once, ascending; of those of which it is known."""
    engine: str
    device: str
    """What one replica runs on."""
    responses_missing: int
    starts: int
    hours: float
    """Of one replica at a time, without loading."""
    gpu_hours: float
    """With loading, on all ranks."""


def planned_groups(planned: SweepPlan) -> list[PlannedGroup]:
    """Rows in the order of the checkpoints; those that do not fit, and those that are complete, are in none."""
    prepared = planned.prepared
    sharing: dict[str, list[Checkpoint]] = defaultdict(list)
    missing: dict[str, int] = defaultdict(int)
    for task in prepared.tasks:
        missing[task.checkpoint] += task.n_responses_missing
    for slug, checkpoint in prepared.checkpoints.items():
        if missing[slug]:
            sharing[load_group(checkpoint)].append(checkpoint)
    alike: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for weights, own in sharing.items():
        placement = prepared.placements.get(weights)
        if placement is not None:
            key = own[0].card.generation or own[0].card.family, placement.engine.value, prepared.devices[weights].name
            alike[key].append(weights)
    of_weights = {one.weights: one for one in planned.weights}
    rows = []
    for (generation, engine, device), held in alike.items():
        checkpoints = [checkpoint for weights in held for checkpoint in sharing[weights]]
        plans = [of_weights[weights] for weights in held]
        sizes = {checkpoint.card.size_b for checkpoint in checkpoints}
        row = PlannedGroup(
            generation=generation,
            checkpoints=len(checkpoints),
            sizes_b=tuple(sorted(size for size in sizes if size is not None)),
            engine=engine,
            device=device,
            responses_missing=sum(missing[checkpoint.slug] for checkpoint in checkpoints),
            starts=sum(one.starts for one in plans),
            hours=sum(one.seconds for one in plans) / 3600,
            gpu_hours=sum(one.gpu_hours for one in plans),
        )
        rows.append(row)
    return rows
