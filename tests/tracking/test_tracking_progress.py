"""Counting and estimating, with times given."""

from __future__ import annotations

import dataclasses

import pytest
from scripted import report, task

from psych_ray.results.schema import Tally
from psych_ray.tracking.progress import SweepProgress
from psych_ray.tracking.running import RunningMeans


def test_means_are_over_responses_within_a_study_and_then_over_studies() -> None:
    means = RunningMeans()
    assert means.nll_nats is None
    assert means.top1 is None
    means.add({"long": Tally(responses=90, nll_nats=90.0, top1=90), "short": Tally(responses=1, nll_nats=3.0, top1=0)})
    means.add({"long": Tally(responses=10, nll_nats=10.0, top1=10), "none scored": Tally()})
    assert means.nll_nats == pytest.approx(2.0)
    assert means.top1 == pytest.approx(0.5)
    assert means.nll_nats_of("long") == pytest.approx(1.0)
    assert means.scored == 101


def test_means_go_on_from_what_earlier_runs_scored() -> None:
    resumed = dataclasses.replace(
        task(committed=20), scored_by_study={"igt": Tally(responses=20, nll_nats=20.0, top1=0)}
    )
    progress = SweepProgress([resumed])
    at_m = progress.advance(report(responses=20, igt=Tally(responses=20, nll_nats=40.0, top1=20)), at=1.0)
    assert at_m.means.nll_nats == pytest.approx(1.5)
    assert at_m.complete


def test_time_left_comes_from_committed_parts_and_counts_down_in_between() -> None:
    progress = SweepProgress([task(responses=40)])
    progress.load("m", at=0.0)
    one = progress.begin(("m", "plain"), at=100.0)
    assert one.seconds_left(at=105.0) is None
    progress.advance(report(responses=10, tokens=500), at=110.0)
    assert one.seconds_left(at=110.0) == pytest.approx(30.0)
    assert one.seconds_left(at=115.0) == pytest.approx(25.0)
    assert one.seconds_left(at=999.0) == 0.0
    assert progress.seconds_left(at=110.0) == pytest.approx(30.0)
    assert one.pace.tokens_per_second == pytest.approx(50.0)


def test_tasks_wait_load_run_and_complete() -> None:
    tasks = [task("a", responses=10), task("b", responses=10), task("c", responses=10, committed=10, units=0)]
    progress = SweepProgress(tasks)
    assert (progress.waiting, progress.complete) == (2, 1)
    progress.load("a", at=0.0)
    assert progress.waiting == 1
    progress.ready("a", seconds=2.0)
    progress.begin(("a", "plain"), at=3.0)
    assert [running.task.checkpoint.slug for running in progress.running] == ["a"]
    progress.advance(report("a"), at=4.0)
    assert progress.running == []
    assert progress.complete == 2


def test_units_grow_when_they_are_split() -> None:
    progress = SweepProgress([task(units=1, responses=40)])
    for n in range(2):
        split = progress.advance(report(responses=20), at=float(n))
    assert (split.units_done, split.units, split.complete) == (2, 2, True)


def test_what_is_set_aside_is_not_waited_for() -> None:
    progress = SweepProgress([task("a", responses=10), task("b", responses=10)])
    progress.load("a", at=0.0)
    progress.set_aside(("a", "plain"), 10)
    assert (progress.loading, progress.waiting, progress.complete) == ({}, 1, 0)
    running = progress.begin(("b", "plain"), at=1.0)
    progress.set_aside(("b", "plain"), 4)
    assert progress.running == [running]
    progress.advance(report("b", responses=6), at=2.0)
    assert running.seconds_left(at=2.0) == 0.0
    assert progress.running == []
    assert not running.complete
