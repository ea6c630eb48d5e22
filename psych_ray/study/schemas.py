"""The columns of the tables of a study.

What a table holds is said in `tables.Findings`. No formulas, no data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import polars as pl

from psych_ray.transcripts.status import Status

Schema = Mapping[str, type[pl.DataType]]

_TASK: Final[Schema] = {"checkpoint": pl.String, "condition": pl.String}
_PAIR: Final[Schema] = {"post": pl.String, "base": pl.String, "condition": pl.String}
_FACTS: Final[Schema] = {"family": pl.String, "generation": pl.String, "size_b": pl.Float64, "stage": pl.String}
_INTERVAL: Final[Schema] = {"low": pl.Float64, "high": pl.Float64}
_COUNTS: Final[Schema] = {"n_studies": pl.Int64, "n_participants": pl.Int64, "n_responses": pl.Int64}

EFFECT: Final[Schema] = {
    "d": pl.Float64,
    "se": pl.Float64,
    **_INTERVAL,
    "re_d": pl.Float64,
    "re_low": pl.Float64,
    "re_high": pl.Float64,
    "tau": pl.Float64,
    "pi_low": pl.Float64,
    "pi_high": pl.Float64,
    "n_positive": pl.Int64,
    "p_sign": pl.Float64,
    **_COUNTS,
}
"""Columns of an effect over studies, in every table of effects.

