"""Builds the session of a simulated participant: the text, and the NLL of every answer.

One class makes both, so that `true_nll_nats` refers to exactly the text between the markers. Independent of tasks.
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from psych_ray.transcripts.markers import CLOSE, OPEN

LAPSE = 0.01
"""Probability that a normative agent does not give the optimal answer; above 0, so that NLLs are finite."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """Text, NLL and metadata of one simulated participant."""

    text: str
    true_nll_nats: tuple[float, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


class SessionBuilder:
    """Builds a session: `write` adds plain text, `answer` adds a response."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._pieces: list[str] = []
        self._nll_nats: list[float] = []

    def write(self, text: str) -> None:
        """Add text that is not a response."""
        self._pieces.append(text)

    def answer(self, options: Sequence[str], probabilities: Sequence[float]) -> int:
        """Draw one of `options`, add it between markers, record its NLL, and return its index."""
        chosen = int(self._rng.choice(len(options), p=probabilities))
        self._pieces.append(f"{OPEN}{options[chosen]}{CLOSE}")
        self._nll_nats.append(-math.log(probabilities[chosen]))
        return chosen

    def session(self, metadata: Mapping[str, str] | None = None) -> Session:
        """The session built so far."""
        return Session(text="".join(self._pieces), true_nll_nats=tuple(self._nll_nats), metadata=dict(metadata or {}))


def two_letters(rng: np.random.Generator) -> tuple[str, str]:
    """Names of two options: different capital letters, drawn for each participant."""
    first, second = rng.choice(list(string.ascii_uppercase), size=2, replace=False)
    return str(first), str(second)


def logit_choice(first: float, second: float, inverse_temperature: float) -> tuple[float, float]:
    """Softmax over two values (Luce choice): probabilities of the first and of the second option."""
    p_second = 1 / (1 + math.exp(inverse_temperature * (first - second)))
    return 1 - p_second, p_second


def greedy_choice(first: float, second: float) -> tuple[float, float]:
    """The higher of two values with probability 1 - `LAPSE`; 0.5 each when they are equal."""
    if math.isclose(first, second):
        return 0.5, 0.5
    return (1 - LAPSE, LAPSE) if first > second else (LAPSE, 1 - LAPSE)
