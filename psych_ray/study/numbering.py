"""Numbers for the transcripts of a sweep and places for their responses, the same for every checkpoint and condition.

With them, responses of different checkpoints are compared by their place in an array instead of by a join. Transcripts
are numbered in the order in which they are first seen. Shapes: T transcripts, N places of responses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

Ints = NDArray[np.int64]
KEY = ("study", "transcript")
"""Columns that tell a transcript from others."""
ABOUT = ("experiment", "participant")


class Numbering:
    """The transcripts that were seen so far."""

    def __init__(self) -> None:
        self._known = pl.DataFrame(schema=dict.fromkeys((*KEY, *ABOUT), pl.String))
        self.lengths_T: Ints = np.empty(0, np.int64)
        """Number of responses of each transcript."""
        self.study_T: Ints = np.empty(0, np.int64)
        """Index in `studies` of each transcript."""
        self.studies: list[str] = []
        """In the order in which they were first seen."""

    @property
    def transcripts(self) -> pl.DataFrame:
        """study, transcript, experiment, participant; the row is the number."""
        return self._known

    def offsets(self) -> Ints:
        """Place of the first response of each transcript [T]."""
        ends: Ints = np.cumsum(self.lengths_T)
        return ends - self.lengths_T

    @property
    def places(self) -> int:
        """N."""
        return int(self.lengths_T.sum())

    def numbers(self, keys: pl.DataFrame, lengths: Ints, about: Callable[[Ints], pl.DataFrame]) -> Ints:
        """Numbers of transcripts, each once, with at least `lengths` responses; new ones are added.

        `keys`: their columns `KEY`. `about`: the columns `KEY` and `ABOUT` of those that are new, by index in `keys`.
        """
        known = self._known.select(KEY).with_row_index("number")
        found = keys.join(known, on=KEY, how="left", maintain_order="left")["number"]
        new: Ints = np.flatnonzero(found.is_null().to_numpy())
        numbers = found.fill_null(0).cast(pl.Int64).to_numpy().copy()
        if len(new):
            numbers[new] = np.arange(len(self.lengths_T), len(self.lengths_T) + len(new))
            added = about(new).select(pl.col(*KEY, *ABOUT).cast(pl.String))
            self._known = pl.concat([self._known, added])
            self.studies = self._known["study"].unique(maintain_order=True).to_list()
            self.study_T = (
                self._known["study"]
                .replace_strict(self.studies, range(len(self.studies)), return_dtype=pl.Int64)
                .to_numpy()
            )
            self.lengths_T = np.concatenate([self.lengths_T, np.zeros(len(new), np.int64)])
        np.maximum.at(self.lengths_T, numbers, lengths)
        return numbers


def moved(values_N: NDArray[Any], before: Ints, after: Ints, missing: float) -> NDArray[Any]:
    """Values at the places that transcripts have once some have more responses, or others were added.

    `before`, `after`: the lengths of transcripts. `missing` is put at places that are new.
    """
    if len(values_N) == int(after.sum()) and len(before) == len(after):
        return values_N
    known = after[: len(before)]
    result = np.full(int(after.sum()), missing, values_N.dtype)
    if np.array_equal(before, known):
        result[: len(values_N)] = values_N
        return result
    starts = np.cumsum(known) - known
    shift = np.repeat(starts - (np.cumsum(before) - before), before)
    result[np.arange(len(values_N)) + shift] = values_N
    return result


def segment_sums(values: NDArray[Any], first_T: Ints, lengths_T: Ints) -> NDArray[np.float64]:
    """Sums over consecutive segments, which begin at `first_T` and cover all values [T]."""
    if values.dtype == np.bool_ and values.all():
        return lengths_T.astype(np.float64)
    if not len(first_T) or (values.dtype == np.bool_ and not values.any()):
        return np.zeros(len(first_T))
    sums: NDArray[np.float64] = np.add.reduceat(values, first_T, dtype=np.float64)
    return sums
