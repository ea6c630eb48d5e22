"""How much of the misalignment of a pair one temperature for all logits repairs, and how much remains.

A post-trained checkpoint may only be too sure of itself: then the difference to its base is gone when both are at their
own temperature, chosen on other participants. Takes sums of `tallies`. Shapes: P participants, S studies, B draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from psych_ray.study.bootstrap import Bootstrap, clusters, interval
from psych_ray.study.calibration import GRID, halves, judged
from psych_ray.study.comparing import Comparison
from psych_ray.study.numbering import Ints
from psych_ray.study.schemas import table
from psych_ray.study.tallies import Tallies
from psych_ray.study.task_sums import Floats

_PAIRS_AT_ONCE = 16
"""Of which the draws are in memory together."""
_N = 2 + 2 * 2 * len(GRID)
"""Sums of a pair by participant: responses of each half, and for each half, side and temperature the NLL."""
_PARTS = ("misalignment", "repaired", "remaining")


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """What the statistics of a pair need."""

    comparison: Comparison
    sums: Floats
    """[P, _N]."""
    values: Floats
    """misalignment, repaired and remaining of each study [S, 3]; NaN where a half has no responses."""
    choices: Mapping[str, float | None]
    """leak and within, mean over studies."""


def overconfidence(
    tallies: Tallies,
    comparisons: Sequence[Comparison],
    facts: Mapping[str, Mapping[str, Any]],
    bootstrap: Bootstrap,
) -> pl.DataFrame:
    """`Findings.overconfidence`: a row of each comparison of a post-trained checkpoint with its base.

    Over the transcripts in which both have scored the same responses, all with NLLs at temperatures; over the studies
    in which both halves of the participants have such. `facts`: family, generation, size_b and stage by checkpoint.
    Intervals: bootstrap over studies and participants, with temperatures chosen anew in each draw.
    """
    half_P = halves(tallies.participants)
    rows = []
    for pair, drawn in _drawn(tallies, comparisons, half_P, bootstrap):
        used = ~np.isnan(pair.values[:, 0])
        participants = int((pair.sums[:, :2].sum(axis=1) > 0).sum())
        low, high = interval(drawn, clusters(int(used.sum()), participants))
        means = pair.values[used].mean(axis=0)
        row: dict[str, Any] = {
            "post": pair.comparison.first.checkpoint,
            "base": pair.comparison.second.checkpoint,
            "condition": pair.comparison.first.condition,
            **facts.get(pair.comparison.first.checkpoint, {}),
            **dict(zip(_PARTS, means.tolist(), strict=True)),
            **pair.choices,
            "n_studies": int(used.sum()),
        }
        for name, own_low, own_high in zip(("", "repaired_", "remaining_"), low, high, strict=True):
            row |= {f"{name}low": float(own_low), f"{name}high": float(own_high)}
        rows.append(row)
    found = table("overconfidence", pl.DataFrame(rows, infer_schema_length=None))
    return found.with_columns(pl.col(pl.Float64).fill_nan(None))


def _pair(tallies: Tallies, comparison: Comparison, half_P: Ints) -> _Pair | None:
    """None where the pair has no study with responses in both halves."""
    one = tallies.comparisons.get(comparison)
    sides = [tallies.tasks[task].sums for task in comparison if task in tallies.tasks]
    if one is None or any("t_n" not in side for side in sides):
        return None
    n_T = one.sums["n"]
    # Sums are by transcript: they are over the same responses only where neither side has more than both together.
    same_T = n_T > 0
    for side in sides:
        same_T &= (side["n"] == n_T) & (side["t_n"] == n_T)
    n_P = tallies.by_participant(n_T * same_T)
    n, by_half = np.zeros((len(n_P), 2)), np.zeros((len(n_P), 2, 2, len(GRID)))
    people = np.arange(len(n_P))
    n[people, half_P] = n_P
    for at, side in enumerate(sides):
        values = np.stack([tallies.by_participant(side[name] * same_T) for name in GRID], axis=-1)
        by_half[people, half_P, at] = values
    sums = np.concatenate([n, by_half.reshape(len(n_P), _N - 2)], axis=1)
    starts = tallies.starts
    values_S = _statistic(np.add.reduceat(sums, starts, axis=0)) if len(starts) else np.empty((0, 3))
    if not (~np.isnan(values_S)).any():
        return None
    choices = _choices(tallies, sides[0], sides[1], same_T)
    return _Pair(comparison=comparison, sums=sums, values=values_S, choices=choices)


def _statistic(sums: Floats) -> Floats:
    """misalignment, repaired and remaining of sums in the order of `_Pair.sums` [..., 3]."""
    n = sums[..., :2]
    grid = sums[..., 2:].reshape(*sums.shape[:-1], 2, 2, len(GRID))
    total = np.where((n > 0).all(axis=-1), n.sum(axis=-1), np.nan)
    post, base = (judged(grid[..., side, :])[0] / total for side in (0, 1))
    untempered = grid[..., 0].sum(axis=-2)
    misalignment = (untempered[..., 0] - untempered[..., 1]) / total
    remaining = post - base
    return np.stack([misalignment, misalignment - remaining, remaining], axis=-1)


def _choices(
    tallies: Tallies, post: Mapping[str, Floats], base: Mapping[str, Floats], same_T: NDArray[np.bool_]
) -> dict[str, float | None]:
    """Differences in leak and within, mean over the studies that have choices of both."""
    if "choices" not in post or "choices" not in base:
        return {"leak": None, "within": None}
    same_T = same_T & (post["choices"] == base["choices"])
    n_S = tallies.by_study(post["choices"] * same_T)
    has = n_S > 0
    if not has.any():
        return {"leak": None, "within": None}
    return {
        name: float((tallies.by_study((post[name] - base[name]) * same_T)[has] / n_S[has]).mean())
        for name in ("leak", "within")
    }


def _drawn(
    tallies: Tallies, comparisons: Sequence[Comparison], half_P: Ints, bootstrap: Bootstrap
) -> Iterator[tuple[_Pair, NDArray[np.float32]]]:
    """Each pair, with the means over studies of its three parts in each draw [B, 3]."""
    for begin in range(0, len(comparisons), _PAIRS_AT_ONCE):
        some = comparisons[begin : begin + _PAIRS_AT_ONCE]
        pairs = [pair for one in some if (pair := _pair(tallies, one, half_P)) is not None]
        if pairs:
            yield from zip(pairs, _draws(pairs, bootstrap), strict=True)


def _draws(pairs: Sequence[_Pair], bootstrap: Bootstrap) -> Iterator[NDArray[np.float32]]:
    """[B, 3] of each pair, all from the same draws."""

    def statistic(drawn: Floats, study: int) -> Floats:
        return _statistic(drawn.reshape(len(drawn), len(pairs), _N)).reshape(len(drawn), len(pairs) * 3)

    values = bootstrap.by_study(np.concatenate([pair.sums for pair in pairs], axis=1), statistic)
    for at, pair in enumerate(pairs):
        yield bootstrap.over_studies(values[..., 3 * at : 3 * at + 3], ~np.isnan(pair.values[:, 0]))
