"""The rows of one checkpoint under one condition as arrays, transcript after transcript.

Needs no more memory than the columns of one task. Shapes: R rows of the task, T its transcripts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from psych_ray.errors import ResultsError
from psych_ray.scoring.calibration import NLL_AT, OPTIONS_BRIER, OPTIONS_HIT, OPTIONS_NLL, OPTIONS_TOP
from psych_ray.study.numbering import ABOUT, KEY, Ints, Numbering, segment_sums
from psych_ray.transcripts.status import Status

TEMPERATURES = {name: temperature for temperature, name in NLL_AT.items()}
"""Columns with the NLL at a temperature."""
_OPTIONS = (OPTIONS_NLL, OPTIONS_BRIER, OPTIONS_TOP)
_CODES = {status.value: status.code for status in Status}
_SCORED = Status.scored.code


class Task(NamedTuple):
    """A checkpoint, by its slug, under a condition."""

    checkpoint: str
    condition: str


@dataclass(frozen=True, kw_only=True)
class TaskRows:
    """The rows of a task. Floats are NaN where there is no value."""

    first_T: Ints
    """First row of each transcript."""
    lengths_T: Ints
    """Number of rows of each transcript."""
    numbers_T: Ints
    """Number of each transcript."""
    response_R: Ints
    """Number of the response in its transcript."""
    status_R: NDArray[np.int8]
    nll_R: NDArray[np.float32]
    hit_R: NDArray[np.int8]
    """1 where every token is the arg max, 0 where not, -1 where that is not known."""
    letter_R: NDArray[np.bool_]
    """The response is a single capital letter, and is scored."""
    option_hit_R: NDArray[np.int8]
    """1 where the option of largest probability was chosen, 0 where not, -1 where that is not known."""
    more: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """The columns of `TEMPERATURES` and of options that the task has."""

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Whether a response is scored [R]."""
        is_scored: NDArray[np.bool_] = self.status_R == _SCORED
        return is_scored

    def places(self, numbering: Numbering) -> Ints:
        """Place of each response in the numbering [R]."""
        places: Ints = np.repeat(numbering.offsets()[self.numbers_T], self.lengths_T) + self.response_R
        return places

    def per_row(self, values_T: NDArray[np.generic]) -> NDArray[Any]:
        """Values of the task's transcripts, repeated for each of their rows [R]."""
        return np.repeat(values_T, self.lengths_T)

    def summed(self, values_R: NDArray[Any]) -> NDArray[np.float64]:
        """Sums over the rows of each transcript [T]."""
        return segment_sums(values_R, self.first_T, self.lengths_T)


@dataclass(frozen=True)
class TaskTable:
    """The columns of a task in memory, each transcript in one run of rows."""

    frame: pl.LazyFrame
    """In the same order."""
    table: pl.DataFrame
    more: list[str]


def read_table(frame: pl.LazyFrame) -> TaskTable:
    """Read the columns that sums need; sorted only where transcripts are not consecutive."""
    names = set(frame.collect_schema().names())
    more = [column for column in (*TEMPERATURES, *_OPTIONS) if column in names]
    columns = [*KEY, "response", "status", "nll", "top1", *more]
    columns += [column for column in ("n_options", OPTIONS_HIT) if column in names]
    table = _collected(frame, columns)
    if not _in_order(table):
        frame = frame.sort(*KEY, "response")
        table = _collected(frame, columns)
    return TaskTable(frame, table, more)


def task_rows(read: TaskTable, numbering: Numbering, name: Task) -> TaskRows:
    """The rows of a task as arrays; its new transcripts are added to `numbering`.

    ResultsError where a response occurs twice.
    """
    frame, table = read.frame, read.table
    first_T = _runs(table)
    response_R = table["response"].cast(pl.Int64).to_numpy()
    lengths_T: Ints = np.diff(first_T, append=len(table))
    ascends = np.diff(response_R) > 0
    ascends[first_T[1:] - 1] = True
    if not ascends.all():
        raise ResultsError(
            f"{name.checkpoint} under {name.condition}: a response is in the table twice; psych-ray verify finds it"
        )

    def about_new(new: Ints) -> pl.DataFrame:
        return frame.select(*KEY, *ABOUT).collect(engine="streaming")[first_T[new]]

    needed = response_R[first_T + lengths_T - 1] + 1 if len(table) else lengths_T
    numbers_T = numbering.numbers(_keys(table, first_T), needed, about_new)
    return _rows(table, read.more, first_T, lengths_T, numbers_T, response_R)


def _rows(
    table: pl.DataFrame, more: list[str], first_T: Ints, lengths_T: Ints, numbers_T: Ints, response_R: Ints
) -> TaskRows:
    status_R = _status(table["status"])
    scored_R = status_R == _SCORED
    letter = table["n_options"].is_not_null().to_numpy() if "n_options" in table.columns else np.zeros_like(scored_R)

    def floats(column: str) -> NDArray[np.float32]:
        values: NDArray[np.float32] = table[column].cast(pl.Float32).fill_null(float("nan")).to_numpy()
        return values

    return TaskRows(
        first_T=first_T,
        lengths_T=lengths_T,
        numbers_T=numbers_T,
        response_R=response_R,
        status_R=status_R,
        nll_R=floats("nll"),
        hit_R=_known_bools(table["top1"], scored_R),
        letter_R=letter & scored_R,
        option_hit_R=_known_bools(table[OPTIONS_HIT], scored_R)
        if OPTIONS_HIT in table.columns
        else np.full(len(table), -1, np.int8),
        more={column: values for column in more if not np.isnan(values := floats(column)).all()},
    )


def _collected(frame: pl.LazyFrame, columns: list[str]) -> pl.DataFrame:
    return frame.select(columns).with_columns(pl.col(KEY).cast(pl.Categorical)).collect(engine="streaming")


def _keys(table: pl.DataFrame, rows: Ints) -> pl.DataFrame:
    return table.select(KEY)[rows].with_columns(pl.col(KEY).cast(pl.String))


def _runs(table: pl.DataFrame) -> Ints:
    """First rows of the runs of equal transcripts."""
    studies, transcripts = (table[name].to_physical().to_numpy() for name in KEY)
    changes: Ints = np.flatnonzero((transcripts[1:] != transcripts[:-1]) | (studies[1:] != studies[:-1])) + 1
    return np.concatenate([np.zeros(min(1, len(table)), np.int64), changes])


def _in_order(table: pl.DataFrame) -> bool:
    """Whether each transcript is one run, with responses that do not descend."""
    first_T = _runs(table)
    if _keys(table, first_T).is_duplicated().any():
        return False
    descends = np.diff(table["response"].to_numpy()) < 0
    descends[first_T[1:] - 1] = False
    return not descends.any()


def _status(values: pl.Series) -> NDArray[np.int8]:
    if values.dtype == pl.String:
        values = values.cast(pl.Categorical)
    return values.replace_strict(_CODES, return_dtype=pl.Int8).to_numpy()


def _known_bools(values: pl.Series, scored_R: NDArray[np.bool_]) -> NDArray[np.int8]:
    known = values.cast(pl.Int8).fill_null(-1).to_numpy()
    return np.where(scored_R, known, np.int8(-1))
