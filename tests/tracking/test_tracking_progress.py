"""Counts and estimates at given times."""

from __future__ import annotations

import dataclasses

import pytest

from psych_ray.results.schema import Tally
from psych_ray.tracking.events import (
    CheckpointLoaded,
    CheckpointLoading,
    Progressed,
    ResponsesSkipped,
    UnitCommitted,
    UnitLost,
    UnitReading,
    UnitStarted,
)
from psych_ray.tracking.progress import SweepProgress
from psych_ray.tracking.remaining import seconds_left, task_seconds_left
from psych_ray.tracking.running import RunningMeans


def test_means_are_over_responses_within_a_study_and_then_over_studies() -> None:
    means = RunningMeans({})
    assert means.nll_nats is None
    assert means.top1 is None
    means.add({"long": Tally(responses=90, nll_nats=90.0, top1=90), "short": Tally(responses=1, nll_nats=3.0, top1=0)})
    means.add({"long": Tally(responses=10, nll_nats=10.0, top1=10), "none scored": Tally()})
    assert means.nll_nats == pytest.approx(2.0)
    assert means.top1 == pytest.approx(0.5)
    assert means.nll_nats_of("long") == pytest.approx(1.0)
    assert means.scored == 101


def test_means_include_earlier_sweeps(task, committed) -> None:
    resumed = dataclasses.replace(task(committed=20), tallies={"igt": Tally(responses=20, nll_nats=20.0, top1=0)})
    progress = SweepProgress([resumed])
    progress.handle(committed(responses=20, igt=Tally(responses=20, nll_nats=40.0, top1=20)), at=1.0)
    at_m = progress.tasks["m", "plain"]
    assert at_m.means.nll_nats == pytest.approx(1.5)
    assert at_m.complete


def test_time_left_comes_from_committed_parts_and_counts_down_in_between(task, committed) -> None:
    progress = SweepProgress([task(responses=40)])
    progress.handle(CheckpointLoading("m"), at=0.0)
    one = progress.tasks["m", "plain"]
    progress.handle(UnitStarted("m", "plain", "u0"), at=100.0)
    assert task_seconds_left(progress, one, at=105.0) is None
    assert seconds_left(progress, at=105.0) is None
    progress.handle(committed(responses=10, tokens=500, seconds=10.0), at=110.0)
    assert task_seconds_left(progress, one, at=110.0) == pytest.approx(30.0)
    assert task_seconds_left(progress, one, at=115.0) == pytest.approx(25.0)
    assert task_seconds_left(progress, one, at=999.0) == 0.0
    assert seconds_left(progress, at=110.0) == pytest.approx(30.0)
    assert one.pace.tokens_per_second == pytest.approx(50.0)


def test_tasks_wait_load_run_and_complete(task, committed) -> None:
    tasks = [task("a", responses=10), task("b", responses=10), task("c", responses=10, committed=10, units=0)]
    progress = SweepProgress(tasks)
    assert (progress.waiting, progress.complete) == (2, 1)
    progress.handle(CheckpointLoading("a"), at=0.0)
    assert progress.waiting == 1
    progress.handle(CheckpointLoaded("a", 2.0), at=2.0)
    progress.handle(UnitStarted("a", "plain", "u0"), at=3.0)
    assert [running.plan.checkpoint for running in progress.running] == ["a"]
    progress.handle(committed("a"), at=4.0)
    assert progress.running == []
    assert progress.complete == 2


def test_units_grow_when_they_are_split(task, committed) -> None:
    progress = SweepProgress([task(units=1, responses=40)])
    for n in range(2):
        progress.handle(committed(responses=20), at=float(n))
    split = progress.tasks["m", "plain"]
    assert (split.units_committed, split.units, split.complete) == (2, 2, True)


