"""What can become of a response. Conditions, the cut and the scorer each decide some of it."""

from enum import StrEnum


class Status(StrEnum):
    """What became of one response."""

    scored = "scored"
    cut = "cut"
    """Beyond the cut, or in the very first token, which nothing predicts."""
    empty = "empty"
    """There is nothing between its markers, or no token that is its own."""
    altered = "altered"
    """The chat template changed its text."""
    not_applicable = "not_applicable"
    """The condition does not score it: persona without metadata, discrete beyond single letters, chat without a
    chat template; in parity also what the authors' search among tokens loses."""

    @property
    def code(self) -> int:
        """Place in the order above, for columns of small integers."""
        return list(Status).index(self)
