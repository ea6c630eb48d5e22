"""The running means of a sweep in progress, defined once for the terminal and Weights & Biases.

They are there to watch a sweep by. What a study reports is computed from the committed parts, elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from psych_ray.results.schema import Tally


class RunningMeans:
    """Means over the scored responses of a task so far.

    Each is a mean over the responses within a study, then over the studies that have any: a study with many
    responses weighs no more than one with few. NLL is in nats per response, summed over its tokens; top1 is the share
    of responses whose every token is the checkpoint's first choice. None while nothing is scored.
    """

    def __init__(self, by_study: Mapping[str, Tally] | None = None) -> None:
        self.by_study: dict[str, Tally] = {}
        self.add(by_study or {})

    def add(self, by_study: Mapping[str, Tally]) -> None:
        """Count the scored responses of one more part."""
        for study, new in by_study.items():
            old = self.by_study.get(study, Tally())
            self.by_study[study] = Tally(
                responses=old.responses + new.responses, nll_nats=old.nll_nats + new.nll_nats, top1=old.top1 + new.top1
            )

    @property
    def scored(self) -> int:
        """Scored responses, over all studies."""
        return sum(tally.responses for tally in self.by_study.values())

    @property
    def nll_nats(self) -> float | None:
        """Mean NLL, nats per response."""
        return _mean(self.nll_nats_of(study) for study in self.by_study)

    @property
    def top1(self) -> float | None:
        """Mean top1 rate, between 0 and 1."""
        return _mean(tally.top1 / tally.responses if tally.responses else None for tally in self.by_study.values())

    def nll_nats_of(self, study: str) -> float | None:
        """Mean NLL of one study, nats per response."""
        tally = self.by_study[study]
        return tally.nll_nats / tally.responses if tally.responses else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
