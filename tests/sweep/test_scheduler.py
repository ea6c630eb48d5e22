"""The scheduler's promises, over thousands of random histories: whatever happens, every unit is done or set aside."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from psych_ray.results.schema import TranscriptRef
from psych_ray.sweep.scheduler import (
    HOPELESS,
    LoadFailed,
    ReplicaDied,
    ReplicaReady,
    Scheduler,
    Score,
    SetAside,
    StartReplica,
    StopReplica,
    UnitDone,
    UnitFailed,
)
from psych_ray.sweep.unit import Unit


def transcripts(n: int, prefix: str = "t") -> tuple[TranscriptRef, ...]:
    return tuple(TranscriptRef(f"{prefix}{k}", "study", "sources/a.parquet", k, 100, 5) for k in range(n))


def units(checkpoint: str, n: int, size: int = 3) -> list[Unit]:
    return [Unit(checkpoint, "plain", transcripts(size, f"{checkpoint}-{k}-")) for k in range(n)]


def plan(
    all_units: list[Unit],
    *,
    slots: int = 2,
    attempts: int = 2,
    cost: dict[str, float] | None = None,
    ranks: dict[str, int] | None = None,
) -> Scheduler:
    return Scheduler.plan(all_units, slots=slots, attempts=attempts, cost=cost or {}, ranks=ranks)


class World:
    """Replicas that do what a seeded generator says; checks every promise at every step."""

    def __init__(
        self,
        scheduler: Scheduler,
        rng: random.Random,
        *,
        guilty: frozenset[str],
        trouble: float,
        ranks: dict[str, int] | None = None,
    ) -> None:
        self.ranks = ranks or {}
        self.scheduler, self.rng, self.guilty, self.trouble = scheduler, rng, guilty, trouble
        self.loading: set[int] = set()
        self.busy: dict[int, Unit] = {}
        self.checkpoint_of: dict[int, str] = {}
        self.done: Counter[str] = Counter()
        self.aside: dict[str, str] = {}
        self.events = 0

    def run(self) -> None:
        self.apply(self.scheduler.begin())
        while not self.scheduler.finished:
            assert self.loading or self.busy, "deadlock: nothing runs and nothing is finished"
            self.events += 1
            assert self.events < 20_000, "retries without bound"
            self.apply(self.scheduler.handle(self.step()))
        assert not self.loading
        assert not self.busy

    def step(self):
        replica = self.rng.choice(sorted(self.loading | set(self.busy)))
        if replica in self.loading:
            self.loading.remove(replica)
            if self.rng.random() < self.trouble:
                return self.rng.choice([LoadFailed(replica, "load"), ReplicaDied(replica, "died loading")])
            return ReplicaReady(replica)
        unit = self.busy.pop(replica)
        if self.guilty & {t.id for t in unit.transcripts}:
            return self.rng.choice([UnitFailed(replica, "guilty"), ReplicaDied(replica, "guilty")])
        if self.rng.random() < self.trouble:
            return self.rng.choice([UnitFailed(replica, "bad luck"), ReplicaDied(replica, "bad luck")])
        self.done.update(t.id for t in unit.transcripts)
        return UnitDone(replica)

    def apply(self, actions) -> None:
        for action in actions:
            match action:
                case StartReplica(replica=replica, weights=checkpoint):
                    assert replica not in self.checkpoint_of, "a number was used twice"
                    self.checkpoint_of[replica] = checkpoint
                    self.loading.add(replica)
                    live = [self.checkpoint_of[r] for r in self.loading | set(self.busy)]
                    assert sum(self.ranks.get(checkpoint, 1) for checkpoint in live) <= self.scheduler.slots
                case Score(replica=replica, unit=unit):
                    assert replica not in self.busy
                    assert unit not in self.busy.values(), "a unit with two replicas"
                    assert unit.checkpoint == self.checkpoint_of[replica]
                    self.busy[replica] = unit
                case StopReplica(replica=replica):
                    assert replica not in self.busy
                case SetAside(unit=unit, reason=reason):
                    self.aside.update({t.id: reason for t in unit.transcripts})


@pytest.mark.parametrize("trouble", [0.0, 0.05, 0.5, 0.9])
def test_every_transcript_is_done_once_or_set_aside_with_a_reason(trouble):
    for seed in range(300):
        rng = random.Random(f"{trouble}-{seed}")
        work = [u for c in range(rng.randint(1, 5)) for u in units(f"c{c}", rng.randint(1, 8), rng.randint(1, 9))]
        ids = {t.id for u in work for t in u.transcripts}
        guilty = frozenset(i for i in ids if rng.random() < 0.02)
        ranks = {f"c{c}": rng.choice([1, 1, 2, 4]) for c in range(5)}
        slots = max(*ranks.values(), rng.randint(1, 6))
        scheduler = plan(work, slots=slots, attempts=rng.randint(1, 3), ranks=ranks)
        world = World(scheduler, rng, guilty=guilty, trouble=trouble, ranks=ranks)
        world.run()
        assert set(world.done.values()) <= {1}
        assert world.done.keys() | world.aside.keys() == ids
        assert not world.done.keys() & world.aside.keys()
        assert guilty <= world.aside.keys()
        assert all(world.aside.values())


def test_one_guilty_transcript_stands_alone_in_the_end():
    world = World(plan(units("a", 4, 8)), random.Random(1), guilty=frozenset({"a-2-5"}), trouble=0.0)
    world.run()
    assert world.aside == {"a-2-5": "guilty"}
    assert len(world.done) == 31


def test_a_final_load_failure_is_not_tried_again():
    scheduler = plan(units("a", 2))
    (start,) = scheduler.begin()
    actions = scheduler.handle(LoadFailed(start.replica, "no such file", final=True))
    assert [type(a) for a in actions] == [SetAside, SetAside]
    assert {a.reason for a in actions} == {"no such file"}
    assert scheduler.finished


def test_a_checkpoint_that_never_finishes_a_unit_is_given_up():
    scheduler = plan(units("a", 50), attempts=2)
    actions, deaths = scheduler.begin(), 0
    while not scheduler.finished:
        for action in actions:
            if isinstance(action, StartReplica):
                actions = scheduler.handle(ReplicaReady(action.replica))
                (score,) = actions
                deaths += 1
                actions = scheduler.handle(ReplicaDied(score.replica, "out of memory"))
                break
    assert deaths == HOPELESS * 2
    assert sum(isinstance(a, SetAside) for a in actions) >= 40


def test_large_gangs_come_first_and_are_not_overtaken():
    work = units("small", 1) + units("half", 1) + units("whole", 1) + units("other-half", 1)
    ranks = {"half": 2, "other-half": 2, "whole": 4}
    scheduler = plan(work, slots=5, cost={"small": 9.0}, ranks=ranks)
    (whole,) = scheduler.begin()
    assert whole.weights == "whole", "one slot is left, but the halves wait before the small one"
    scheduler.handle(ReplicaReady(whole.replica))
    stop, *next_ones = scheduler.handle(UnitDone(whole.replica))
    assert isinstance(stop, StopReplica)
    assert [start.weights for start in next_ones] == ["half", "other-half", "small"]


def test_the_most_expensive_checkpoint_goes_first_and_slots_are_kept():
    scheduler = plan(units("small", 1) + units("large", 1) + units("middle", 1), cost={"large": 9.0, "middle": 5.0})
    assert [a.weights for a in scheduler.begin()] == ["large", "middle"]


def test_a_late_word_from_a_replica_that_is_gone_is_passed_over():
    scheduler = plan(units("a", 1))
    (start,) = scheduler.begin()
    scheduler.handle(ReplicaDied(start.replica, "gone"))
    assert scheduler.handle(ReplicaReady(start.replica)) == []
    assert scheduler.handle(UnitDone(start.replica)) == []


def test_a_transcript_known_to_be_at_fault_is_set_aside_at_once_and_the_rest_goes_on():
    scheduler = plan(units("a", 1, 5))
    (start,) = scheduler.begin()
    (score,) = scheduler.handle(ReplicaReady(start.replica))
    aside, again = scheduler.handle(UnitFailed(start.replica, "refused", guilty=frozenset({"a-0-2"})))
    assert [t.id for t in aside.unit.transcripts] == ["a-0-2"]
    assert [t.id for t in again.unit.transcripts] == ["a-0-0", "a-0-1", "a-0-3", "a-0-4"]
    assert scheduler.handle(UnitDone(start.replica)) == [StopReplica(start.replica)]
    assert scheduler.finished
    assert score.unit != again.unit


def test_a_condition_that_cannot_be_scored_takes_no_other_condition_with_it():
    chat = [Unit("a", "chat", u.transcripts) for u in units("a", 3)]
    scheduler = plan([*chat, *units("a", 3)])
    (start,) = scheduler.begin()
    scheduler.handle(ReplicaReady(start.replica))
    actions = scheduler.handle(UnitFailed(start.replica, "no template", final=True))
    assert [a.unit.condition for a in actions if isinstance(a, SetAside)] == ["chat"] * 3
    assert isinstance(actions[-1], Score)
    assert actions[-1].unit.condition == "plain"


def test_adapters_go_to_the_replica_that_holds_their_base():
    work = [*units("base", 1), *units("adapter", 1), *units("other", 1)]
    scheduler = Scheduler.plan(work, slots=2, attempts=1, cost={"base": 2.0}, weights_of={"adapter": "base"})
    assert [a.weights for a in scheduler.begin()] == ["base", "other"]
    (first,) = scheduler.handle(ReplicaReady(1))
    (second,) = scheduler.handle(UnitDone(1))
    assert [first.unit.checkpoint, second.unit.checkpoint] == ["base", "adapter"]
    assert scheduler.handle(UnitDone(1)) == [StopReplica(1)]
