"""A simple model of learning from rewards, fitted to the choices of one participant by maximum likelihood.

Rescorla & Wagner (1972), "A theory of Pavlovian conditioning", with softmax choice (Sutton & Barto, "Reinforcement
learning", chapter 2): after reward r from arm k, Q[k] += learning_rate * (r - Q[k]), and P(k) is proportional to
exp(inverse_temperature * Q[k]); every Q starts at 0.5. The two parameters are fitted to the same choices whose NLL is
returned, so the NLL is lower than that of choices the fit has not seen. Numpy only; does not read text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

START = 0.5
"""Value of an arm of which nothing is known, where rewards are from 0 to 1."""
MAX_INVERSE_TEMPERATURE = 50.0
_RATES = 21
_NARROWER = 3
_HALVINGS = 30
_Floats = NDArray[np.float64]

# Shapes: A learning rates, N choices of one participant, K arms.


@dataclass(frozen=True)
class Fit:
    """The parameters under which a participant's choices are most probable."""

    learning_rate: float
    """From 0 to 1."""
    inverse_temperature: float
    """From 0, where all arms are as probable, to `MAX_INVERSE_TEMPERATURE`."""
    nll_N: _Floats
    """Of each choice, nats."""


def fit(choice_N: NDArray[np.int64], reward_N: _Floats, begins_N: NDArray[np.bool_], *, n_arms: int) -> Fit:
    """Fit learning rate and inverse temperature.

    `reward_N`: from 0 to 1; NaN: nothing is learned from this choice. `begins_N`: what was learned does not hold from
    this choice on. The NLL is convex in the inverse temperature, which is found by bisection for each of a grid of
    learning rates; the grid is then narrowed around the best.
    """
    low, high = 0.0, 1.0
    for _ in range(1 + _NARROWER):
        rates_A = np.linspace(low, high, _RATES)
        values_ANK = values_before(rates_A, choice_N, reward_N, begins_N, n_arms=n_arms)
        inverse_A = _best_inverse_temperatures(values_ANK, choice_N)
        nll_AN = choice_nll(inverse_A[:, None, None] * values_ANK, choice_N)
        best = int(nll_AN.sum(1).argmin())
        low, high = rates_A[max(0, best - 1)], rates_A[min(_RATES - 1, best + 1)]
    return Fit(float(rates_A[best]), float(inverse_A[best]), nll_AN[best])


def values_before(
    rates_A: _Floats, choice_N: NDArray[np.int64], reward_N: _Floats, begins_N: NDArray[np.bool_], *, n_arms: int
) -> _Floats:
    """Value of each arm before each choice, for each learning rate, [A, N, K]."""
    values_AK = np.full((len(rates_A), n_arms), START)
    before_ANK = np.empty((len(rates_A), len(choice_N), n_arms))
    for number, (arm, reward, begins) in enumerate(zip(choice_N, reward_N, begins_N, strict=True)):
        if begins:
            values_AK[:] = START
        before_ANK[:, number] = values_AK
        if not np.isnan(reward):
            values_AK[:, arm] += rates_A * (reward - values_AK[:, arm])
    return before_ANK


def choice_nll(logits_ANK: _Floats, choice_N: NDArray[np.int64]) -> _Floats:
    """Negative log-likelihood of the choices under a softmax over the last axis, nats, [A, N]."""
    logits_ANK = logits_ANK - logits_ANK.max(-1, keepdims=True)
    total_AN: _Floats = np.log(np.exp(logits_ANK).sum(-1))
    return total_AN - _of_chosen(logits_ANK, choice_N)


def _best_inverse_temperatures(values_ANK: _Floats, choice_N: NDArray[np.int64]) -> _Floats:
    """Where the derivative of the NLL is 0, or the end of the range that is nearest to it, [A]."""
    low_A, high_A = np.zeros(len(values_ANK)), np.full(len(values_ANK), MAX_INVERSE_TEMPERATURE)
    values_ANK = values_ANK - values_ANK.max(-1, keepdims=True)
    chosen_A = _of_chosen(values_ANK, choice_N).sum(1)
    for _ in range(_HALVINGS):
        middle_A = (low_A + high_A) / 2
        weight_ANK = np.exp(middle_A[:, None, None] * values_ANK)
        expected_A = ((weight_ANK * values_ANK).sum(-1) / weight_ANK.sum(-1)).sum(1)
        rises_A = expected_A >= chosen_A
        low_A, high_A = np.where(rises_A, low_A, middle_A), np.where(rises_A, middle_A, high_A)
    return np.where(high_A == MAX_INVERSE_TEMPERATURE, high_A, low_A)


def _of_chosen(of_arms_ANK: _Floats, choice_N: NDArray[np.int64]) -> _Floats:
    return of_arms_ANK[:, np.arange(len(choice_N)), choice_N]
