"""Sums over the rows of one task, for each of its transcripts, and by study where that is enough.

Sums of NLLs are of values minus a centre, the first value of the study, so that variances of nearly equal values are
exact. Shapes: T transcripts of the task, S studies of the numbering so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
    study_R, n_studies = rows.per_row(numbering.study_T[rows.numbers_T]), len(numbering.studies)
    finite_R = rows.scored & np.isfinite(rows.nll_R)
    centres_S = first_values(rows.nll_R, finite_R, study_R, n_studies)
    x_R = np.where(finite_R, rows.nll_R - centres_S[study_R], 0.0)
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
        deciles=_deciles(rows, finite_R, study_R, n_studies),
        bins=_bins(rows, study_R, n_studies),
    )


def first_values(values: NDArray[np.float32], usable: NDArray[np.bool_], study: Ints, n_studies: int) -> Floats:
    """The first usable value of each study [S], 0 where there is none."""
    first_S = np.zeros(n_studies)
    at = np.flatnonzero(usable)[::-1]
    first_S[study[at]] = values[at]
    return first_S


def _at_temperatures(rows: TaskRows, finite_R: NDArray[np.bool_]) -> Sums:
    columns = {name: rows.more[name] for name in TEMPERATURES if name in rows.more}
    if len(columns) < len(TEMPERATURES):
        return {}
    usable_R = finite_R.copy()
    for values in columns.values():
        usable_R &= np.isfinite(values)
    return {
        "t_n": rows.summed(usable_R),
        "t_nll": rows.summed(np.where(usable_R, rows.nll_R, 0)),
        **{name: rows.summed(np.where(usable_R, values, 0)) for name, values in columns.items()},
    }


def _of_options(rows: TaskRows, finite_R: NDArray[np.bool_]) -> Sums:
    names = ("options_nll", "options_top", "options_brier")
    if any(name not in rows.more for name in names):
        return {}
    leak, top, brier = (rows.more[name] for name in names)
    usable_R = finite_R & np.isfinite(leak) & np.isfinite(top) & np.isfinite(brier)
    return {
        "choices": rows.summed(usable_R),
        "leak": rows.summed(np.where(usable_R, leak, 0)),
        "within": rows.summed(np.where(usable_R, rows.nll_R - leak, 0)),
        "brier": rows.summed(np.where(usable_R, brier, 0)),
        "top": rows.summed(np.where(usable_R, top, 0)),
        "option_hits": rows.summed(usable_R & (rows.option_hit_R > 0)),
    }


def _deciles(rows: TaskRows, finite_R: NDArray[np.bool_], study_R: Ints, n_studies: int) -> Floats:
    length_R = rows.per_row(rows.lengths_T)
    usable = finite_R & (length_R >= DECILES)
    decile = np.minimum(rows.response_R[usable] * DECILES // length_R[usable], DECILES - 1)
    return _by_cell(study_R[usable] * DECILES + decile, n_studies, DECILES, rows.nll_R[usable])


def _bins(rows: TaskRows, study_R: Ints, n_studies: int) -> Floats:
    top = rows.more.get("options_top")
    if top is None:
        return np.zeros((n_studies, BINS, 3))
    usable = np.isfinite(top) & (rows.option_hit_R >= 0)
    width = np.clip((top[usable] * BINS).astype(np.int64), 0, BINS - 1)
    return _by_cell(study_R[usable] * BINS + width, n_studies, BINS, top[usable], rows.option_hit_R[usable])


def _by_cell(cell: Ints, n_studies: int, n: int, *weights: NDArray[np.generic]) -> Floats:
    """Number of entries of each cell, and their sums of `weights` [S, n, 1 + weights]."""
    weights = (np.ones(len(cell)), *weights)
    of_cells = [np.bincount(cell, weights=one.astype(np.float64), minlength=n_studies * n) for one in weights]
    stacked: Floats = np.stack(of_cells, axis=-1).astype(np.float64).reshape(n_studies, n, len(of_cells))
    return stacked
