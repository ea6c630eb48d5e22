"""Sums over the rows of one task, for each of its transcripts, and by study where that is enough.

Sums of NLLs are of values minus a centre, the least value of the study, so that variances of nearly equal values are
exact. Shapes: T transcripts of the task, S studies of the numbering so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psych_ray.study.numbering import Ints, Numbering
from psych_ray.study.rows import TEMPERATURES, TaskRows
from psych_ray.transcripts.status import Status

Floats = NDArray[np.float64]
Sums = Mapping[str, Floats]
"""Sums of each transcript [T] by name."""
DECILES = 10
BINS = 10


@dataclass(frozen=True, kw_only=True)
class TaskSums:
    """Sums of one task; `tallies.TaskTally` says what each is."""

    numbers_T: Ints
    """Number of each transcript."""
    sums: Sums
    centres_S: Floats
    deciles: Floats
    """[S, DECILES, 2]."""
    bins: Floats
    """[S, BINS, 3]."""


def sum_task(rows: TaskRows, numbering: Numbering) -> TaskSums:
    """All sums of a task."""
    study_T, n_studies = numbering.study_T[rows.numbers_T], len(numbering.studies)
    finite_R = rows.scored & np.isfinite(rows.nll_R)
    centres_S = least_values(rows.nll_R, finite_R, rows.first_T, study_T, n_studies)
    x_R = _where(finite_R, rows.nll_R - rows.per_row(centres_S[study_T]))
    known_R = rows.hit_R >= 0
    letters_R = rows.letter_R & known_R
    return TaskSums(
        numbers_T=rows.numbers_T,
        sums={
            "responses": rows.lengths_T.astype(np.float64),
            **{status.value: rows.summed(rows.status_R == status.code) for status in Status},
            "n": rows.summed(finite_R),
            "infinite": rows.summed(rows.scored & ~finite_R),
            "x": rows.summed(x_R),
            "xx": rows.summed(x_R * x_R),
            "letters": rows.summed(letters_R),
            "letter_hits": rows.summed(letters_R & (rows.hit_R > 0)),
            "hits_known": rows.summed(known_R),
            "hits": rows.summed(rows.hit_R > 0),
            **_at_temperatures(rows, finite_R),
            **_of_options(rows, finite_R),
        },
        centres_S=centres_S,
        deciles=_deciles(rows, finite_R, study_T, n_studies),
        bins=_bins(rows, rows.per_row(study_T), n_studies),
    )


def least_values(
    values: NDArray[np.float32], usable: NDArray[np.bool_], first_T: Ints, study_T: Ints, n: int
) -> Floats:
    """The least usable value of each of `n` studies [S], 0 where there is none."""
    least_S = np.full(n, np.nan)
    if len(first_T):
        np.fmin.at(least_S, study_T, np.fmin.reduceat(np.where(usable, values, np.float32("nan")), first_T))
    least: Floats = np.nan_to_num(least_S)
    return least


def _where(usable: NDArray[np.bool_], values: NDArray[Any]) -> NDArray[Any]:
    """The values, 0 where they are not usable."""
    return values if usable.all() else np.where(usable, values, 0)


def _at_temperatures(rows: TaskRows, finite_R: NDArray[np.bool_]) -> Sums:
    columns = {name: rows.more[name] for name in TEMPERATURES if name in rows.more}
    if len(columns) < len(TEMPERATURES):
        return {}
    usable_R = finite_R.copy()
    for values in columns.values():
        usable_R &= np.isfinite(values)
    return {
        "t_n": rows.summed(usable_R),
        "t_nll": rows.summed(_where(usable_R, rows.nll_R)),
        **{name: rows.summed(_where(usable_R, values)) for name, values in columns.items()},
    }


def _of_options(rows: TaskRows, finite_R: NDArray[np.bool_]) -> Sums:
    names = ("options_nll", "options_top", "options_brier")
    if any(name not in rows.more for name in names):
        return {}
    leak, top, brier = (rows.more[name] for name in names)
    usable_R = finite_R & np.isfinite(leak) & np.isfinite(top) & np.isfinite(brier)
    return {
        "choices": rows.summed(usable_R),
        "leak": rows.summed(_where(usable_R, leak)),
        "within": rows.summed(_where(usable_R, rows.nll_R - leak)),
        "brier": rows.summed(_where(usable_R, brier)),
        "top": rows.summed(_where(usable_R, top)),
        "option_hits": rows.summed(usable_R & (rows.option_hit_R > 0)),
    }


def _deciles(rows: TaskRows, finite_R: NDArray[np.bool_], study_T: Ints, n_studies: int) -> Floats:
    """Responses of a transcript are consecutive rows, so that each tenth of them is one range of rows."""
    long_T = rows.lengths_T >= DECILES
    if not long_T.any():
        return np.zeros((n_studies, DECILES, 2))
    tenths = -(-np.arange(DECILES) * rows.lengths_T[:, None] // DECILES)
    begins = np.where(long_T[:, None] | (np.arange(DECILES) == 0), rows.first_T[:, None] + tenths, -1)
    at = begins[begins >= 0]
    sums = np.zeros((len(long_T), DECILES, 2))
    for index, values_R in enumerate((finite_R, _where(finite_R, rows.nll_R))):
        sums[..., index][begins >= 0] = np.add.reduceat(values_R, at, dtype=np.float64)
    result = np.zeros((n_studies, DECILES, 2))
    np.add.at(result, study_T[long_T], sums[long_T])
    return result


def _bins(rows: TaskRows, study_R: Ints, n_studies: int) -> Floats:
    top = rows.more.get("options_top")
    if top is None:
        return np.zeros((n_studies, BINS, 3))
    usable = np.isfinite(top) & (rows.option_hit_R >= 0)
    top, hit = top[usable], rows.option_hit_R[usable]
    cell = study_R[usable] * BINS + np.clip((top * BINS).astype(np.int64), 0, BINS - 1)
    n = n_studies * BINS
    of_cells = [np.bincount(cell, weights=weights, minlength=n) for weights in (None, top, hit)]
    stacked: Floats = np.stack(of_cells, axis=-1).astype(np.float64).reshape(n_studies, BINS, 3)
    return stacked
