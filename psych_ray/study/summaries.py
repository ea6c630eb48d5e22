"""Means over studies and over pairs.

Every function takes the tally or the comparison by study and keeps its order of rows. No single responses.
"""

from __future__ import annotations

import polars as pl

from psych_ray.study.lineage import FACTS, SKIPPED
from psych_ray.transcripts.status import Status

_STANDARD_ERROR = pl.col("d").std(ddof=1) / pl.len().sqrt()


def coverage(tallied: pl.DataFrame) -> pl.DataFrame:
    """Responses of each checkpoint and condition, by status."""
    counts = ["transcripts", "responses", *(status.value for status in Status)]
    return tallied.group_by("checkpoint", "condition", maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias("studies"), pl.col(counts).sum()
    )


def by_checkpoint(tallied: pl.DataFrame, facts: pl.DataFrame) -> pl.DataFrame:
    """NLL and accuracy of each checkpoint: mean over the responses of a study, then over studies."""
    usable = tallied.filter(pl.col("nll").is_not_null())
    means = usable.group_by("checkpoint", "condition", maintain_order=True).agg(
        pl.col("nll", "accuracy").mean(),
        pl.len().cast(pl.Int64).alias("n_studies"),
        pl.col("scored").sum().alias("n_responses"),
    )
    return means.join(facts, on="checkpoint", maintain_order="left").select(
        *FACTS, "condition", "nll", "accuracy", "n_studies", "n_responses"
    )


def misalignment(compared: pl.DataFrame, facts: pl.DataFrame) -> pl.DataFrame:
    """Mean d over the studies of each pair, with its standard error over studies, null for one study."""
    means = compared.group_by("post", "base", "condition", maintain_order=True).agg(
        pl.col("d").mean(), _STANDARD_ERROR.alias("se"), pl.len().cast(pl.Int64).alias("n_studies")
    )
    known = facts.drop("base", "id")
    return means.join(known, left_on="post", right_on="checkpoint", maintain_order="left").select(
        "post", "base", "condition", "family", "generation", "size_b", "stage", "d", "se", "n_studies"
    )


def mean_over_pairs(by_pair: pl.DataFrame, compared: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """Mean d over the pairs that share `by`.

    The standard error is over studies, because the pairs share them: the sample sd over studies of the pairs' mean d
    in a study, divided by the square root of the number of studies.
    """
    groups = ["condition", *by]
    means = by_pair.group_by(groups, maintain_order=True).agg(
        pl.col("d").mean(), pl.len().cast(pl.Int64).alias("n_pairs")
    )
    pair = ["post", "base", "condition"]
    labelled = compared.select(*pair, "study", "d").join(by_pair.select(*pair, *by), on=pair)
    over_studies = (
        labelled.group_by(*groups, "study", maintain_order=True)
        .agg(pl.col("d").mean())
        .group_by(groups, maintain_order=True)
        .agg(_STANDARD_ERROR.alias("se"), pl.len().cast(pl.Int64).alias("n_studies"))
    )
    return means.join(over_studies, on=groups, maintain_order="left").select(*groups, "d", "se", "n_pairs", "n_studies")


def incomplete(tallied: pl.DataFrame, facts: pl.DataFrame) -> pl.DataFrame:
    """A row for each checkpoint without responses, and for each study that is missing from a checkpoint's means."""
    absent = facts.join(tallied, on="checkpoint", how="anti", maintain_order="left").select(
        "checkpoint",
        pl.lit(None, pl.String).alias("condition"),
        pl.lit(None, pl.String).alias("study"),
        pl.lit("it has no responses").alias("reason"),
    )
    tasks = tallied.select("checkpoint", "condition").unique(maintain_order=True)
    studies = tallied.select("condition", "study").unique(maintain_order=True)
    expected = tasks.join(studies, on="condition", maintain_order="left_right")
    rows = expected.join(tallied, on=["checkpoint", "condition", "study"], how="left", maintain_order="left")
    gaps = rows.with_columns(
        pl.when(pl.col("scored").is_null())
        .then(pl.lit("it has no responses of this study, other checkpoints do: its means are over fewer studies"))
        .when(pl.col("scored") == 0)
        .then(pl.format("none of its {} responses is scored: not in its means", "responses"))
        .when(pl.col("n_finite") < pl.col("scored"))
        .then(pl.format("{} of its NLLs are not finite: not in its means", pl.col("scored") - pl.col("n_finite")))
        .alias("reason")
    ).filter(pl.col("reason").is_not_null())
    return pl.concat([absent, gaps.select(*SKIPPED)])
