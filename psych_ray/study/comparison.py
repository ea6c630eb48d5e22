"""Which tasks are compared with which, in which studies, and why not in others.

Takes sums, no rows. Shapes: C comparisons, S studies, P participants.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from psych_ray.study.comparing import Comparison
from psych_ray.study.effects import StudyEffects, study_effects, t_interval
from psych_ray.study.rows import Task
from psych_ray.study.tallies import Tallies
from psych_ray.study.task_sums import Floats

CHANCE = "chance"
"""Slug of the checkpoint that pseudo-R² is against."""
REFERENCE = "plain"
"""The condition that others are contrasted with."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Comparisons of one kind with their effects in each study."""

    comparisons: Sequence[Comparison]
    effects: Sequence[StudyEffects]
    usable_CS: NDArray[np.bool_]
    """Whether d is defined, and no NLL of either task is infinite in the study."""

    @property
    def d(self) -> Floats:
        """Cohen's d [C, S]; NaN unless usable."""
        d_CS = np.array([one.d for one in self.effects]).reshape(self.usable_CS.shape)
        return np.where(self.usable_CS, d_CS, np.nan)


def planned(tasks: Sequence[Task], pairs: Sequence[tuple[str, str]]) -> dict[str, list[Comparison]]:
    """All comparisons by kind: `pairs` (post and base), `conditions` and `chance`."""
    known = set(tasks)
    conditions = sorted({task.condition for task in tasks})
    of_pairs = [
        Comparison(Task(post, condition), Task(base, condition)) for condition in conditions for post, base in pairs
    ]
    of_conditions = [
        Comparison(task, Task(task.checkpoint, REFERENCE)) for task in tasks if task.condition != REFERENCE
    ]
    chance = chance_task(tasks)
    of_chance = [Comparison(task, chance) for task in tasks if chance and task.checkpoint != CHANCE]
    planned = {"pairs": of_pairs, "conditions": of_conditions, "chance": of_chance}
    return {kind: [one for one in all_ if known.issuperset(one)] for kind, all_ in planned.items()}


def chance_task(tasks: Iterable[Task]) -> Task | None:
    """The task of chance: under the condition `REFERENCE`, or the only one of a sweep without that.

    Conditions change nothing of it.
    """
    own = sorted(task for task in tasks if task.checkpoint == CHANCE)
    return next((task for task in own if task.condition == REFERENCE), own[0] if own else None)


def compared(tallies: Tallies, comparisons: Sequence[Comparison]) -> Compared:
    """The effects of these comparisons."""
    effects = [study_effects(tallies, one) for one in comparisons]
    infinite = {task: tallies.by_study(one.sums["infinite"]) > 0 for task, one in tallies.tasks.items()}
    usable = [
        ~np.isnan(one.d) & ~infinite[comparison.first] & ~infinite[comparison.second]
        for comparison, one in zip(comparisons, effects, strict=True)
    ]
    shape = (len(comparisons), len(tallies.studies))
    return Compared(comparisons=comparisons, effects=effects, usable_CS=np.array(usable, dtype=np.bool_).reshape(shape))


def effects_table(tallies: Tallies, of: Compared) -> pl.DataFrame:
    """A row for each usable comparison and study.

    Columns: first, second (checkpoints), condition, reference (conditions of both), study, n_responses, n_participants,
    mean_a, mean_b, sd_a, sd_b, d, se, low, high, d_z, difference, difference_se, difference_se_naive, only_a, only_b.
    """
    frames = []
    for comparison, one, usable_S in zip(of.comparisons, of.effects, of.usable_CS, strict=True):
        low, high = t_interval(one.d, one.d_se, one.participants)
        sums = tallies.comparisons[comparison].sums
        columns = {
            "n_responses": one.n,
            "n_participants": one.participants,
            **{name: getattr(one, name) for name in ("mean_a", "mean_b", "sd_a", "sd_b", "d")},
            "se": one.d_se,
            "low": low,
            "high": high,
            **{name: getattr(one, name) for name in ("d_z", "difference", "difference_se", "difference_se_naive")},
            **{name: tallies.by_study(sums[name]) for name in ("only_a", "only_b")},
        }
        frame = pl.DataFrame({"study": tallies.studies} | columns, schema_overrides={"study": pl.String})
        (first, condition), (second, reference) = comparison
        names = {"first": first, "second": second, "condition": condition, "reference": reference}
        frames.append(
            frame.filter(pl.Series(usable_S)).select(
                *(pl.lit(value).alias(name) for name, value in names.items()),
                "study",
                pl.col(pl.Float64).fill_nan(None),
            )
        )
    return pl.concat(frames) if frames else pl.DataFrame()


