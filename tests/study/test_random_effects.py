"""Random-effects means against a grid search in plain Python, statsmodels and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp
from statsmodels.stats.meta_analysis import combine_effects

from psych_ray.study.random_effects import RandomEffects, random_effects, reml_tau2

EFFECTS = st.lists(st.tuples(st.floats(-2, 2), st.floats(1e-4, 1)), min_size=2, max_size=12)
MADE = [(0.3, 0.01), (0.1, 0.04), (-0.2, 0.02), (0.8, 0.05), (0.25, 0.03), (0.4, 0.01)]


def slow_log_likelihood(tau2: float, effects: list[tuple[float, float]]) -> float:
    """Viechtbauer (2005), equation 5, term by term."""
    weights = [1 / (v + tau2) for _, v in effects]
    mean = sum(w * y for w, (y, _) in zip(weights, effects, strict=True)) / sum(weights)
    value = -0.5 * math.log(sum(weights))
    for y, v in effects:
        value -= 0.5 * math.log(v + tau2) + 0.5 * (y - mean) ** 2 / (v + tau2)
    return value


def slow_tau2(effects: list[tuple[float, float]]) -> float:
    """The best of a grid, refined around its best point."""
    low, high = 0.0, 100.0
    for _ in range(12):
        points = [low + (high - low) * k / 400 for k in range(401)]
        best = max(points, key=lambda tau2: slow_log_likelihood(tau2, effects))
        step = points[1] - points[0]
        low, high = max(0.0, best - 2 * step), best + 2 * step
    return best


def split(effects: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    y, v = zip(*effects, strict=True)
    return np.array(y), np.array(v)


@settings(max_examples=60, deadline=None)
@given(EFFECTS)
def test_no_tau2_has_a_larger_restricted_likelihood(effects: list[tuple[float, float]]) -> None:
    found = slow_log_likelihood(reml_tau2(*split(effects)), effects)
    assert found >= slow_log_likelihood(slow_tau2(effects), effects) - 1e-9


def test_tau2_is_the_maximum_of_a_fine_grid() -> None:
    assert reml_tau2(*split(MADE)) == pytest.approx(slow_tau2(MADE), rel=1e-6)
    assert reml_tau2(*split(MADE)) > 0.01


def test_two_maxima() -> None:
    """At zero and further up; where three studies agree the first is larger, where two do the second."""
    near = [(0.0, 1e-6), (0.001, 1e-6), (0.0005, 1e-6), (1.0, 0.04)]
    assert reml_tau2(*split(near)) == 0
    assert slow_log_likelihood(0.197, near) > slow_log_likelihood(0.1, near)
    far = [(0.0, 1e-6), (0.0005, 1e-6), (1.0, 0.04)]
    assert slow_log_likelihood(0, far) > slow_log_likelihood(0.001, far)
    assert reml_tau2(*split(far)) == pytest.approx(slow_tau2(far), rel=1e-4)


def test_statsmodels_has_the_same_mean_and_errors_at_its_tau2(monkeypatch: pytest.MonkeyPatch) -> None:
    y, v = split(MADE)
    theirs = combine_effects(y, v, method_re="iterated", use_t=True, atol=1e-14)
    monkeypatch.setattr("psych_ray.study.random_effects.reml_tau2", lambda y, v: float(theirs.tau2))
    ours = random_effects(y, v)
    # Paule and Mandel's tau² makes Hartung and Knapp's factor exactly 1, so that both standard errors are the same.
    _, random, _, random_hartung_knapp = theirs.conf_int(use_t=True)
    assert ours.mean == pytest.approx(theirs.mean_effect_re, rel=1e-9)
    assert ours.se == pytest.approx(theirs.sd_eff_w_re_hksj, rel=1e-6)
    assert (ours.low, ours.high) == pytest.approx(tuple(random_hartung_knapp), rel=1e-6)
    assert (ours.low, ours.high) == pytest.approx(tuple(random), rel=1e-6)


def test_equal_variances_have_a_closed_form() -> None:
    """Then tau² is the sample variance minus the common one, and the mean is the plain mean with the plain t test."""
    y, v = np.array([0.1, 0.5, -0.3, 0.9, 0.2]), np.full(5, 0.02)
    found = random_effects(y, v)
    se = math.sqrt(np.var(y, ddof=1) / 5)
    assert found.tau == pytest.approx(math.sqrt(np.var(y, ddof=1) - 0.02), rel=1e-9)
    assert (found.k, found.mean, found.se) == (5, pytest.approx(np.mean(y)), pytest.approx(se, rel=1e-9))
    t_4, t_3 = 2.7764451051977987, 3.1824463052842638
    assert found.low == pytest.approx(np.mean(y) - t_4 * se)
    assert found.high == pytest.approx(np.mean(y) + t_4 * se)
    half = t_3 * math.sqrt(found.tau**2 + se**2)
    assert (found.pi_low, found.pi_high) == (pytest.approx(np.mean(y) - half), pytest.approx(np.mean(y) + half))
    assert found.p == pytest.approx(ttest_1samp(y, 0).pvalue)


def test_studies_that_agree_too_well_keep_their_own_errors() -> None:
    found = random_effects([0.2, 0.2, 0.2001], [0.01, 0.01, 0.01])
    assert found.tau == 0
    assert found.se == pytest.approx(math.sqrt(0.01 / 3))


@settings(max_examples=60, deadline=None)
@given(EFFECTS)
def test_never_narrower_than_the_fixed_effect_error(effects: list[tuple[float, float]]) -> None:
    y, v = split(effects)
    found = random_effects(y, v)
    assert found.se is not None
    assert found.se >= math.sqrt(1 / (1 / v).sum()) * (1 - 1e-12)
    assert found.low < found.mean < found.high
    assert min(y) - 1e-12 <= found.mean <= max(y) + 1e-12


def test_too_few_studies() -> None:
    assert random_effects([], []) == RandomEffects(k=0)
    assert random_effects([0.4], [0.1]) == RandomEffects(k=1, mean=0.4)
    two = random_effects([0.4, 0.1], [0.01, 0.02])
    assert two.k == 2
    assert two.pi_low is None
    assert two.se is not None


def test_what_is_not_known_is_left_out() -> None:
    y, v = split(MADE)
    whole = random_effects(y, v)
    assert random_effects([*y, 5.0, None, float("nan")], [*v, None, 0.1, 0.1]) == whole


def test_exact_estimates() -> None:
    differing = random_effects([0.1, 0.5, 0.3], [0.0, 0.0, 0.01])
    assert differing.tau is not None
    assert differing.tau > 0.1
    assert differing.se is not None
    # One exact estimate within the errors of the others: no difference between studies, and no interval to state.
    agreeing = random_effects([0.1, 0.12, 0.08], [0.0, 0.01, 0.01])
    assert agreeing == RandomEffects(k=3, mean=0.1, tau=0.0)
    assert random_effects([0.2, 0.2], [0.0, 0.0]) == RandomEffects(k=2, mean=0.2, tau=0.0)
    spread = random_effects([0.0, 1.0], [0.0, 0.0])
    assert spread.tau == pytest.approx(math.sqrt(0.5))
    assert spread.mean == pytest.approx(0.5)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="1 estimates with 2 variances"):
        random_effects([0.1], [0.1, 0.2])
    with pytest.raises(ValueError, match="negative"):
        random_effects([0.1, 0.2], [0.1, -0.2])
