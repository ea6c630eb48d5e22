"""Parts are committed in batches, again after failures, and told once they are."""

from __future__ import annotations

import pytest

from psych_ray.cluster.commits import Commits
from psych_ray.errors import ResultsError, UnreachableError
from psych_ray.results.schema import CheckpointFacts, Footer, Part, PartName, ScoringIdentity
from psych_ray.sweep.retries import UNREACHABLE_PAUSES_S
from psych_ray.sweep.unit import UnitReport
from psych_ray.tracking import events

FOOTER = Footer(
    unit="u",
    condition="plain",
    checkpoint=CheckpointFacts(slug="a", id="a", fingerprint="f"),
    scoring=ScoringIdentity(dtype="float32", cut="tokens", cut_at=None, parity=False),
    engine="transformers",
)


class Bench:
    """A table whose commits take time or fail, a clock, and a tracker."""

    def __init__(self, *, seconds: float = 0.0, failures: int = 0) -> None:
        self.now, self.seconds, self.failures = 100.0, seconds, failures
        self.committed: list[list[str]] = []
        self.told: list[object] = []
        self.commits = Commits(self, self, lambda: self.now)

    def commit(self, parts: list[Part]) -> None:
        self.now += self.seconds
        if self.failures:
            self.failures -= 1
            raise UnreachableError("the store does not answer")
        self.committed.append([part.name.unit for part in parts])

    def require_held(self) -> None:
        pass

    def handle(self, event: object) -> None:
        self.told.append(event)

    def add(self, *units: str) -> None:
        for unit in units:
            part = Part(PartName("a", "plain", unit, "0"), 1, FOOTER)
            self.commits.add(UnitReport("a", "plain", unit, tokens=1, responses=1, seconds=1.0, part=part))


def test_those_of_some_time_are_committed_together_and_the_last_at_once():
    bench = Bench()
    bench.add("1")
    bench.commits.carry_out()
    bench.add("2", "3")
    bench.commits.carry_out()
    assert bench.committed == [["1"]]
    assert bench.commits.deadline == 101.0
    bench.now = 101.0
    bench.commits.carry_out()
    assert bench.committed == [["1"], ["2", "3"]]
    bench.add("4")
    bench.commits.carry_out(last=True)
    assert bench.committed[-1] == ["4"]
    assert bench.commits.deadline is None
    assert [event.report.unit for event in bench.told] == ["1", "2", "3", "4"]


def test_slow_commits_take_a_tenth_of_the_time():
    bench = Bench(seconds=0.6)
    bench.add("1")
    bench.commits.carry_out()
    bench.add("2")
    assert bench.commits.deadline == pytest.approx(100.6 + 6.0)


def test_a_store_that_is_away_is_tried_again_after_each_pause_and_nothing_is_forgotten():
    bench = Bench(failures=3)
    bench.add("1")
    for pause in UNREACHABLE_PAUSES_S[:3]:
        bench.commits.carry_out(last=True)
        assert bench.commits.deadline == bench.now + pause
        bench.commits.carry_out(last=True)
        bench.now += pause
    bench.add("2")
    bench.commits.carry_out()
    assert bench.committed == [["1", "2"]]
    assert [type(event) for event in bench.told] == [events.Failed] * 3 + [events.UnitCommitted] * 2


def test_a_store_that_stays_away_ends_the_sweep():
    bench = Bench(failures=100)
    bench.add("1")
    for pause in UNREACHABLE_PAUSES_S:
        bench.commits.carry_out()
        bench.now += pause
    with pytest.raises(ResultsError, match=r"does not answer; given up, the same command continues"):
        bench.commits.carry_out()
