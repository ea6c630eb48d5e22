"""A sure thing against a gamble that wins, or loses, more with some probability and else nothing. No feedback.

People follow prospect theory with softmax choice: Kahneman & Tversky (1979); functional forms of Tversky & Kahneman
(1992): v(x) = x^curvature for gains, -loss_aversion * (-x)^curvature for losses, weight of a probability
w(p) = p^g / (p^g + (1-p)^g)^(1/g). The normative agent maximises expected value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from psych_ray.transcripts.simulated.session import Session, SessionBuilder, greedy_choice, logit_choice

NAMES = ("S", "G")
TRIALS = 24
SURE_POINTS = 20
GAMBLE_POINTS = (30, 40, 50, 60, 70, 80, 90)
GAMBLE_PERCENTS = (10, 30, 50, 70, 90)


@dataclass(frozen=True, kw_only=True)
class Gamble:
    """`points` (a loss when negative) with a chance of `percent`, else nothing."""

    points: int
    percent: int

    def __str__(self) -> str:
        verb = "win" if self.points > 0 else "lose"
        return f"{verb} {abs(self.points)} at {self.percent}%"


Pair = tuple[Gamble, Gamble]
Chooser = Callable[[Pair], tuple[float, float]]
"""From a sure thing and a gamble to the probabilities of taking one and the other."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """A participant who follows prospect theory."""

    curvature: float
    loss_aversion: float
    probability_weighting: float
    """g of the weighting function: 1 is linear, less overweights small probabilities."""
    inverse_temperature: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Person:
        """A participant of the simulated population."""
        return cls(
            curvature=float(rng.uniform(0.5, 0.8)),
            loss_aversion=float(rng.uniform(1.0, 2.5)),
            probability_weighting=float(rng.uniform(0.5, 0.9)),
            inverse_temperature=float(rng.uniform(0.3, 0.9)),
        )

    def subjective_value(self, gamble: Gamble) -> float:
        """Weighted probability times value."""
        p, g = gamble.percent / 100, self.probability_weighting
        weight = float(p**g / (p**g + (1 - p) ** g) ** (1 / g))
        value = float(abs(gamble.points) ** self.curvature)
        return weight * (value if gamble.points > 0 else -self.loss_aversion * value)

    def __call__(self, pair: Pair) -> tuple[float, float]:
        """Softmax over subjective values."""
        return logit_choice(self.subjective_value(pair[0]), self.subjective_value(pair[1]), self.inverse_temperature)


def maximise_expected_value(pair: Pair) -> tuple[float, float]:
    """The normative agent."""
    sure, gamble = (option.points * option.percent / 100 for option in pair)
    return greedy_choice(sure, gamble)


def draw_pairs(rng: np.random.Generator) -> tuple[Pair, ...]:
    """The trials of one participant, gains and losses mixed."""
    pairs: list[Pair] = []
    for _ in range(TRIALS):
        sign = 1 if rng.random() < 0.5 else -1
        points, percent = int(rng.choice(GAMBLE_POINTS)), int(rng.choice(GAMBLE_PERCENTS))
        pairs.append((Gamble(points=sign * SURE_POINTS, percent=100), Gamble(points=sign * points, percent=percent)))
    return tuple(pairs)


def play(chooser: Chooser, pairs: Sequence[Pair], rng: np.random.Generator) -> Session:
    """One participant's session."""
    builder = SessionBuilder(rng)
    builder.write(f"You press ({NAMES[0]}) for a sure thing or ({NAMES[1]}) for a gamble.\n")
    for pair in pairs:
        builder.write(f"{pair[0]} or {pair[1]}. You press ")
        builder.answer(NAMES, chooser(pair))
        builder.write("\n")
    return builder.session()


def simulate(rng: np.random.Generator, *, normative: bool) -> Session:
    """One participant of the study."""
    pairs, person = draw_pairs(rng), Person.draw(rng)
    return play(maximise_expected_value if normative else person, pairs, rng)