d: mean of Cohen's d over studies (of several pairs: the mean over pairs of that), se: its standard error over studies,
the sample sd of the studies' d (mean over pairs) / sqrt(studies). low, high: 95 % interval of a bootstrap over studies
and participants within them (`bootstrap.interval`). re_d, re_low, re_high: random-effects mean over studies and its
95 % interval (REML, Hartung-Knapp), tau: sd of true effects between studies, pi_low, pi_high: 95 % prediction interval
of the effect in a new study. n_positive: studies with d > 0, p_sign: two-sided sign test of that. Null where too few
studies.
"""

SCHEMAS: Final[Mapping[str, Schema]] = {
    "coverage": {
        **_TASK,
        "studies": pl.Int64,
        "transcripts": pl.Int64,
        "responses": pl.Int64,
        **{status.value: pl.Int64 for status in Status},
    },
    "by_study": {
        **_TASK,
        "study": pl.String,
        "domain": pl.String,
        "n_responses": pl.Int64,
        "n_participants": pl.Int64,
        "nll": pl.Float64,
        "se": pl.Float64,
        "sd": pl.Float64,
        "accuracy": pl.Float64,
        "n_letters": pl.Int64,
        "top1": pl.Float64,
        "chance": pl.Float64,
        "pseudo_r2": pl.Float64,
        "below_chance": pl.Boolean,
    },
    "by_checkpoint": {
        "checkpoint": pl.String,
        "id": pl.String,
        **_FACTS,
        "base": pl.String,
        "condition": pl.String,
        "nll": pl.Float64,
        **_INTERVAL,
        "accuracy": pl.Float64,
        "accuracy_low": pl.Float64,
        "accuracy_high": pl.Float64,
        "pseudo_r2": pl.Float64,
        "n_studies": pl.Int64,
        "n_responses": pl.Int64,
        "n_letters": pl.Int64,
    },
    "misalignment_by_study": {
        **_PAIR,
        "study": pl.String,
        "domain": pl.String,
        "d": pl.Float64,
        "se": pl.Float64,
        **_INTERVAL,
        "d_z": pl.Float64,
        "difference": pl.Float64,
        "difference_se": pl.Float64,
        "difference_se_naive": pl.Float64,
        "nll_post": pl.Float64,
        "nll_base": pl.Float64,
        "sd_post": pl.Float64,
        "sd_base": pl.Float64,
        "n_participants": pl.Int64,
        "n_responses": pl.Int64,
        "only_post": pl.Int64,
        "only_base": pl.Int64,
    },
    "misalignment": {
        **_PAIR,
        **_FACTS,
        **EFFECT,
    },
    "by_stage": {
        "condition": pl.String,
        "stage": pl.String,
        **EFFECT,
        "n_pairs": pl.Int64,
    },
    "by_generation": {
        "condition": pl.String,
        "family": pl.String,
        "generation": pl.String,
        "stage": pl.String,
        **EFFECT,
        "change": pl.Float64,
        "change_low": pl.Float64,
        "change_high": pl.Float64,
        "n_pairs": pl.Int64,
    },
    "by_stage_and_generation": {
        "condition": pl.String,
        "family": pl.String,
        "generation": pl.String,
        "stage": pl.String,
        **EFFECT,
        "n_pairs": pl.Int64,
    },
    "by_domain": {
        "condition": pl.String,
        "domain": pl.String,
        **EFFECT,
        "p": pl.Float64,
        "q": pl.Float64,
        "n_pairs": pl.Int64,
        "published": pl.Boolean,
    },
    "by_pair_and_domain": {
        **_PAIR,
        "domain": pl.String,
        "d": pl.Float64,
        "p": pl.Float64,
        "q": pl.Float64,
        "n_studies": pl.Int64,
        "published": pl.Boolean,
    },
    "accuracy": {
        **_PAIR,
        **_FACTS,
        "accuracy_post": pl.Float64,
        "accuracy_base": pl.Float64,
        "difference": pl.Float64,
        **_INTERVAL,
        "n_studies": pl.Int64,
        "n_letters": pl.Int64,
    },
    "contrasts_by_study": {
        "checkpoint": pl.String,
        "condition": pl.String,
        "reference": pl.String,
        "study": pl.String,
        "d": pl.Float64,
        "se": pl.Float64,
        "difference": pl.Float64,
        "difference_se": pl.Float64,
        "nll": pl.Float64,
        "nll_reference": pl.Float64,
        "n_participants": pl.Int64,
        "n_responses": pl.Int64,
        "only_condition": pl.Int64,
        "only_reference": pl.Int64,
    },
    "contrasts": {
        "checkpoint": pl.String,
        **_FACTS,
        "condition": pl.String,
        "reference": pl.String,
        "studies": pl.String,
        **EFFECT,
        "difference": pl.Float64,
    },
    "contrast_summary": {
        "stage": pl.String,
        "condition": pl.String,
        "reference": pl.String,
        "studies": pl.String,
        **EFFECT,
        "n_checkpoints": pl.Int64,
    },
    "behavioural": {
        **_PAIR,
        "studies": pl.String,
        **EFFECT,
    },
    "calibration": {
        **_TASK,
        "nll": pl.Float64,
        "temperature": pl.Float64,
        "nll_tempered": pl.Float64,
        "leak": pl.Float64,
        "nll_within": pl.Float64,
        "brier": pl.Float64,
        "ece": pl.Float64,
        "confidence": pl.Float64,
        "accuracy": pl.Float64,
        "n_studies": pl.Int64,
        "n_choices": pl.Int64,
    },
    "calibration_by_study": {
        **_TASK,
        "study": pl.String,
        "nll": pl.Float64,
        "temperature": pl.Float64,
        "nll_tempered": pl.Float64,
        "leak": pl.Float64,
        "nll_within": pl.Float64,
        "brier": pl.Float64,
        "n_responses": pl.Int64,
        "n_choices": pl.Int64,
    },
    "calibration_curve": {
        **_TASK,
        "bin": pl.Int64,
        "confidence": pl.Float64,
        "share_chosen": pl.Float64,
        "n_choices": pl.Int64,
    },
    "overconfidence": {
        **_PAIR,
        **_FACTS,
        "misalignment": pl.Float64,
        **_INTERVAL,
        "repaired": pl.Float64,
        "repaired_low": pl.Float64,
        "repaired_high": pl.Float64,
        "remaining": pl.Float64,
        "remaining_low": pl.Float64,
        "remaining_high": pl.Float64,
        "leak": pl.Float64,
        "within": pl.Float64,
        "n_studies": pl.Int64,
    },
    "by_decile": {
        **_TASK,
        "decile": pl.Int64,
        "nll": pl.Float64,
        **_INTERVAL,
        "change": pl.Float64,
        "change_low": pl.Float64,
        "change_high": pl.Float64,
        "n_studies": pl.Int64,
        "n_responses": pl.Int64,
    },
    "by_length": {
        **_TASK,
        "length": pl.String,
        "nll": pl.Float64,
        "se": pl.Float64,
        **_COUNTS,
    },
    "by_experiment": {
        **_TASK,
        "study": pl.String,
        "experiment": pl.String,
        "nll": pl.Float64,
        "se": pl.Float64,
        "n_participants": pl.Int64,
        "n_responses": pl.Int64,
    },
    "by_group": {
        **_TASK,
        "field": pl.String,
        "value": pl.String,
        "nll": pl.Float64,
        "difference": pl.Float64,
        "se": pl.Float64,
        "n_compared": pl.Int64,
        **_COUNTS,
    },
    "reaction_times": {
        **_TASK,
        "study": pl.String,
        "r": pl.Float64,
        **_INTERVAL,
        "n_participants": pl.Int64,
        "n_responses": pl.Int64,
    },
    "influence": {
        "condition": pl.String,
        "stage": pl.String,
        "study": pl.String,
        "d": pl.Float64,
        "d_without": pl.Float64,
        "change": pl.Float64,
    },
    "mixed_model": {
        "condition": pl.String,
        "term": pl.String,
        "estimate": pl.Float64,
        "se": pl.Float64,
        **_INTERVAL,
        "p": pl.Float64,
        "n_rows": pl.Int64,
    },
    "transcript_differences": {
        "condition": pl.String,
        "study": pl.String,
        "experiment": pl.String,
        "participant": pl.String,
        "transcript": pl.String,
        "difference": pl.Float64,
        "n_pairs": pl.Int64,
        "n_responses": pl.Int64,
    },
    "published": {
        "finding": pl.String,
        "group": pl.String,
        "size_b": pl.Float64,
        "value": pl.Float64,
        **_INTERVAL,
        "published": pl.Float64,
        "difference": pl.Float64,
        "reading_error": pl.Float64,
        "verdict": pl.String,
        "reason": pl.String,
    },
    "skipped": {
        "checkpoint": pl.String,
        "condition": pl.String,
        "study": pl.String,
        "reason": pl.String,
    },
}


def empty(name: str) -> pl.DataFrame:
    """The table `name` without rows."""
    return pl.DataFrame(schema=SCHEMAS[name])


def table(name: str, rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` in the columns of the table `name`; a column that is missing is null."""
    if not rows.columns:  # a frame of no rows without columns would become a row of nulls
        return empty(name)
    schema = SCHEMAS[name]
    present = set(rows.columns)
    return rows.select(
        (pl.col(column) if column in present else pl.lit(None)).cast(kind).alias(column)
        for column, kind in schema.items()
    )