def not_compared(
    studies: Sequence[str], tallied: pl.DataFrame, pairs: pl.DataFrame, of_pairs: Compared
) -> pl.DataFrame:
    """checkpoint, condition, study and reason of pairs that were not compared in a study that either side has.

    `tallied`: rows of `summaries.tallied`; `pairs`: post and base; `of_pairs`: their effects. Where a side has no
    responses under a condition, there is one row with a null study.
    """
    sides = _sides(tallied, pairs)
    effects_of = {
        (one.first.checkpoint, one.second.checkpoint, one.first.condition): effects
        for one, effects in zip(of_pairs.comparisons, of_pairs.effects, strict=True)
    }
    index_of = {study: index for index, study in enumerate(studies)}

    def undefined(row: dict[str, object]) -> str | None:
        effects = effects_of.get((str(row["post"]), str(row["base"]), str(row["condition"])))
        if effects is None or row["study"] is None:
            return None
        at = index_of[str(row["study"])]
        n = int(effects.n[at])
        if n < 2:
            return f"not compared with {row['base']}: d needs 2 responses that are scored in both, there are {n}"
        if np.isnan(effects.d[at]):
            return f"not compared with {row['base']}: all responses have the same NLL, so d is not defined"
        return None

    unusable = sides.with_columns(_unusable().alias("reason"))
    reasons = [row["reason"] or undefined(row) for row in unusable.iter_rows(named=True)]
    with_reason = unusable.with_columns(pl.Series("reason", reasons, pl.String)).filter(pl.col("reason").is_not_null())
    return with_reason.select(pl.col("post").alias("checkpoint"), "condition", "study", "reason")


def _sides(tallied: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """A row for each pair, condition and study that either side has; the base's columns end in _base."""
    columns = tallied.select("checkpoint", "condition", "study", "scored", "infinite")
    post = pairs.join(columns, left_on="post", right_on="checkpoint")
    base = pairs.join(columns, left_on="base", right_on="checkpoint", coalesce=False).drop("checkpoint")
    keys = ["post", "base", "condition", "study"]
    both = post.join(base, on=keys, how="full", coalesce=True, suffix="_base")
    group = ["post", "base", "condition"]
    no_responses = pl.any_horizontal(pl.col(name).is_null().all().over(group) for name in ("scored", "scored_base"))
    return both.with_columns(pl.when(~no_responses).then("study")).unique(keys, keep="first").sort(keys)


def _unusable() -> pl.Expr:
    """Why a row of `_sides` cannot be compared; null where it can."""

    def checks(side: str, suffix: str) -> list[pl.Expr]:
        scored, infinite = pl.col(f"scored{suffix}"), pl.col(f"infinite{suffix}")
        reasons = [
            (scored.is_null() & pl.col("study").is_null(), "has no responses under this condition"),
            (scored.is_null(), "has no responses of this study"),
            (scored == 0, "has no scored response of this study"),
            (infinite > 0, "has an NLL that is not finite in this study"),
        ]
        return [
            pl.when(unusable).then(pl.format("not compared with {}: " + f"{side} {text}", "base"))
            for unusable, text in reasons
        ]

    by_side = zip(checks("base", "_base"), checks("post", ""), strict=True)
    return pl.coalesce([check for both in by_side for check in both])
