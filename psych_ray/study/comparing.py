"""Sums over the responses that two tasks have both scored, for each transcript.

Keeps the NLLs of a task, by place, for as long as a comparison still needs them. Shapes: N places, T transcripts,
S studies of the numbering so far.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from psych_ray.study.numbering import Ints, Numbering, moved, segment_sums
from psych_ray.study.rows import Task, TaskRows
from psych_ray.study.task_sums import Floats, Sums, least_values


class Comparison(NamedTuple):
    """Two tasks whose responses are compared: the first minus the second."""

    first: Task
    second: Task


@dataclass(frozen=True, kw_only=True)
class ComparisonSums:
    """Sums of one comparison; `tallies.ComparisonTally` says what each is."""

    sums: Sums
    centres_S: tuple[Floats, Floats]


@dataclass(frozen=True)
class _Placed:
    """NLL and hit of one task by place: NaN and -1 where there is none."""

    nll_N: NDArray[np.float32]
    hit_N: NDArray[np.int8]
    """Of single letters."""
    lengths_T: Ints

    def moved(self, numbering: Numbering) -> _Placed:
        lengths_T = numbering.lengths_T
        return _Placed(
            moved(self.nll_N, self.lengths_T, lengths_T, np.nan),
            moved(self.hit_N, self.lengths_T, lengths_T, -1),
            lengths_T.copy(),
        )


class Comparing:
    """Compares tasks as they are read."""

    def __init__(self, comparisons: Sequence[Comparison]) -> None:
        self._waiting = list(comparisons)
        self._placed: dict[Task, _Placed] = {}
        self.compared: dict[Comparison, ComparisonSums] = {}

    def add(self, task: Task, rows: TaskRows, numbering: Numbering) -> None:
        """Compare a task with those that were read before."""
        if not any(task in one for one in self._waiting):
            return
        self._placed[task] = _place(rows, numbering)
        for one in [one for one in self._waiting if one.first in self._placed and one.second in self._placed]:
            first, second = (self._placed[each].moved(numbering) for each in one)
            self.compared[one] = _compare(first, second, numbering)
            self._waiting.remove(one)
        needed = {each for one in self._waiting for each in one}
        self._placed = {each: placed for each, placed in self._placed.items() if each in needed}


def reading_order(tasks: Collection[Task], comparisons: Sequence[Comparison]) -> list[Task]:
    """The tasks, each right before those that are compared with it, so that few are held at a time."""
    firsts: dict[Task, list[Task]] = {}
    for first, second in comparisons:
        firsts.setdefault(second, []).append(first)
    order: dict[Task, None] = {}
    roots = set(firsts) - {first for first, _ in comparisons}
    waiting = sorted(roots, key=lambda task: -len(firsts[task])) + list(tasks)
    while waiting:
        task = waiting.pop(0)
        if task not in order:
            order[task] = None
            waiting = [*firsts.get(task, []), *waiting]
    return [task for task in order if task in tasks]


def _place(rows: TaskRows, numbering: Numbering) -> _Placed:
    places_R = rows.places(numbering)
    nll_N, hit_N = np.full(numbering.places, np.nan, np.float32), np.full(numbering.places, -1, np.int8)
    nll_N[places_R] = np.where(rows.scored, rows.nll_R, np.nan)
    hit_N[places_R] = np.where(rows.letter_R, rows.hit_R, -1)
    return _Placed(nll_N, hit_N, numbering.lengths_T.copy())


def _compare(first: _Placed, second: _Placed, numbering: Numbering) -> ComparisonSums:
    offsets_T, lengths_T = numbering.offsets(), numbering.lengths_T
    has_a, has_b = ~np.isnan(first.nll_N), ~np.isnan(second.nll_N)
    both_N = np.isfinite(first.nll_N) & np.isfinite(second.nll_N)
    n_studies = len(numbering.studies)
    centres = [least_values(one.nll_N, both_N, offsets_T, numbering.study_T, n_studies) for one in (first, second)]
    a, b = (
        np.where(both_N, one.nll_N - np.repeat(centres_S[numbering.study_T], lengths_T), 0.0)
        for one, centres_S in zip((first, second), centres, strict=True)
    )
    letters_N = (first.hit_N >= 0) & (second.hit_N >= 0)

    columns: Mapping[str, NDArray[Any]] = {
        "n": both_N,
        "a": a,
        "b": b,
        "aa": a * a,
        "bb": b * b,
        "ab": a * b,
        "letters": letters_N,
        "letter_a": letters_N & (first.hit_N > 0),
        "letter_b": letters_N & (second.hit_N > 0),
        "only_a": has_a & ~has_b,
        "only_b": has_b & ~has_a,
    }
    sums = {name: segment_sums(values, offsets_T, lengths_T) for name, values in columns.items()}
    return ComparisonSums(sums=sums, centres_S=(centres[0], centres[1]))
