"""Two slot machines that pay 0 or 1 point, played over and over.

People are Q-learners with softmax choice: Rescorla & Wagner (1972), "A theory of Pavlovian conditioning"; Sutton &
Barto, "Reinforcement learning", chapter 2. After reward r from machine a: Q[a] += learning_rate * (r - Q[a]), and
P(a) is proportional to exp(inverse_temperature * Q[a]); both Q start at 0.5. The normative agent takes the machine
with the higher posterior mean (uniform prior on each payout rate).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from psych_ray.transcripts.simulated.session import Session, SessionBuilder, greedy_choice, logit_choice, two_letters


class Player(Protocol):
    """Learns from payouts and predicts the probability of each machine."""

    def probabilities(self) -> tuple[float, float]:
        """Probability of pressing the first machine and the second."""

    def learn(self, machine: int, points: int) -> None:
        """Update with the payout of a machine."""


class QLearner:
    """A person."""

    def __init__(self, *, learning_rate: float, inverse_temperature: float) -> None:
        self.learning_rate = learning_rate
        self.inverse_temperature = inverse_temperature
        self._values = [0.5, 0.5]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> QLearner:
        """A participant of the simulated population."""
        return cls(learning_rate=float(rng.beta(6, 3)), inverse_temperature=float(rng.gamma(10, 0.3)))

    def probabilities(self) -> tuple[float, float]:
        """Softmax over the two values."""
        return logit_choice(self._values[0], self._values[1], self.inverse_temperature)

    def learn(self, machine: int, points: int) -> None:
        """Rescorla-Wagner."""
        self._values[machine] += self.learning_rate * (points - self._values[machine])


class BayesianPlayer:
    """The normative agent: greedy on Beta(1, 1) posterior means."""

    def __init__(self) -> None:
        self._paid, self._pressed = [1, 1], [2, 2]

    def probabilities(self) -> tuple[float, float]:
        """Greedy on posterior means, with a lapse rate."""
        first, second = (paid / pressed for paid, pressed in zip(self._paid, self._pressed, strict=True))
        return greedy_choice(first, second)

    def learn(self, machine: int, points: int) -> None:
        """Count."""
        self._paid[machine] += points
        self._pressed[machine] += 1


@dataclass(frozen=True, kw_only=True)
class Casino:
    """Parameters of one participant's machines: payout rates, and the number of trials."""

    names: tuple[str, str]
    pays: tuple[float, float]
    trials: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Casino:
        """One machine is clearly better."""
        good, bad = float(rng.uniform(0.55, 0.9)), float(rng.uniform(0.1, 0.45))
        pays = (good, bad) if rng.random() < 0.5 else (bad, good)
        return cls(names=two_letters(rng), pays=pays, trials=int(rng.integers(40, 46)))


def play(player: Player, casino: Casino, rng: np.random.Generator) -> Session:
    """One participant's session in one casino."""
    builder = SessionBuilder(rng)
    builder.write(f"You play two slot machines, ({casino.names[0]}) and ({casino.names[1]}).\n")
    for _ in range(casino.trials):
        builder.write("You press ")
        machine = builder.answer(casino.names, player.probabilities())
        points = int(rng.random() < casino.pays[machine])
        builder.write(f" and get {points} point{'' if points == 1 else 's'}.\n")
        player.learn(machine, points)
    return builder.session()


def simulate(rng: np.random.Generator, *, normative: bool) -> Session:
    """One participant of the study."""
    casino, person = Casino.draw(rng), QLearner.draw(rng)
    return play(BayesianPlayer() if normative else person, casino, rng)
