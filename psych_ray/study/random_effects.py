"""The mean of an effect over studies as a random-effects model has it, and how much the true effects differ.

Needs an estimate and its sampling variance of each study; does not know what the effect is or how it was computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

Vector = NDArray[np.float64]
_LEVEL = 0.975
_GRID = 200


@dataclass(frozen=True, kw_only=True)
class RandomEffects:
    """A mean over `k` studies, in the unit of the estimates; None: too few studies, or a variance of zero."""

    k: int
    """Studies that were used."""
    mean: float | None = None
    """None without studies."""
    se: float | None = None
    """Hartung-Knapp; None below 2 studies, and where it would be zero."""
    low: float | None = None
    high: float | None = None
    """95 % interval of the mean, t with k - 1 degrees of freedom; None with `se`."""
    p: float | None = None
    """Two-sided, that the mean is zero; None with `se`."""
    tau: float | None = None
    """Standard deviation of the true effects, REML; None below 2 studies."""
    pi_low: float | None = None
    pi_high: float | None = None
    """95 % prediction interval of the true effect in a new study; None below 3 studies, and with `se`."""


def random_effects(
    estimates: Sequence[float | None] | Vector, variances: Sequence[float | None] | Vector
) -> RandomEffects:
    """Random-effects mean of the estimates; ValueError where there are not as many variances, or one is negative.

    Studies of which either number is None or not finite are left out. A variance of zero says that an estimate is
    exact. tau² is the restricted maximum-likelihood estimate (Viechtbauer 2005). The standard error is that of Hartung
    and Knapp (2001) with the constraint of Knapp and Hartung (2003) that it is no smaller than 1 / sqrt(sum of
    weights): without it, few studies that happen to agree have an interval narrower than their own errors allow, and
    the constraint costs some width where studies are few (Röver, Knapp and Friede 2015). The prediction interval is
    that of Higgins, Thompson and Spiegelhalter (2009), t with k - 2 degrees of freedom, with this standard error
    (Partlett and Riley 2017).
    """
    y, v = _usable(estimates, variances)
    k = len(y)
    if k < 2:
        return RandomEffects(k=k, mean=float(y[0]) if k else None)
    tau2 = reml_tau2(y, v)
    total = v + tau2
    exact = total == 0
    mean = float(y[exact].mean()) if exact.any() else float(np.average(y, weights=1 / total))
    if exact.any():
        return RandomEffects(k=k, mean=mean, tau=0.0)
    weights = 1 / total
    excess = max(1.0, float((weights * (y - mean) ** 2).sum()) / (k - 1))
    se = float(np.sqrt(excess / weights.sum()))
    half = float(special.stdtrit(k - 1, _LEVEL)) * se
    predicted = float(special.stdtrit(k - 2, _LEVEL) * np.sqrt(tau2 + se**2)) if k > 2 else None
    return RandomEffects(
        k=k,
        mean=mean,
        se=se,
        low=mean - half,
        high=mean + half,
        p=float(2 * special.stdtr(k - 1, -abs(mean) / se)),
        tau=float(np.sqrt(tau2)),
        pi_low=None if predicted is None else mean - predicted,
        pi_high=None if predicted is None else mean + predicted,
    )


def reml_tau2(y: Vector, v: Vector) -> float:
    """tau² at which the restricted likelihood is largest, of 2 estimates or more with variances of 0 or more.

    The likelihood may have several maxima: it is computed on a logarithmic grid, and the largest is refined to the root
    of its derivative. At a maximum tau² <= 2 range(y)² + max(v), as the derivative shows, so the grid ends there.
    """
    end = 2 * float(np.ptp(y)) ** 2 + float(v.max())
    if np.ptp(y) == 0 or end == 0:
        return 0.0
    grid = np.concatenate([[0.0], np.geomspace(end * 1e-12, end, _GRID)])
    if (v == 0).any():
        # The likelihood at zero is a limit, which the first point above zero stands for.
        grid[0] = grid[1] * 1e-3
    best = int(np.argmax(restricted_log_likelihood(grid, y, v)))
    below, above = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)])
    if _derivative(below, y, v) <= 0:
        return 0.0 if best <= 1 else float(grid[best])
    return float(optimize.brentq(_derivative, below, above, args=(y, v), xtol=end * 1e-16, rtol=1e-12))


def restricted_log_likelihood(tau2: Vector, y: Vector, v: Vector) -> Vector:
    """Of each tau², but for a constant; the sums v + tau² must be above zero."""
    weights = 1 / (v + tau2[:, None])
    total = weights.sum(axis=1)
    mean = (weights * y).sum(axis=1) / total
    spread = (weights * (y - mean[:, None]) ** 2).sum(axis=1)
    likelihood: Vector = -0.5 * (-np.log(weights).sum(axis=1) + np.log(total) + spread)
    return likelihood


def _derivative(tau2: float, y: Vector, v: Vector) -> float:
    weights = 1 / (v + tau2)
    total = weights.sum()
    residual = y - (weights * y).sum() / total
    return float(0.5 * ((weights**2).sum() / total - total + (weights**2 * residual**2).sum()))


def _usable(
    estimates: Sequence[float | None] | Vector, variances: Sequence[float | None] | Vector
) -> tuple[Vector, Vector]:
    y, v = np.asarray(estimates, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    if y.shape != v.shape:
        raise ValueError(f"{len(y)} estimates with {len(v)} variances")
    usable = np.isfinite(y) & np.isfinite(v)
    if (v[usable] < 0).any():
        raise ValueError("a sampling variance is negative")
    return y[usable], v[usable]
