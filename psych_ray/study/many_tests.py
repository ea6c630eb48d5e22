"""Tests that many effects share: the false-discovery rate of a table of p values, and the sign test.

Takes numbers only; which of them belong together is for the caller to say. In all of `study`, distributions are those
of `scipy.special`: to import `scipy.stats` takes a second of every report.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import special


def benjamini_hochberg(p_values: Sequence[float | None]) -> list[float | None]:
    """The p values adjusted for the false-discovery rate (Benjamini and Hochberg 1995), in their order.

    One that is None or NaN stays None, and is not counted among the tests. ValueError for a p outside 0 to 1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted: list[float | None] = [None] * len(p)
    known = np.flatnonzero(~np.isnan(p))
    if ((p[known] < 0) | (p[known] > 1)).any():
        raise ValueError("a p value is not between 0 and 1")
    descending = known[np.argsort(-p[known], kind="stable")]
    n_at_most = np.arange(len(descending), 0, -1)
    q_values = np.minimum.accumulate(np.minimum(1, p[descending] * len(descending) / n_at_most))
    for index, q in zip(descending, q_values, strict=True):
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
    n, fewer = positive + negative, min(positive, negative)
    return positive, min(1.0, 2 * float(special.bdtr(fewer, n, 0.5)))
