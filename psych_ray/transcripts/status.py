"""The status of a response. Set by conditions, by truncation and by the alignment with tokens."""

from enum import StrEnum


class Status(StrEnum):
    """Whether a response is scored, or why not."""

    scored = "scored"
    cut = "cut"
    """Beyond the truncated text, or in the first token, which nothing predicts."""
    empty = "empty"
    """There is no text between its markers, or no token that belongs to it alone."""
    altered = "altered"
    """The chat template changed its text."""
    not_applicable = "not_applicable"
    """The condition does not score it: persona without metadata, discrete beyond single letters, chat without a
    chat template. Or a reference does not predict it. In parity also responses that the authors' search among tokens
    does not find."""

    @property
    def code(self) -> int:
        """Index in the order above, for columns of small integers."""
        return list(Status).index(self)