def test_skipped_responses_are_not_waited_for(task, committed) -> None:
    progress = SweepProgress([task("a", responses=10), task("b", responses=10)])
    progress.handle(CheckpointLoading("a"), at=0.0)
    progress.handle(ResponsesSkipped("a", "plain", 10), at=0.0)
    assert (progress.loading, progress.waiting, progress.complete) == ({}, 1, 0)
    running = progress.tasks["b", "plain"]
    progress.handle(UnitStarted("b", "plain", "u0"), at=1.0)
    progress.handle(ResponsesSkipped("b", "plain", 4), at=0.0)
    assert progress.running == [running]
    progress.handle(committed("b", responses=6), at=2.0)
    assert task_seconds_left(progress, running, at=2.0) == seconds_left(progress, at=2.0) == 0.0
    assert progress.running == []
    assert not running.complete


def test_units_in_progress_count_by_what_was_read_of_them(task, committed) -> None:
    progress = SweepProgress([task(responses=40)])
    one = progress.tasks["m", "plain"]
    progress.handle(UnitStarted("m", "plain", "u0", characters=1000, responses=10), at=0.0)
    progress.handle(Progressed((UnitReading("m", "plain", "u0", 500.0, 250.0),), ranks=1), at=4.0)
    assert (one.responses_read, one.responses_committed) == (5.0, 0)
    assert one.pace.tokens_per_second == progress.pace.tokens_per_second == pytest.approx(62.5)
    # 1/8 of 40 responses took 4 s.
    assert seconds_left(progress, at=4.0) == pytest.approx(28.0)
    assert seconds_left(progress, at=6.0) == pytest.approx(26.0)
    progress.handle(committed(responses=10, tokens=500, seconds=8.0), at=8.0)
    assert (one.responses_read, one.reading) == (10.0, {})
    assert one.pace.tokens_per_second == pytest.approx(62.5)
    progress.handle(UnitStarted("m", "plain", "u1", characters=1000, responses=10), at=8.0)
    progress.handle(Progressed((UnitReading("m", "plain", "u1", 2000.0, 250.0),), ranks=1), at=9.0)
    assert one.responses_read == 20.0
    progress.handle(UnitLost("m", "plain", "u1"), at=10.0)
    assert (one.responses_read, one.pace.tokens_reading) == (10.0, 0.0)
    progress.handle(Progressed((UnitReading("m", "plain", "u1", 500.0, 250.0),), ranks=1), at=11.0)
    assert one.responses_read == 10.0, "a heartbeat of a unit that is with nobody"


def test_a_cut_unit_ends_with_the_part_that_was_committed_of_it(task, committed) -> None:
    progress = SweepProgress([task(responses=40)])
    progress.handle(UnitStarted("m", "plain", "whole", characters=1000, responses=10), at=0.0)
    report = dataclasses.replace(committed(unit="cut", responses=6).report, given="whole")
    progress.handle(UnitCommitted(report), at=5.0)
    assert progress.tasks["m", "plain"].reading == {}
    assert progress.responses_read == 6


def test_tasks_that_were_not_measured_take_as_long_as_planned_times_what_the_others_took(task) -> None:
    plans = [
        dataclasses.replace(task(slug, responses=40), seconds=100.0, load_seconds=10.0, weights=slug)
        for slug in ("a", "b")
    ]
    progress = SweepProgress(plans)
    progress.handle(CheckpointLoading("a"), at=0.0)
    assert seconds_left(progress, at=0.0) is None
    progress.handle(CheckpointLoaded("a", 20.0), at=20.0)
    progress.handle(UnitStarted("a", "plain", "u0", characters=1000, responses=10), at=20.0)
    progress.handle(Progressed((UnitReading("a", "plain", "u0", 1000.0, 1.0),), ranks=1), at=70.0)
    # A quarter of 100 s took 50; of a 150 s are left, b takes twice 100, and 20 to load.
    assert seconds_left(progress, at=70.0) == pytest.approx(150 + 200 + 20)
    progress.handle(Progressed((), ranks=2), at=71.0)
    assert seconds_left(progress, at=71.0) == pytest.approx((150 + 200 + 20) / 2)
