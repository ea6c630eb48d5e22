"""Free recall: words are shown one at a time, then typed in any order until the participant types `done`.

People: primacy and recency of Murdock (1962), "The serial position effect of free recall", and forward contiguity of
Kahana (1996), "Associative retrieval processes in free recall", as weights of a Luce choice over the words of the list
not yet typed; now and then an intrusion from the rest of the vocabulary; a growing probability to stop. The normative
agent types the whole list in order. No word begins another, so the probability of a word is that of its text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from psych_ray.transcripts.simulated.session import LAPSE, Session, SessionBuilder

STOP = "done"
VOCABULARY = (
    *("anchor", "basket", "candle", "dragon", "engine", "feather", "garden", "hammer"),
    *("island", "jacket", "kettle", "ladder", "marble", "needle", "orange", "pepper"),
)
LISTS = 8
LIST_LENGTH = 5

Answers = dict[str, float]
"""Every possible next answer with its probability; they sum to 1."""
Rememberer = Callable[[Sequence[str], Sequence[str]], Answers]
"""From the list shown and what was typed so far to the next answer."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """Weights of one participant's memory."""

    primacy: float
    """Weight of the first word over a middle one; halves with each later position."""
    recency: float
    """Weight of the last word over a middle one; halves with each earlier position."""
    contiguity: float
    """Factor on the word that was shown right after the one typed last."""
    intrusion: float
    """Probability that an answer other than `done` is no word of the list."""
    capacity: float
    """Number of words typed at which stopping is as probable as going on."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Person:
        """A participant of the simulated population."""
        return cls(
            primacy=float(rng.uniform(2, 6)),
            recency=float(rng.uniform(3, 9)),
            contiguity=float(rng.uniform(4, 10)),
            intrusion=float(rng.uniform(0.01, 0.08)),
            capacity=float(rng.uniform(2, 4.5)),
        )

    def __call__(self, shown: Sequence[str], typed: Sequence[str]) -> Answers:
        """Probabilities of stopping, of an intrusion, and of recall by weight."""
        weights = {word: self._weight(index, shown, typed) for index, word in enumerate(shown) if word not in typed}
        others = [word for word in VOCABULARY if word not in shown and word not in typed]
        stop = 1 / (1 + math.exp(-2 * (len(typed) - self.capacity))) if weights else 1.0
        recall, intrude = (1 - stop) * (1 - self.intrusion), (1 - stop) * self.intrusion
        total = sum(weights.values())
        return (
            {word: recall * weight / total for word, weight in weights.items()}
            | {word: intrude / len(others) for word in others}
            | {STOP: stop}
        )

    def _weight(self, index: int, shown: Sequence[str], typed: Sequence[str]) -> float:
        weight = 1 + self.primacy * 0.5**index + self.recency * 0.5 ** (len(shown) - 1 - index)
        follows = bool(typed) and index > 0 and shown[index - 1] == typed[-1]
        return weight * self.contiguity if follows else weight


def perfect_memory(shown: Sequence[str], typed: Sequence[str]) -> Answers:
    """The normative agent: the first word of the list not yet typed, then `done`; a lapse is any other answer."""
    left = [word for word in shown if word not in typed]
    right = left[0] if left else STOP
    wrong = [word for word in (*VOCABULARY, STOP) if word not in typed and word != right]
    return {right: 1 - LAPSE} | {word: LAPSE / len(wrong) for word in wrong}


def draw_lists(rng: np.random.Generator) -> tuple[tuple[str, ...], ...]:
    """The lists of one participant."""
    return tuple(
        tuple(str(word) for word in rng.choice(VOCABULARY, size=LIST_LENGTH, replace=False)) for _ in range(LISTS)
    )


def play(rememberer: Rememberer, lists: Sequence[Sequence[str]], rng: np.random.Generator) -> Session:
    """One participant's session."""
    builder = SessionBuilder(rng)
    builder.write("You see words and then type those that you remember.\n")
    for shown in lists:
        builder.write("Words:\n" + "".join(f"{word}\n" for word in shown) + "You type")
        typed: list[str] = []
        while STOP not in typed:
            answers = rememberer(shown, typed)
            builder.write(" ")
            typed.append(list(answers)[builder.answer(list(answers), list(answers.values()))])
        builder.write("\n")
    return builder.session()


def simulate(rng: np.random.Generator, *, normative: bool) -> Session:
    """One participant of the study."""
    lists, person = draw_lists(rng), Person.draw(rng)
    return play(perfect_memory if normative else person, lists, rng)
