"""Checks the rows of a part against its footer and against `sources/`, column by column.

A likelihood that was changed together with the tallies of the footer and the checksum of the name cannot be told from
one that was scored. Pure: reads no files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from psych_ray.results.check_sources import SourceTranscript
from psych_ray.results.parts import counted_facts
from psych_ray.results.schema import ADDED_LATER, RESPONSES, Footer
from psych_ray.scoring.calibration import NLL_AT, OF_OPTIONS, OPTIONS_BRIER, OPTIONS_HIT, OPTIONS_TOP
from psych_ray.transcripts.status import Status

# Shapes: N rows of a part, T transcripts of it.
_LARGEST_FLOAT = float(np.finfo(np.float32).max)
_RANGE = {OPTIONS_BRIER: (0.0, 2.0), OPTIONS_TOP: (1 / 27, 1.0)}
"""Of columns that have a largest value. There are at most 26 options."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of a part, transcript after transcript."""

    table: pa.Table
    ids_T: list[str]
    first_T: NDArray[np.int64]
    """Index of the first row of each transcript."""
    lengths_T: NDArray[np.int64]
    known: Mapping[str, SourceTranscript]

    def numbers(self, name: str) -> NDArray[Any]:
        """A column without nulls, or with 0 for them [N]."""
        column = self.table[name]
        return np.asarray((column.fill_null(0) if column.null_count else column).to_numpy())

    def transcript_of(self, row: int) -> str:
        """Id of the transcript that a row belongs to."""
        return self.ids_T[int(np.searchsorted(self.first_T, row, side="right")) - 1]


def rows_fault(table: pa.Table, footer: Footer, known: Mapping[str, SourceTranscript]) -> str | None:
    """What is wrong with the rows of a part, or with the counts of its footer; None where nothing is.

    `known`: transcripts of `sources/` by id. What is not in it cannot be compared.
    """
    fault = _schema_fault(table) or _footer_fault(table, footer)
    if fault:
        return fault
    codes, ids = _codes(table["transcript"])
    first = np.flatnonzero(np.diff(codes, prepend=-1))
    if [ids[code] for code in codes[first]] != footer.transcripts:
        return "rows of one transcript are not next to each other"
    rows = _Rows(table, footer.transcripts, first, np.diff(first, append=len(codes)), known)
    checks: tuple[Callable[[_Rows], str | None], ...] = (_order_fault, _text_fault, _names_fault, _values_fault)
    return next(filter(None, (check(rows) for check in checks)), None)


def _schema_fault(table: pa.Table) -> str | None:
    """Columns that a newer version added are no fault, nor those that an earlier one did not have."""
    found = {column.name: column for column in table.schema}
    for column in RESPONSES:
        if column.name in ADDED_LATER and column.name not in found:
            continue
        if not column.equals(found.get(column.name, pa.field("", pa.null()))):
            return f"column {column.name} is missing or of another type"
        if not column.nullable and table[column.name].null_count:
            return f"column {column.name} has {table[column.name].null_count:,} nulls"
    return None


def _footer_fault(table: pa.Table, footer: Footer) -> str | None:
    for name, value in counted_facts(table).items():
        if getattr(footer, name) != value:
            return f"its footer has other {name.replace('_', ' ')} than its rows"
    return None


def _order_fault(rows: _Rows) -> str | None:
    expected_N = np.arange(len(rows.table)) - np.repeat(rows.first_T, rows.lengths_T)
    wrong = np.flatnonzero(rows.numbers("response") != expected_N)
    if len(wrong):
        return f"responses of transcript {rows.transcript_of(wrong[0])} are not numbered from 0 in order"
    for one, length in zip(rows.ids_T, rows.lengths_T, strict=True):
        source = rows.known.get(one)
        if source is not None and length != len(source.starts_R):
            return f"{length:,} rows of transcript {one}, which has {len(source.starts_R):,} responses"
    return None


