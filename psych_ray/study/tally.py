"""One pass over all responses: counts and moments of each checkpoint, condition and study.

There may be 10^8 responses, so this is one streaming group-by, whose memory grows with studies and transcripts, not
with responses. All other statistics are computed from its result.
"""

from __future__ import annotations

import polars as pl

from psych_ray.transcripts.status import Status

TALLY_KEYS = ("checkpoint", "condition", "study")
SCORED = pl.col("status") == Status.scored.value
NLL = pl.col("nll").cast(pl.Float64)


def tally(responses: pl.LazyFrame) -> pl.DataFrame:
    """A row for each checkpoint, condition and study.

    Columns: the keys; transcripts; responses, and of those a column for each status; nll (mean), sd (sample) and
    accuracy of the scored ones; n_finite, the scored ones with a finite NLL; key_low and key_high, together with
    `scored` a fingerprint of the set of scored responses: equal for equal sets, and for different ones with a
    probability of about 2^-64. Moments are null where a scored response has no finite NLL.
    """
    key = _response_key()
    scored_nll = NLL.filter(SCORED)
    counted = responses.group_by(TALLY_KEYS).agg(
        pl.col("transcript").n_unique().cast(pl.Int64).alias("transcripts"),
        pl.len().cast(pl.Int64).alias("responses"),
        *((pl.col("status") == status.value).sum().cast(pl.Int64).alias(status.value) for status in Status),
        scored_nll.mean().alias("nll"),
        sample_sd(scored_nll).alias("sd"),
        pl.col("top1").filter(SCORED).mean().alias("accuracy"),
        NLL.is_finite().filter(SCORED).sum().cast(pl.Int64).alias("n_finite"),
        (key % 2**32).filter(SCORED).sum().alias("key_low"),
        (key // 2**32).filter(SCORED).sum().alias("key_high"),
    )
    all_finite = pl.col("n_finite") == pl.col("scored")
    return (
        counted.with_columns(pl.col(*TALLY_KEYS).cast(pl.String), pl.when(all_finite).then(pl.col("nll", "sd")))
        .collect(engine="streaming")
        .sort(TALLY_KEYS)
    )


def _response_key() -> pl.Expr:
    """64-bit hash of a response within its study. Its halves are summed separately, so that no sum overflows."""
    transcript, response = pl.col("transcript").cast(pl.String), pl.col("response")
    return (transcript.hash(seed=1) ^ response.hash(seed=2)).hash(seed=3)


def sample_sd(values: pl.Expr) -> pl.Expr:
    """Sample sd: exactly 0 where all values are equal, which a running variance does not give; null below 2 values."""
    sd = values.std(ddof=1)
    return pl.when(sd.is_not_null() & (values.min() == values.max())).then(0.0).otherwise(sd)
