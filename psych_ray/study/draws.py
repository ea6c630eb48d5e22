"""The bootstrap draws of all statistics of a report, made together, so that they stay dependent.

Statistics of each study: Cohen's d and the difference in accuracy of every comparison, NLL and accuracy of every task.
Shapes: B draws, S studies, P participants, C comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, product
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from psych_ray.study.bootstrap import Bootstrap, clusters, interval
from psych_ray.study.comparing import Comparison
from psych_ray.study.numbering import Ints
from psych_ray.study.rows import Task
from psych_ray.study.tallies import Tallies
from psych_ray.study.task_sums import Floats, Sums

_OF_PAIR = ("n", "a", "b", "aa", "bb", "letters", "letter_a", "letter_b")
_OF_TASK = ("n", "x", "letters", "letter_hits")
_CONSTANT = 1e-12
"""A variance of this share of the mean square, or less, is a rounding error: all drawn NLLs are equal."""
_SUMS_BYTES = 2**28
"""Of sums by participant that are in memory together; the same participants are drawn for each part of them."""
Draw = NDArray[np.float32]
_Part = Sequence[Any]
"""Comparisons, or tasks."""
_Statistic = Callable[[Floats, int], Floats]


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Draws of the statistics of each study."""

    bootstrap: Bootstrap
    comparisons: Mapping[str, Sequence[Comparison]]
    """By kind."""
    tasks: Sequence[Task]
    participants_S: Ints
    """Participants of each study."""
    d: Mapping[str, Draw]
    """Cohen's d by kind of comparison [B, S, C]."""
    accuracy: Mapping[str, Draw]
    """Difference in accuracy on single letters by kind of comparison [B, S, C]."""
    task_nll: Draw
    """[B, S, tasks]."""
    task_accuracy: Draw

    def over_all_studies(self, values_BSV: Draw) -> tuple[Floats, Floats]:
        """Interval of the mean over the studies that each statistic has [V]."""
        has_SV: NDArray[np.bool_] = np.any(~np.isnan(values_BSV), axis=0)
        participants = np.array([self.participants_S[has].sum() for has in has_SV.T], np.int64)
        drawn = self.bootstrap.over_studies(values_BSV, np.ones(len(has_SV), np.bool_))
        return interval(drawn, clusters(has_SV.sum(axis=0), participants))

    def task_intervals(self) -> pl.DataFrame:
        """checkpoint, condition, low and high of the mean NLL over studies, accuracy_low and accuracy_high."""
        low, high = self.over_all_studies(self.task_nll)
        accuracy_low, accuracy_high = self.over_all_studies(self.task_accuracy)
        return pl.DataFrame(
            {
                "checkpoint": [task.checkpoint for task in self.tasks],
                "condition": [task.condition for task in self.tasks],
                "low": low,
                "high": high,
                "accuracy_low": accuracy_low,
                "accuracy_high": accuracy_high,
            },
            schema_overrides={"checkpoint": pl.String, "condition": pl.String},
        ).with_columns(pl.col(pl.Float64).fill_nan(None))