def _text_fault(rows: _Rows) -> str | None:
    columns = {"char_start": "starts_R", "char_end": "ends_R", "n_options": "n_options_R"}
    for column, of_source in columns.items():
        if column not in rows.table.column_names:
            continue
        found_N = rows.numbers(column)
        expected = [
            getattr(rows.known[one], of_source) if one in rows.known else found_N[first : first + length]
            for one, first, length in zip(rows.ids_T, rows.first_T, rows.lengths_T, strict=True)
        ]
        wrong = np.flatnonzero(found_N != np.concatenate([found_N[:0], *expected]))
        if len(wrong):
            return f"{column} of transcript {rows.transcript_of(wrong[0])} is not that of its responses in sources/"
    return None


def _names_fault(rows: _Rows) -> str | None:
    for column in ("study", "experiment", "participant"):
        codes, values = _codes(rows.table[column])
        code_of = {value: code for code, value in enumerate(values)}
        expected_T = [
            code_of.get(getattr(rows.known[one], column), -1) if one in rows.known else codes[first]
            for one, first in zip(rows.ids_T, rows.first_T, strict=True)
        ]
        wrong = np.flatnonzero(codes != np.repeat(np.asarray(expected_T, codes.dtype), rows.lengths_T))
        if len(wrong):
            return f"{column} of transcript {rows.transcript_of(wrong[0])} is not that of sources/"
    return None


def _values_fault(rows: _Rows) -> str | None:
    table = rows.table
    codes, values = _codes(table["status"])
    unknown = set(values) - set(Status)
    if unknown:
        return f"status {min(unknown)!r} does not exist"
    scored_N = codes == (values.index(Status.scored) if Status.scored in values else -1)
    nll = table["nll"]
    if not np.array_equal(np.asarray(nll.is_valid().to_numpy()), scored_N):
        return "nll is not null exactly where nothing was scored"
    if not _is_between(nll, 0, _LARGEST_FLOAT):
        return "nll is not finite, or below 0"
    if np.any(np.asarray(table["top1"].is_valid().to_numpy()) & ~scored_N):
        return "top1 where nothing was scored"
    if np.any(rows.numbers("n_tokens") < 0):
        return "n_tokens is below 0"
    return _calibration_fault(rows, scored_N)


def _calibration_fault(rows: _Rows, scored_N: NDArray[np.bool_]) -> str | None:
    """Parts of earlier versions have none of these columns."""
    table = rows.table
    for names in (tuple(NLL_AT.values()), OF_OPTIONS):
        present = [name for name in names if name in table.column_names]
        valid = [np.asarray(table[name].is_valid().to_numpy()) for name in present]
        for name, valid_N in zip(present, valid, strict=True):
            if np.any(valid_N & ~scored_N):
                return f"{name} where nothing was scored"
            if not np.array_equal(valid_N, valid[0]):
                return f"{name} is not null in the same rows as {present[0]}"
            least, most = _RANGE.get(name, (0.0, _LARGEST_FLOAT))
            if name != OPTIONS_HIT and not _is_between(table[name], least, most):
                return f"{name} is not from {least:.2g} to {most:.2g}"
        if names == OF_OPTIONS and present and np.any(valid[0] & (rows.numbers("n_options") < 2)):
            return f"{present[0]} where there are no two options"
    return None


def _is_between(column: pa.ChunkedArray, least: float, most: float) -> bool:
    """Whether all values that are not null are numbers in that range."""
    within = pc.and_(pc.greater_equal(column, least), pc.less_equal(column, most))
    return bool(pc.all(within, min_count=0).as_py())


def _codes(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], list[str]]:
    """Each row's index in the list of the column's values [N], and that list without repetitions."""
    chunk = column.unify_dictionaries().combine_chunks()
    if isinstance(chunk, pa.ChunkedArray):
        chunk = chunk.chunk(0) if chunk.num_chunks else pa.array([], column.type)
    codes: dict[str, int] = {}
    code_of_entry = np.array([codes.setdefault(v, len(codes)) for v in chunk.dictionary.to_pylist()], np.int32)
    indices = chunk.indices.to_numpy()
    # A dictionary may have values that no row has.
    used, dense = np.unique(code_of_entry[indices] if len(indices) else indices, return_inverse=True)
    values = list(codes)
    return dense.astype(np.int32), [values[code] for code in used]
