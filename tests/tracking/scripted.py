"""A sweep told to trackers by hand: its clock, its tasks and its reports."""

from __future__ import annotations

from dataclasses import dataclass

from psych_ray.results.schema import CheckpointFacts, ScoringIdentity, Tally
from psych_ray.sweep.unit import UnitReport
from psych_ray.tracking.base import SweepStart, Task

SCORING = ScoringIdentity(dtype="float32", cut="tokens", cut_at=None, parity=False)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def task(slug: str = "m", condition: str = "plain", *, units: int = 4, responses: int = 40, committed: int = 0) -> Task:
    return Task(
        checkpoint=CheckpointFacts(slug=slug, id=f"org/{slug}", fingerprint="f00", family="qwen", size_b=0.5),
        condition=condition,
        units=units,
        responses=responses,
        responses_committed=committed,
        characters=100 * (responses - committed),
    )


def start(*tasks: Task, root: str = "outputs/demo", name: str = "demo") -> SweepStart:
    return SweepStart(name=name, results_root=root, scoring=SCORING, tasks=tasks)


def report(
    slug: str = "m",
    condition: str = "plain",
    *,
    unit: str = "u0",
    responses: int = 10,
    tokens: int = 500,
    **by_study: Tally,
) -> UnitReport:
    return UnitReport(
        checkpoint=slug,
        condition=condition,
        unit=unit,
        tokens=tokens,
        responses=responses,
        seconds=1.0,
        by_study=by_study or {"igt": Tally(responses=responses, nll_nats=responses * 0.5, top1=responses // 2)},
    )
