"""Money now or more money later; patience increases with the participant's age, which is in the metadata.

People discount hyperbolically with softmax choice: Mazur (1987), "An adjusting procedure for studying delayed
reinforcement": V = amount / (1 + rate * days). The rate is log-normal around a mean that falls with age (direction as
in Green, Fry & Myerson, 1994; the size is ours), so the age improves predictions. The normative agent
discounts by one low rate for everybody.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from psych_ray.transcripts.simulated.session import Session, SessionBuilder, greedy_choice, logit_choice

NAMES = ("N", "L")
TRIALS = 24
NOW_DOLLARS = 20
LATER_DOLLARS = (30, 40, 50, 60, 70, 80, 90)
DELAYS_DAYS = (7, 14, 30, 60, 90, 180)
NORMATIVE_RATE_PER_DAY = 0.001


@dataclass(frozen=True, kw_only=True)
class Offer:
    """`NOW_DOLLARS` now, or more of them after a delay."""

    later: int
    days: int


Chooser = Callable[[Offer], tuple[float, float]]
"""From an offer to the probabilities of taking the money now and later."""


def present_value(amount: float, days: float, rate_per_day: float) -> float:
    """Present value of `amount` after `days`."""
    return amount / (1 + rate_per_day * days)


@dataclass(frozen=True, kw_only=True)
class Person:
    """A hyperbolic discounter."""

    age: int
    rate_per_day: float
    inverse_temperature: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Person:
        """A participant of the simulated population."""
        age = int(rng.integers(18, 81))
        log_rate = math.log(0.025) - 0.03 * (age - 49) + float(rng.normal(0, 0.4))
        return cls(age=age, rate_per_day=math.exp(log_rate), inverse_temperature=float(rng.uniform(0.1, 0.25)))

    def __call__(self, offer: Offer) -> tuple[float, float]:
        """Softmax over present values."""
        later = present_value(offer.later, offer.days, self.rate_per_day)
        return logit_choice(NOW_DOLLARS, later, self.inverse_temperature)


def discount_little(offer: Offer) -> tuple[float, float]:
    """The normative agent."""
    return greedy_choice(NOW_DOLLARS, present_value(offer.later, offer.days, NORMATIVE_RATE_PER_DAY))


def draw_offers(rng: np.random.Generator) -> tuple[Offer, ...]:
    """The trials of one participant."""
    return tuple(Offer(later=int(rng.choice(LATER_DOLLARS)), days=int(rng.choice(DELAYS_DAYS))) for _ in range(TRIALS))


def play(chooser: Chooser, offers: Sequence[Offer], age: int, rng: np.random.Generator) -> Session:
    """One participant's session."""
    builder = SessionBuilder(rng)
    builder.write(f"You press ({NAMES[0]}) for money now or ({NAMES[1]}) for money later.\n")
    for offer in offers:
        builder.write(f"{NOW_DOLLARS} dollars now or {offer.later} dollars in {offer.days} days. You press ")
        builder.answer(NAMES, chooser(offer))
        builder.write("\n")
    return builder.session({"age": f"{age:.1f}"})


def simulate(rng: np.random.Generator, *, normative: bool) -> Session:
    """One participant of the study."""
    offers, person = draw_offers(rng), Person.draw(rng)
    return play(discount_little if normative else person, offers, person.age, rng)
