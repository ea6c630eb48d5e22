"""Do people take longer for responses that a checkpoint finds surprising? NLL against log reaction time.

Within participants, because slow people and hard studies say nothing of that. `measure` sums while rows are read, the
table is made from the sums. Shapes: R rows of a task, T transcripts, P participants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import special

from psych_ray.study.numbering import Numbering
from psych_ray.study.rows import Task, TaskRows
from psych_ray.study.schemas import table
from psych_ray.study.tallies import Measure, Tallies
from psych_ray.study.task_sums import Floats, Sums

_NAMES = ("rt_n", "rt_x", "rt_y", "rt_xx", "rt_yy", "rt_xy")
_CENTRE = float(np.log(1000))
_CONSTANT = 1e-10
"""A variance of this share of the mean square, or less, is a rounding error."""


def measure(transcripts: pl.DataFrame) -> Measure:
    """Sums of NLL (x) and log reaction time (y) of each transcript, for `tallies.tally`.

    `transcripts`: columns transcript and reaction_times_ms of `transcript_facts`, an entry of each response. Over the
    scored responses with a finite NLL and a reaction time above zero.
    """
    known = transcripts.filter(pl.col("reaction_times_ms").is_not_null()).unique("transcript", keep="first")
    lengths = known["reaction_times_ms"].list.len().cast(pl.Int64)
    times = known["reaction_times_ms"].explode(empty_as_null=False, keep_nulls=False).cast(pl.Float64)
    places = known.select("transcript", (lengths.cum_sum() - lengths).alias("first"), lengths.alias("length"))
    flat = np.append(times.fill_null(float("nan")).to_numpy(), np.nan)

    def sums(rows: TaskRows, numbering: Numbering) -> Sums:
        ids = numbering.transcripts["transcript"][rows.numbers_T].to_frame()
        own = ids.join(places, on="transcript", how="left", maintain_order="left").fill_null(0)
        inside_R = rows.response_R < rows.per_row(own["length"].to_numpy())
        at_R = np.where(inside_R, rows.per_row(own["first"].to_numpy()) + rows.response_R, len(flat) - 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            y_R = np.log(flat[at_R]) - _CENTRE
        usable_R = rows.scored & np.isfinite(rows.nll_R) & np.isfinite(y_R)
        x, y = np.where(usable_R, rows.nll_R, 0).astype(np.float64), np.where(usable_R, y_R, 0)
        values = (usable_R, x, y, x * x, y * y, x * y)
        return {name: rows.summed(one) for name, one in zip(_NAMES, values, strict=True)}

    return sums


def reaction_times(tallies: Tallies, tasks: Sequence[Task]) -> pl.DataFrame:
    """`Findings.reaction_times`, of the sums of `measure`; the row with a null study is over all of them.

    Over participants with two such responses or more. Intervals: clustered by participant (CR1, linearised), on
    Fisher's z, t with participants - 1 degrees of freedom; null for one participant. r is null where NLLs or reaction
    times do not vary within any participant.
    """
    rows: list[dict[str, Any]] = []
    for task in tasks:
        sums = tallies.extra.get(task, {})
        if any(name not in sums for name in _NAMES):
            continue
        n_P, *covariances = _within({name: tallies.by_participant(sums[name]) for name in _NAMES})
        for at, study in enumerate([*tallies.studies, None]):
            own_P = (n_P > 1) & ((tallies.study_P == at) | (study is None))
            if own_P.any():
                row = _correlation(*(values[own_P] for values in covariances))
                counts = {"n_participants": int(own_P.sum()), "n_responses": int(n_P[own_P].sum())}
                rows.append({**task._asdict(), "study": study, **row, **counts})
    return table("reaction_times", pl.DataFrame(rows, infer_schema_length=None))


def _within(sums_P: Sums) -> tuple[Floats, Floats, Floats, Floats]:
    """Number of responses, and sums of squares and products around each participant's means [P]: n, xx, yy, xy."""
    n_P, x_P, y_P, xx_P, yy_P, xy_P = (sums_P[name] for name in _NAMES)
    per_P = 1 / np.maximum(n_P, 1)

    def around_mean(squares: Floats, sums: Floats) -> Floats:
        around = squares - sums**2 * per_P
        return np.where(around > _CONSTANT * squares, around, 0.0)

    return n_P, around_mean(xx_P, x_P), around_mean(yy_P, y_P), xy_P - x_P * y_P * per_P


def _correlation(xx_P: NDArray[Any], yy_P: NDArray[Any], xy_P: NDArray[Any]) -> dict[str, float | None]:
    xx, yy, clusters = float(xx_P.sum()), float(yy_P.sum()), len(xx_P)
    if xx == 0 or yy == 0:
        return {"r": None, "low": None, "high": None}
    r = float(np.clip(xy_P.sum() / np.sqrt(xx * yy), -1, 1))
    if clusters < 2 or abs(r) > 1 - 1e-9:
        return {"r": r, "low": None, "high": None}
    influence_P = xy_P / np.sqrt(xx * yy) - r / 2 * (xx_P / xx + yy_P / yy)
    se = np.sqrt(clusters / (clusters - 1) * (influence_P**2).sum()) / (1 - r**2)
    half = float(special.stdtrit(clusters - 1, 0.975) * se)
    z = float(np.arctanh(r))
    return {"r": r, "low": float(np.tanh(z - half)), "high": float(np.tanh(z + half))}
