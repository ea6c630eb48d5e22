"""What can become of a response. Conditions, the cut and the scorer each decide some of it."""

from enum import StrEnum


class Status(StrEnum):
    """What became of one response. The order is the code that columns of numbers use (`Status.code`)."""

    scored = "scored"
    cut = "cut"
    """Beyond the cut."""
    empty = "empty"
    """There is nothing between its markers."""
    altered = "altered"
    """The chat template changed its text."""
    not_applicable = "not_applicable"
    """The condition has nothing to add, as persona without metadata."""

    @property
    def code(self) -> int:
        """Small integer for numpy columns."""
        return list(Status).index(self)
