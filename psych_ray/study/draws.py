"""The bootstrap draws of all statistics of a report, made together, so that they stay dependent.

Statistics of each study: Cohen's d and the difference in accuracy of every comparison, NLL and accuracy of every task.
Shapes: B draws, S studies, P participants, C comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from psych_ray.study.bootstrap import Bootstrap, clusters, interval
from psych_ray.study.comparing import Comparison
from psych_ray.study.numbering import Ints
from psych_ray.study.rows import Task
from psych_ray.study.tallies import Tallies
from psych_ray.study.task_sums import Floats

_OF_PAIR = ("n", "a", "b", "aa", "bb", "letters", "letter_a", "letter_b")
_OF_TASK = ("n", "x", "letters", "letter_hits")
_CONSTANT = 1e-12
"""A variance of this share of the mean square, or less, is a rounding error: all drawn NLLs are equal."""
Draw = NDArray[np.float32]


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

    def of(self, kind: str) -> Draw:
        """Draws of d of a kind of comparison."""
        return self.d[kind]

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
    columns = [tallies.by_participant(tallies.comparisons[one].sums[name]) for one in all_ for name in _OF_PAIR]
    columns += [tallies.by_participant(tallies.tasks[task].sums[name]) for task in tasks for name in _OF_TASK]
    sums_PK = np.stack(columns, axis=1) if columns else np.empty((len(tallies.study_P), 0))
    centres = np.array([tallies.comparisons[one].centres_S for one in all_]).reshape(len(all_), 2, len(tallies.studies))
    usable = _usable(tallies, all_)
    task_centres = np.array([tallies.tasks[task].centres_S for task in tasks]).reshape(len(tasks), len(tallies.studies))
    finite = np.array([tallies.by_study(tallies.tasks[task].sums["infinite"]) == 0 for task in tasks])
    n_pairs = len(all_) * len(_OF_PAIR)

    def statistic(drawn: Floats, study: int) -> Floats:
        of_pairs = drawn[:, :n_pairs].reshape(len(drawn), len(all_), len(_OF_PAIR))
        of_tasks = drawn[:, n_pairs:].reshape(len(drawn), len(tasks), len(_OF_TASK))
        d = np.where(usable[:, study], _d(of_pairs, centres[:, 0, study] - centres[:, 1, study]), np.nan)
        letters = np.where(of_pairs[..., 5] > 0, of_pairs[..., 5], np.nan)
        hits = (of_pairs[..., 6] - of_pairs[..., 7]) / letters
        nll = np.where(finite[:, study], of_tasks[..., 1] / of_tasks[..., 0] + task_centres[:, study], np.nan)
        accuracy = np.where(finite[:, study], of_tasks[..., 3] / of_tasks[..., 2], np.nan)
        return np.concatenate([d, hits, nll, accuracy], axis=1)

    values = bootstrap.by_study(
        sums_PK, statistic, on_study=lambda study: on_progress("bootstrap", study + 1, len(tallies.studies))
    )
    d, hits, nll, accuracy = np.split(values, np.cumsum([len(all_), len(all_), len(tasks)]), axis=2)
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
