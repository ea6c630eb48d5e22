"""Adjusted p values and sign tests, against their definitions in plain Python."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psych_ray.study.many_tests import benjamini_hochberg, sign_test

P_VALUES = st.lists(st.none() | st.floats(0, 1), max_size=20)


def slow_benjamini_hochberg(p_values: list[float | None]) -> list[float | None]:
    """The smallest, over all p that are no smaller, of p * tests / rank."""
    known = sorted(p for p in p_values if p is not None)
    by_rank = [min(1.0, p * len(known) / (rank + 1)) for rank, p in enumerate(known)]
    return [
        None if p is None else min(q for q, other in zip(by_rank, known, strict=True) if other >= p) for p in p_values
    ]


@given(P_VALUES)
def test_adjusted_p_values(p_values: list[float | None]) -> None:
    for q, slow in zip(benjamini_hochberg(p_values), slow_benjamini_hochberg(p_values), strict=True):
        assert q == (None if slow is None else pytest.approx(slow))


def test_a_table_of_p_values() -> None:
    assert benjamini_hochberg([0.01, None, 0.04, 0.03, math.nan]) == [
        pytest.approx(0.03), None, pytest.approx(0.04), pytest.approx(0.04), None
    ]  # fmt: skip
    assert benjamini_hochberg([]) == []
    with pytest.raises(ValueError):
        benjamini_hochberg([1.5])


@given(st.lists(st.none() | st.floats(-1, 1), max_size=30))
def test_signs(effects: list[float | None]) -> None:
    above = sum(effect is not None and effect > 0 for effect in effects)
    below = sum(effect is not None and effect < 0 for effect in effects)
    n = above + below
    found = sign_test(effects)
    if n == 0:
        assert found == (0, None)
        return
    tail = sum(math.comb(n, k) for k in range(max(above, below), n + 1)) / 2**n
    assert found == (above, pytest.approx(min(1.0, 2 * tail)))
