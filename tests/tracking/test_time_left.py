"""Time left of simulated sweeps, of which the plan was wrong by a factor for each checkpoint."""

from __future__ import annotations

import random
from statistics import median

import pytest

from psych_ray.results.schema import TranscriptRef
from psych_ray.sweep.events import Action, Event, Score, StartReplica, StopReplica
from psych_ray.sweep.plan import PlannedTranscripts, plan_task
from psych_ray.sweep.scheduler import Scheduler
from psych_ray.sweep.simulator import Disturbances, _World
from psych_ray.sweep.starts import WeightsFacts
from psych_ray.sweep.unit import Unit, UnitReport
from psych_ray.tracking import events
from psych_ray.tracking.events import TaskPlan
from psych_ray.tracking.progress import SweepProgress
from psych_ray.tracking.remaining import seconds_left

HEARTBEAT_S = 2.0


class Watched(_World):
    """A simulated cluster that tells a tracker what it does, with heartbeats, and notes what is said to be left."""

    def watch(self, plans: list[TaskPlan]) -> None:
        self.progress = SweepProgress(plans)
        self.said: dict[float, float | None] = {}
        self.heard = 0.0

    def _happened(self, event: Event) -> None:
        self._beat_until(self.now)
        super()._happened(event)

    def _beat_until(self, end: float) -> None:
        while self.heard + HEARTBEAT_S <= end:
            self.heard += HEARTBEAT_S
            read, ranks = [], 0
            for one in self.replicas.values():
                ranks += len(one.nodes)
                if one.unit is not None and one.ends > one.began:
                    share = (self.heard - one.began) / (one.ends - one.began)
                    read.append(
                        events.UnitReading(
                            one.unit.checkpoint, one.unit.condition, one.unit.id, share * one.unit.n_characters, 1.0
                        )
                    )
            self.progress.handle(events.Progressed(tuple(read), ranks), self.heard)
            self.said[self.heard] = seconds_left(self.progress, self.heard)

    def _commit(self, unit: Unit, left) -> None:
        super()._commit(unit, left)
        done = unit.only({t.id for t in unit.transcripts} - set(left)) if left else unit
        running = next(one for one in self.replicas.values() if one.unit is unit)
        if done is not None:
            report = UnitReport(*unit.task, done.id, 1, done.n_responses, self.now - running.began, given=unit.id)
            self.progress.handle(events.UnitCommitted(report), self.now)

    def _carry_out(self, actions) -> None:
        for action in list(actions):
            self._beat_until(self.now)
            self._tell(action)
            super()._carry_out([action])

    def _tell(self, action: Action) -> None:
        match action:
            case StartReplica(weights=weights):
                self.progress.handle(events.CheckpointLoading(weights), self.now)
            case Score(replica=number, unit=unit):
                running = self.replicas[number]
                if running.unit is None and running.doing == "loading":
                    took = self.now - running.since
                    self.progress.handle(events.CheckpointLoaded(running.weights, took), self.now)
                self.progress.handle(
                    events.UnitStarted(*unit.task, unit.id, unit.n_characters, unit.n_responses), self.now
                )
            case StopReplica(replica=number):
                unit = self.replicas[number].unit
                if unit is not None:
                    self.progress.handle(events.UnitLost(*unit.task, unit.id), self.now)


def errors(seed: int, *, n_weights: int, slots: int, minutes: float, wrong: float) -> tuple[float, list[float]]:
    """Seconds that a random sweep takes, and the relative errors of the time left, every ten seconds from 60 s on.

    `minutes`: of one replica for the largest checkpoint; `wrong`: the standard deviation of the logarithm of the factor
    by which the plan of a checkpoint is wrong.
    """
    rng = random.Random(seed)
    facts, units, plans = {}, [], []
    for k in range(n_weights):
        weights, seconds = f"w{k}", 60 * minutes * rng.choice([0.05, 0.2, 0.5, 1.0])
        facts[weights] = WeightsFacts(1, False, rng.choice([10.0, 20.0, 40.0]))
        factor = rng.lognormvariate(0.0, wrong)
        for condition in ("plain", "chat"):
            lengths = [int(rng.lognormvariate(8.6, 1.0)) + 50 for _ in range(200)]
            refs = [TranscriptRef(f"{condition}-{i}", "study", "f", i, n, 1 + n // 100) for i, n in enumerate(lengths)]
            task = plan_task(
                checkpoint=weights,
                condition=condition,
                transcripts=PlannedTranscripts.of(refs),
                unit_seconds=60.0 * factor,
                characters_per_s=sum(lengths) / seconds,
            )
            units += task.missing
            plans.append(
                TaskPlan(
                    checkpoint=weights,
                    condition=condition,
                    units=len(task.missing),
                    responses=task.n_responses,
                    responses_committed=0,
                    characters=task.n_characters_missing,
                    seconds=task.seconds_missing * factor,
                    load_seconds=20.0,
                )
            )
    scheduler = Scheduler.plan(units, attempts=2, facts=facts)
    world = Watched(scheduler, facts, Disturbances(noise=0.2, unit_overhead_s=0.5), {}, rng)
    world.watch(plans)
    world.run({"n": slots}, events_at_most=100_000)
    end = world.now
    assert seconds_left(world.progress, end) == 0.0
    found = []
    for at, said in world.said.items():
        if at >= 60 and at % 10 == 0 and end - at > 10:
            assert said is not None
            found.append(abs(said - (end - at)) / (end - at))
    return end, found


@pytest.mark.parametrize(
    ("n_weights", "slots", "minutes"), [(1, 1, 10.0), (3, 2, 10.0), (6, 4, 20.0)], ids=["1 on 1", "3 on 2", "6 on 4"]
)
def test_time_left_is_right_within_a_fifth_after_a_minute(n_weights: int, slots: int, minutes: float) -> None:
    at_a_minute, later = [], []
    for seed in range(5):
        _, found = errors(seed, n_weights=n_weights, slots=slots, minutes=minutes, wrong=0.3)
        at_a_minute.append(found[0])
        later += found
    assert median(at_a_minute) < 0.2
    assert max(at_a_minute) < 0.3
    assert sum(error < 0.2 for error in later) > 0.7 * len(later)
