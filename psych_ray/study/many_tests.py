"""Tests that many effects share: the false-discovery rate of a table of p values, and the sign test.

Takes numbers only; which of them belong together is for the caller to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import stats


def benjamini_hochberg(p_values: Sequence[float | None]) -> list[float | None]:
    """The p values adjusted for the false-discovery rate (Benjamini and Hochberg 1995), in their order.

    One that is None or NaN stays None, and is not counted among the tests. ValueError for a p outside 0 to 1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted: list[float | None] = [None] * len(p)
    known = np.flatnonzero(~np.isnan(p))
    for index, q in zip(known, stats.false_discovery_control(p[known]), strict=True):
        adjusted[index] = float(q)
    return adjusted


def sign_test(effects: Iterable[float | None]) -> tuple[int, float | None]:
    """(effects above zero, two-sided p that above and below are equally frequent).

    Zeros, None and NaN are dropped; p is None where nothing is left.
    """
    values = np.asarray(list(effects), dtype=np.float64)
    positive, negative = int((values > 0).sum()), int((values < 0).sum())
    if positive + negative == 0:
        return 0, None
    return positive, float(stats.binomtest(positive, positive + negative).pvalue)