def draw(
    tallies: Tallies,
    kinds: Mapping[str, Sequence[Comparison]],
    bootstrap: Bootstrap,
    *,
    on_progress: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> Draws:
    """Draw the statistics of pairs and conditions, and of all tasks."""
    tasks = list(tallies.tasks)
    kept = {kind: [one for one in kinds[kind] if one in tallies.comparisons] for kind in ("pairs", "conditions")}
    all_ = [one for comparisons in kept.values() for one in comparisons]
    n_participants, n_studies = len(tallies.study_P), len(tallies.studies)
    of_pairs, of_tasks = _parts(all_, len(_OF_PAIR), n_participants), _parts(tasks, len(_OF_TASK), n_participants)
    done, total = count(1), n_studies * (len(of_pairs) + len(of_tasks))

    def drawn(parts: Sequence[_Part], sums_of: Callable[[Tallies, _Part], tuple[Floats, _Statistic]]) -> list[Draw]:
        n, begin = sum(map(len, parts)), 0
        first, second = (np.empty((bootstrap.draws, n_studies, n), np.float32) for _ in range(2))
        for part in parts:
            own = slice(begin, begin := begin + len(part))
            both = bootstrap.by_study(
                *sums_of(tallies, part), on_study=lambda _: on_progress("bootstrap", next(done), total)
            )
            first[..., own], second[..., own] = np.split(both, 2, axis=2)
        return [first, second]

    d, hits = drawn(of_pairs, _of_pairs)
    nll, accuracy = drawn(of_tasks, _of_tasks)
    split = len(kept["pairs"])
    return Draws(
        bootstrap=bootstrap,
        comparisons=kept,
        tasks=tasks,
        participants_S=np.bincount(tallies.study_P, minlength=len(tallies.studies)),
        d={"pairs": d[..., :split], "conditions": d[..., split:]},
        accuracy={"pairs": hits[..., :split], "conditions": hits[..., split:]},
        task_nll=nll,
        task_accuracy=accuracy,
    )


def _parts(items: Sequence[Any], n_sums: int, n_participants: int) -> list[_Part]:
    """As many at a time as have sums of `_SUMS_BYTES`."""
    at_once = max(1, _SUMS_BYTES // (8 * n_sums * max(1, n_participants)))
    return [items[begin : begin + at_once] for begin in range(0, len(items), at_once)]


def _of_pairs(tallies: Tallies, part: _Part) -> tuple[Floats, _Statistic]:
    """Sums of comparisons by participant [P, K], and what d and the difference in accuracy are of them."""
    sums_PK = _stacked(tallies, [tallies.comparisons[one].sums for one in part], _OF_PAIR)
    centres = np.array([tallies.comparisons[one].centres_S for one in part])
    usable = _usable(tallies, part)

    def statistic(drawn: Floats, study: int) -> Floats:
        sums = drawn.reshape(len(drawn), len(part), len(_OF_PAIR))
        d = np.where(usable[:, study], _d(sums, centres[:, 0, study] - centres[:, 1, study]), np.nan)
        letters = np.where(sums[..., 5] > 0, sums[..., 5], np.nan)
        return np.concatenate([d, (sums[..., 6] - sums[..., 7]) / letters], axis=1)

    return sums_PK, statistic


def _of_tasks(tallies: Tallies, part: _Part) -> tuple[Floats, _Statistic]:
    """Sums of tasks by participant [P, K], and what NLL and accuracy are of them."""
    sums_PK = _stacked(tallies, [tallies.tasks[task].sums for task in part], _OF_TASK)
    centres = np.array([tallies.tasks[task].centres_S for task in part])
    finite = np.array([tallies.by_study(tallies.tasks[task].sums["infinite"]) == 0 for task in part])

    def statistic(drawn: Floats, study: int) -> Floats:
        sums = drawn.reshape(len(drawn), len(part), len(_OF_TASK))
        nll = sums[..., 1] / sums[..., 0] + centres[:, study]
        accuracy = sums[..., 3] / sums[..., 2]
        return np.concatenate([np.where(finite[:, study], values, np.nan) for values in (nll, accuracy)], axis=1)

    return sums_PK, statistic


def _stacked(tallies: Tallies, sums: Sequence[Sums], names: Sequence[str]) -> Floats:
    stacked = np.empty((len(tallies.study_P), len(sums) * len(names)))
    for at, (one, name) in enumerate(product(sums, names)):
        stacked[:, at] = tallies.by_participant(one[name])
    return stacked


def _d(sums: Floats, centre: Floats) -> Floats:
    """Cohen's d of sums in the order of `_OF_PAIR` [B, C, K]."""
    n = sums[..., 0]
    mean_a, mean_b = sums[..., 1] / n, sums[..., 2] / n
    mean_square = (sums[..., 3] + sums[..., 4]) / n
    squares = mean_square - mean_a**2 - mean_b**2
    pooled = squares / 2 * n / np.where(n > 1, n - 1, np.nan)
    d: Floats = (mean_a - mean_b + centre) / np.sqrt(np.where(squares > _CONSTANT * mean_square, pooled, np.nan))
    return d


def _usable(tallies: Tallies, comparisons: Sequence[Comparison]) -> NDArray[np.bool_]:
    """Whether neither task has an infinite NLL in the study [C, S]."""
    infinite = {task: tallies.by_study(one.sums["infinite"]) > 0 for task, one in tallies.tasks.items()}
    usable = [~infinite[one.first] & ~infinite[one.second] for one in comparisons]
    return np.array(usable, dtype=np.bool_).reshape(len(comparisons), len(tallies.studies))
