"""The pen that all simulated participants write with: text and the price of every answer grow together.

Keeping both in one place is what makes `true_nll_nats` refer to exactly the text between the markers. Knows no task.
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from psych_ray.transcripts.markers import CLOSE, OPEN

LAPSE = 0.01
"""Probability that a normative agent does anything but the right thing; keeps its likelihoods finite."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """What one simulated participant leaves behind."""

    text: str
    true_nll_nats: tuple[float, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


class Pen:
    """Writes a session: plain text by `write`, responses by `answer`."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._pieces: list[str] = []
        self._nll_nats: list[float] = []

    def write(self, text: str) -> None:
        """Add text that is not a response."""
        self._pieces.append(text)

    def answer(self, options: Sequence[str], probabilities: Sequence[float]) -> int:
        """Draw one of `options`, write it between markers, note what it cost, and return its place."""
        chosen = int(self._rng.choice(len(options), p=probabilities))
        self._pieces.append(f"{OPEN}{options[chosen]}{CLOSE}")
        self._nll_nats.append(-math.log(probabilities[chosen]))
        return chosen

    def session(self, metadata: Mapping[str, str] | None = None) -> Session:
        """All that was written."""
        return Session(text="".join(self._pieces), true_nll_nats=tuple(self._nll_nats), metadata=dict(metadata or {}))


def two_letters(rng: np.random.Generator) -> tuple[str, str]:
    """Names of two options: different capital letters, drawn anew for each participant."""
    first, second = rng.choice(list(string.ascii_uppercase), size=2, replace=False)
    return str(first), str(second)


def logit_choice(first: float, second: float, inverse_temperature: float) -> tuple[float, float]:
    """Softmax over two values (Luce choice): probabilities of the first and of the second option."""
    p_second = 1 / (1 + math.exp(inverse_temperature * (first - second)))
    return 1 - p_second, p_second


def greedy_choice(first: float, second: float) -> tuple[float, float]:
    """The better of two values but for `LAPSE`; both alike when they are equal."""
    if math.isclose(first, second):
        return 0.5, 0.5
    return (1 - LAPSE, LAPSE) if first > second else (LAPSE, 1 - LAPSE)
