"""A post-trained checkpoint against its base: Cohen's d of each study, over the responses that both have scored.

Where the fingerprints of both tallies agree, the same responses are scored in both and the tallies' moments are used
as they stand. Only where they differ are the two checkpoints' rows of those studies read again and joined, in batches
of bounded size. It knows no stages and no means over studies.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from psych_ray.study.tally import NLL, SCORED, sample_sd

BATCH = 4_000_000
"""Responses of one checkpoint that a join holds at most, about; one study is never split."""

_KEYS = ["post", "base", "condition", "study"]
_MOMENTS = ["n_responses", "nll_post", "nll_base", "sd_post", "sd_base"]


def compare(responses: pl.LazyFrame, tallied: pl.DataFrame, pairs: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(`Findings.misalignment_by_study`, lines of `Findings.left_out`).

    A study that one of the two lacks, or for which d is not defined, is left out for both, and told.
    """
    sides = _sides(tallied, pairs).with_columns(_unusable().alias("reason"))
    usable = sides.filter(pl.col("reason").is_null())
    same = pl.all_horizontal(pl.col(name) == pl.col(f"{name}_base") for name in ("scored", "key_low", "key_high"))
    as_tallied = usable.filter(same).select(
        *_KEYS,
        pl.col("scored").alias("n_responses"),
        pl.col("nll").alias("nll_post"),
        "nll_base",
        pl.col("sd").alias("sd_post"),
        "sd_base",
    )
    moments = pl.concat([as_tallied, *_joined(responses, usable.filter(~same))])
    compared = usable.select(*_KEYS, "scored", "scored_base").join(moments, on=_KEYS, how="left")
    compared = compared.with_columns(pl.col("n_responses").fill_null(0)).with_columns(
        _cohens_d().alias("d"), _undefined().alias("reason")
    )
    table = compared.filter(pl.col("reason").is_null()).select(
        *_KEYS,
        "d",
        "nll_post",
        "nll_base",
        "sd_post",
        "sd_base",
        "n_responses",
        (pl.col("scored") - pl.col("n_responses")).alias("only_post"),
        (pl.col("scored_base") - pl.col("n_responses")).alias("only_base"),
    )
    return table, pl.concat([_lines(sides), _lines(compared)])


def _sides(tallied: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """A row for each pair, condition and study that either side has; the base's columns end in _base.

    Where a side has nothing at all under a condition, one row with a null study stands for all of them.
    """
    post = pairs.join(tallied, left_on="post", right_on="checkpoint")
    base = pairs.join(tallied, left_on="base", right_on="checkpoint", coalesce=False).drop("checkpoint")
    both = post.join(base, on=_KEYS, how="full", coalesce=True, suffix="_base")
    group = ["post", "base", "condition"]
    silent = pl.any_horizontal(pl.col(name).is_null().all().over(group) for name in ("scored", "scored_base"))
    return both.with_columns(pl.when(~silent).then("study")).unique(_KEYS, keep="first").sort(_KEYS)


def _unusable() -> pl.Expr:
    """Why a row of `_sides` cannot be compared; null: it can."""

    def checks(who: str, end: str) -> list[pl.Expr]:
        scored, finite = pl.col(f"scored{end}"), pl.col(f"n_finite{end}")
        troubles = [
            (scored.is_null() & pl.col("study").is_null(), "has no responses under this condition"),
            (scored.is_null(), "has no responses of this study"),
            (scored == 0, "has no scored response of this study"),
            (finite < scored, "has an NLL that is not finite in this study"),
        ]
        return [
            pl.when(trouble).then(pl.format("not compared with {}: " + f"{who} {text}", "base"))
            for trouble, text in troubles
        ]

    by_side = zip(checks("base", "_base"), checks("post", ""), strict=True)
    return pl.coalesce([check for both in by_side for check in both])


def _joined(responses: pl.LazyFrame, differing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Moments over the responses scored in both, for the rows of `_sides` in which the two scored sets differ."""
    for (post, base, condition), rows in differing.group_by(["post", "base", "condition"], maintain_order=True):
        batch = (pl.col("scored").cum_sum() // BATCH).alias("batch")
        for _, part in rows.with_columns(batch).group_by("batch", maintain_order=True):
            here = responses.filter(
                SCORED
                & (pl.col("condition") == condition)
                & pl.col("study").cast(pl.String).is_in(part["study"].to_list())
            )
            left, right = (
                _rows(here.filter(pl.col("checkpoint") == slug), end) for slug, end in ((post, "post"), (base, "base"))
            )
            yield (
                left.join(right, on=["study", "transcript", "response"], how="inner")
                .group_by("study")
                .agg(
                    pl.len().cast(pl.Int64).alias("n_responses"),
                    pl.col("nll_post", "nll_base").mean(),
                    sample_sd(pl.col("nll_post")).alias("sd_post"),
                    sample_sd(pl.col("nll_base")).alias("sd_base"),
                )
                .with_columns(
                    pl.lit(post).alias("post"), pl.lit(base).alias("base"), pl.lit(condition).alias("condition")
                )
                .select(*_KEYS, *_MOMENTS)
                .collect(engine="streaming")
            )


def _rows(responses: pl.LazyFrame, side: str) -> pl.LazyFrame:
    return responses.select(pl.col("study", "transcript").cast(pl.String), "response", NLL.alias(f"nll_{side}"))


def _cohens_d() -> pl.Expr:
    """(mean post - mean base) / sqrt((sd_post² + sd_base²) / 2); arXiv 2605.07632, sample sd over single responses."""
    pooled = ((pl.col("sd_post").pow(2) + pl.col("sd_base").pow(2)) / 2).sqrt()
    return (pl.col("nll_post") - pl.col("nll_base")) / pooled


def _undefined() -> pl.Expr:
    """Why there is no d; null: there is one."""
    few = "not compared with {}: d needs 2 responses that are scored in both, there are {}"
    flat = "not compared with {}: no response differs from another in NLL, so d is not defined"
    return (
        pl.when(pl.col("n_responses") < 2)
        .then(pl.format(few, "base", "n_responses"))
        .when((pl.col("sd_post") == 0) & (pl.col("sd_base") == 0))
        .then(pl.format(flat, "base"))
    )


def _lines(rows: pl.DataFrame) -> pl.DataFrame:
    reasoned = rows.filter(pl.col("reason").is_not_null())
    return reasoned.select(pl.col("post").alias("checkpoint"), "condition", "study", "reason")
