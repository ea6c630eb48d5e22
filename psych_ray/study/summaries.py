"""Tables of single tasks: coverage, NLL and accuracy by study and by checkpoint, and what is missing from them.

No comparison of checkpoints but with chance. Takes sums, no rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from psych_ray.study.comparing import Comparison
from psych_ray.study.comparison import chance_task
from psych_ray.study.effects import mean_of, study_effects
from psych_ray.study.lineage import SKIPPED
from psych_ray.study.rows import Task
from psych_ray.study.tallies import Tallies
from psych_ray.study.task_sums import Floats
from psych_ray.transcripts.status import Status

_KEYS = ("checkpoint", "condition", "study")


def tallied(tallies: Tallies) -> pl.DataFrame:
    """A row for each checkpoint, condition and study that it has rows of: counts, means and errors.

    Columns: `_KEYS`, transcripts, responses, a count for each status, n_participants, infinite, nll, se, sd, accuracy,
    n_letters, top1, chance, pseudo_r2, below_chance. Means are null where an NLL is not finite.
    """
    frames = [_tallied(tallies, task) for task in tallies.tasks]
    return pl.concat(frames).filter(pl.col("responses") > 0) if frames else _tallied(tallies, None)


def _tallied(tallies: Tallies, task: Task | None) -> pl.DataFrame:
    n_studies = len(tallies.studies)
    nothing = np.zeros(len(tallies.study_T))
    sums = dict.fromkeys(("responses",), nothing) if task is None else tallies.tasks[task].sums
    nan = np.full(n_studies, np.nan)

    def of_study(name: str) -> Floats:
        return tallies.by_study(sums.get(name, nothing))

    nll, se, sd = (nan, nan, nan) if task is None else mean_of(tallies, task)
    finite = of_study("infinite") == 0
    chance, pseudo_r2, below_S = _against_chance(tallies, task)
    participants = tallies.by_participant(sums.get("n", nothing)) > 0
    counted = np.bincount(tallies.study_P, weights=participants, minlength=n_studies) if n_studies else nan
    known_S = finite & ~np.isnan(chance)
    below = [bool(value) if known else None for value, known in zip(below_S, known_S, strict=True)]
    with np.errstate(invalid="ignore", divide="ignore"):
        columns = {
            "transcripts": tallies.by_study((sums["responses"] > 0).astype(np.float64)),
            "responses": of_study("responses"),
            **{status.value: of_study(status.value) for status in Status},
            "n_participants": counted,
            "infinite": of_study("infinite"),
            "nll": np.where(finite, nll, np.nan),
            "se": np.where(finite, se, np.nan),
            "sd": np.where(finite, sd, np.nan),
            "accuracy": of_study("letter_hits") / of_study("letters"),
            "n_letters": of_study("letters"),
            "top1": of_study("hits") / of_study("hits_known"),
            "chance": chance,
            "pseudo_r2": np.where(finite, pseudo_r2, np.nan),
        }
    counts = (
        "transcripts",
        "responses",
        *(status.value for status in Status),
        "n_participants",
        "infinite",
        "n_letters",
    )
    return pl.DataFrame(
        {
            "checkpoint": [task.checkpoint if task else ""] * n_studies,
            "condition": [task.condition if task else ""] * n_studies,
            "study": tallies.studies,
            **columns,
            "below_chance": pl.Series(below, dtype=pl.Boolean),
        },
        schema_overrides=dict.fromkeys(_KEYS, pl.String),
    ).with_columns(pl.col(pl.Float64).fill_nan(None)).with_columns(pl.col(counts).cast(pl.Int64))  # fmt: skip


def _against_chance(tallies: Tallies, task: Task | None) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """NLL of chance, 1 - NLL / that of chance, and whether NLL is higher, over the responses that both have scored."""
    chance = chance_task(tallies.tasks)
    comparison = Comparison(task, chance) if task and chance else None
    if comparison is None or comparison not in tallies.comparisons:
        nan = np.full(len(tallies.studies), np.nan)
        return nan, nan, nan > 0
    one = study_effects(tallies, comparison)
    with np.errstate(invalid="ignore", divide="ignore"):
        return one.mean_b, 1 - one.mean_a / np.where(one.mean_b > 0, one.mean_b, np.nan), one.mean_a > one.mean_b


def coverage(rows: pl.DataFrame) -> pl.DataFrame:
    """Responses of each checkpoint and condition, by status."""
    counts = ["transcripts", "responses", *(status.value for status in Status)]
    return rows.group_by("checkpoint", "condition", maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias("studies"), pl.col(counts).sum()
    )


def by_checkpoint(rows: pl.DataFrame, facts: pl.DataFrame, intervals: pl.DataFrame) -> pl.DataFrame:
    """NLL, accuracy and pseudo-R² of each checkpoint: means over the studies that have them.

    `intervals`: checkpoint, condition, low, high, accuracy_low and accuracy_high.
    """
    usable = rows.filter(pl.col("nll").is_not_null())
    means = usable.group_by("checkpoint", "condition", maintain_order=True).agg(
        pl.col("nll", "accuracy", "pseudo_r2").mean(),
        pl.len().cast(pl.Int64).alias("n_studies"),
        pl.col("scored").sum().alias("n_responses"),
        pl.col("n_letters").sum(),
    )
    known = means.join(facts, on="checkpoint", how="left", maintain_order="left")
    return known.join(intervals, on=["checkpoint", "condition"], how="left", maintain_order="left")


def incomplete(rows: pl.DataFrame, facts: pl.DataFrame, references: Sequence[str]) -> pl.DataFrame:
    """A row for each checkpoint without responses, and for each study that is missing from a checkpoint's means,
    or of which it has fewer transcripts than another.

    `references`: checkpoints that apply to some studies only, of which nothing is missing.
    """
    absent = facts.join(rows, on="checkpoint", how="anti", maintain_order="left").select(
        "checkpoint",
        pl.lit(None, pl.String).alias("condition"),
        pl.lit(None, pl.String).alias("study"),
        pl.lit("it has no responses").alias("reason"),
    )
    tasks = rows.select("checkpoint", "condition").unique(maintain_order=True)
    studies = rows.select("condition", "study").unique(maintain_order=True)
    expected = tasks.join(studies, on="condition", maintain_order="left_right")
    found = expected.join(rows, on=_KEYS, how="left", maintain_order="left")
    is_reference = pl.col("checkpoint").is_in(list(references))
    none_scored = (pl.col("scored") == 0) & ~is_reference
    most = pl.col("transcripts").filter(~is_reference).max().over("condition", "study")
    fewer = (pl.col("transcripts") < most) & ~is_reference
    gaps = found.with_columns(
        pl.when(pl.col("scored").is_null())
        .then(pl.lit("it has no responses of this study, other checkpoints do: its means are over fewer studies"))
        .when(none_scored)
        .then(pl.format("none of its {} responses is scored: not in its means", "responses"))
        .when(pl.col("infinite") > 0)
        .then(pl.format("{} of its NLLs are not finite: not in its means", "infinite"))
        .when(fewer)
        .then(
            pl.format(
                "it has {} of the {} transcripts of this study that other checkpoints have: its means are over fewer "
                "participants",
                "transcripts",
                most,
            )
        )
        .alias("reason")
    ).filter(pl.col("reason").is_not_null())
    return pl.concat([absent, gaps.select(*SKIPPED)])
