"""A post-trained checkpoint against its base: Cohen's d of each study, over the responses that both have scored.

Where the fingerprints of both tallies agree, the same responses are scored in both and the moments of the tallies are
used. Only where they differ, the rows of both checkpoints in those studies are read again and joined, in batches of
bounded size. Means over studies are in `summaries`.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from psych_ray.study.tally import NLL, SCORED, sample_sd

BATCH_RESPONSES = 4_000_000
"""Approximate limit of the responses of one checkpoint in a join; a study is never split."""

_KEYS = ["post", "base", "condition", "study"]
_MOMENTS = ["n_responses", "nll_post", "nll_base", "sd_post", "sd_base"]


def compare(responses: pl.LazyFrame, tallied: pl.DataFrame, pairs: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(`Findings.misalignment_by_study`, rows of `Findings.skipped`).

    A study that one of the two does not have, or for which d is not defined, is skipped for both.
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
    return table, pl.concat([_skipped(sides), _skipped(compared)])


def _sides(tallied: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """A row for each pair, condition and study that either side has; the base's columns end in _base.

    Where a side has no responses under a condition, there is one row with a null study instead of a row per study.
    """
    post = pairs.join(tallied, left_on="post", right_on="checkpoint")
    base = pairs.join(tallied, left_on="base", right_on="checkpoint", coalesce=False).drop("checkpoint")
    both = post.join(base, on=_KEYS, how="full", coalesce=True, suffix="_base")
    group = ["post", "base", "condition"]
    no_responses = pl.any_horizontal(pl.col(name).is_null().all().over(group) for name in ("scored", "scored_base"))
    return both.with_columns(pl.when(~no_responses).then("study")).unique(_KEYS, keep="first").sort(_KEYS)


def _unusable() -> pl.Expr:
    """Why a row of `_sides` cannot be compared; null where it can."""

    def checks(side: str, suffix: str) -> list[pl.Expr]:
        scored, finite = pl.col(f"scored{suffix}"), pl.col(f"n_finite{suffix}")
        reasons = [
            (scored.is_null() & pl.col("study").is_null(), "has no responses under this condition"),
            (scored.is_null(), "has no responses of this study"),
            (scored == 0, "has no scored response of this study"),
            (finite < scored, "has an NLL that is not finite in this study"),
        ]
        return [
            pl.when(unusable).then(pl.format("not compared with {}: " + f"{side} {text}", "base"))
            for unusable, text in reasons
        ]

    by_side = zip(checks("base", "_base"), checks("post", ""), strict=True)
    return pl.coalesce([check for both in by_side for check in both])


def _joined(responses: pl.LazyFrame, differing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Moments over the responses scored in both, for rows of `_sides` of which the sets of scored responses differ."""
    for (post, base, condition), rows in differing.group_by(["post", "base", "condition"], maintain_order=True):
        batch = (pl.col("scored").cum_sum() // BATCH_RESPONSES).alias("batch")
        for _, part in rows.with_columns(batch).group_by("batch", maintain_order=True):
            scored = responses.filter(
                SCORED
                & (pl.col("condition") == condition)
                & pl.col("study").cast(pl.String).is_in(part["study"].to_list())
            )
            left, right = (
                _rows(scored.filter(pl.col("checkpoint") == slug), side)
                for slug, side in ((post, "post"), (base, "base"))
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
    """Why d is not defined; null where it is."""
    too_few = "not compared with {}: d needs 2 responses that are scored in both, there are {}"
    constant = "not compared with {}: all responses have the same NLL, so d is not defined"
    return (
        pl.when(pl.col("n_responses") < 2)
        .then(pl.format(too_few, "base", "n_responses"))
        .when((pl.col("sd_post") == 0) & (pl.col("sd_base") == 0))
        .then(pl.format(constant, "base"))
    )


def _skipped(rows: pl.DataFrame) -> pl.DataFrame:
    with_reason = rows.filter(pl.col("reason").is_not_null())
    return with_reason.select(pl.col("post").alias("checkpoint"), "condition", "study", "reason")
