"""Running means of a sweep in progress, defined once for the terminal and Weights & Biases.

They serve to watch a sweep. What a study reports is computed from the committed parts, in `psych_ray.study`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from psych_ray.results.schema import Tally

Tallies = Mapping[str, Tally]
"""Scored responses and their sums, by study."""


class RunningMeans:
    """Means over the scored responses of a task so far.

    Each is a mean over the responses of a study, then over the studies that have any: a study with many responses has
    the same weight as one with few. NLL is in nats per response, summed over its tokens; top1 is the fraction of
    responses of which every token is the most probable one. None while nothing is scored.
    """

    def __init__(self, tallies: Tallies) -> None:
        self.tallies: dict[str, Tally] = dict(tallies)
        """By study."""

    def add(self, tallies: Tallies) -> None:
        """Include the scored responses of one more part."""
        for study, new in tallies.items():
            old = self.tallies.get(study, Tally())
            self.tallies[study] = Tally(
                responses=old.responses + new.responses, nll_nats=old.nll_nats + new.nll_nats, top1=old.top1 + new.top1
            )

    @property
    def scored(self) -> int:
        """Scored responses, over all studies."""
        return sum(tally.responses for tally in self.tallies.values())

    @property
    def nll_nats(self) -> float | None:
        """Mean NLL, nats per response."""
        return _mean(self.nll_nats_of(study) for study in self.tallies)

    @property
    def top1(self) -> float | None:
        """Mean of top1, between 0 and 1."""
        return _mean(tally.top1 / tally.responses if tally.responses else None for tally in self.tallies.values())

    def nll_nats_of(self, study: str) -> float | None:
        """Mean NLL of one study, nats per response."""
        tally = self.tallies[study]
        return tally.nll_nats / tally.responses if tally.responses else None


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None
