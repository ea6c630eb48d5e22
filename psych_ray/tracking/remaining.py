"""How long a sweep will take from here: what was measured of it so far, and what was planned for the rest. Pure.

Work is counted in seconds of ranks. What a task was planned to take is multiplied by how much longer than planned its
units took so far; tasks of which nothing was read yet, by that of the checkpoint's other tasks, or of all. What is left
is shared by the ranks that are busy now.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median

from psych_ray.tracking.progress import SweepProgress, TaskProgress

_DOUBTED_S = 10.0
"""A ratio of so many measured seconds counts as much as that of the others."""


def seconds_left(progress: SweepProgress, at: float) -> float | None:
    """Of the whole sweep; None before anything was read. Counts down between events."""
    tasks = list(progress.tasks.values())
    if all(task.settled for task in tasks):
        return 0.0
    ratios = _Ratios(tasks)
    if not ratios.is_measured:
        return None
    left = sum(task.plan.ranks * ratios.seconds_left(task) for task in tasks)
    left += _loading(progress)
    slowest = max((_of_units(task) for task in tasks), default=0.0)
    return max(0.0, max(left / max(1, _busy(progress)), slowest) - (at - progress.changed_at))


def task_seconds_left(progress: SweepProgress, task: TaskProgress, at: float) -> float | None:
    """Of one task with the replicas that it has; None before anything of it was read."""
    if task.settled:
        return 0.0
    if task.seconds_spent <= 0:
        return None
    left = _Ratios(list(progress.tasks.values())).seconds_left(task) / max(1, len(task.reading))
    return max(0.0, max(left, _of_units(task)) - (at - progress.changed_at))


class _Ratios:
    """Measured over planned seconds, by task."""

    def __init__(self, tasks: Sequence[TaskProgress]) -> None:
        measured = {task.plan.key: one for task in tasks if (one := _measured([task])) is not None}
        of_checkpoints = {
            slug: one
            for slug in {task.plan.checkpoint for task in tasks}
            if (one := _measured(task for task in tasks if task.plan.checkpoint == slug)) is not None
        }
        self.is_measured = bool(measured)
        typical = median(one[0] for one in of_checkpoints.values()) if of_checkpoints else 1.0
        self._ratios: dict[tuple[str, str], float] = {}
        for task in tasks:
            ratio, key = typical, task.plan.key
            for found in (of_checkpoints.get(task.plan.checkpoint), measured.get(key)):
                if found is not None:
                    ratio = _between(ratio, *found)
            self._ratios[key] = ratio

    def seconds_left(self, task: TaskProgress) -> float:
        """Of one replica."""
        return self._ratios[task.plan.key] * _planned(task) * task.share_left


def _measured(tasks: Iterable[TaskProgress]) -> tuple[float, float] | None:
    """Ratio of what was read of these tasks, and the seconds it is measured over."""
    some = [task for task in tasks if task.seconds_spent > 0 and task.share_read > 0]
    planned = sum(_planned(task) * task.share_read for task in some)
    spent = sum(task.seconds_spent for task in some)
    return (spent / planned, spent) if planned > 0 else None


def _between(assumed: float, measured: float, seconds: float) -> float:
    weight = seconds / (seconds + _DOUBTED_S)
    return math.exp((1 - weight) * math.log(assumed) + weight * math.log(measured))


def _planned(task: TaskProgress) -> float:
    """Seconds of one replica; where none were estimated, characters take their place."""
    return task.plan.seconds or float(task.plan.characters)


def _of_units(task: TaskProgress) -> float:
    """Seconds until the slowest of its units is read, at its own rate so far."""
    units = [unit for unit in task.reading.values() if unit.share > 0]
    return max((unit.seconds * (1 - unit.share) / unit.share for unit in units), default=0.0)


def _loading(progress: SweepProgress) -> float:
    """Rank-seconds until all weights are loaded that were not, at the ratio of those that were."""
    plans = {task.plan.checkpoint: task.plan for task in progress.tasks.values()}
    took = [
        seconds / plans[slug].load_seconds
        for slug, seconds in progress.started_seconds.items()
        if slug in plans and plans[slug].load_seconds > 0
    ]
    ratio = median(took) if took else 1.0
    at_least = min(progress.started_seconds.values(), default=0.0)  # of processes, whatever they load
    loaded = {plans[slug].weights or slug for slug in progress.started_seconds if slug in plans}
    left: dict[str, float] = {}
    for task in progress.tasks.values():
        plan = task.plan
        weights = plan.weights or plan.checkpoint
        if task.settled or weights in loaded:
            continue
        since = progress.loading.get(plan.checkpoint)
        spent = 0.0 if since is None else progress.changed_at - since
        left[weights] = plan.ranks * max(0.0, max(ratio * plan.load_seconds, at_least) - spent)
    return sum(left.values())


def _busy(progress: SweepProgress) -> int:
    """Ranks that load or score."""
    scoring = sum(len(task.reading) * task.plan.ranks for task in progress.tasks.values())
    return progress.ranks or scoring + len(progress.loading)
