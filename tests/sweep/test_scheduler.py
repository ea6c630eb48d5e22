"""The scheduler's guarantees, over thousands of random histories: whatever happens, every unit is done or skipped."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from psych_ray.config import ClusterConfig
from psych_ray.errors import FailureKind
from psych_ray.results.schema import TranscriptRef
from psych_ray.sweep.events import (
    Interrupted,
    RankDied,
    RankDone,
    RankFailed,
    RankProgress,
    ReplicaWaits,
    Score,
    Skip,
    StartReplica,
    StopReplica,
    StopSweep,
    Tick,
    Warn,
)
from psych_ray.sweep.failure import Failure
from psych_ray.sweep.retries import HOPELESS, UNREACHABLE_PAUSES_S
from psych_ray.sweep.scheduler import ASK_AGAIN_S, RANK_TIMEOUT_S, Scheduler
from psych_ray.sweep.stalls import STALL_FACTOR, Deadlines
from psych_ray.sweep.starts import WeightsFacts
from psych_ray.sweep.unit import Unit

TRANSIENT = [FailureKind.unknown, FailureKind.lost, FailureKind.out_of_memory, FailureKind.preempted]
KINDS = [*TRANSIENT * 5, FailureKind.unreachable, FailureKind.task, FailureKind.checkpoint]
"""Drawn at random; the last ones seldom, as they end a lot."""


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
    sharded: tuple[str, ...] = (),
    weights_of: dict[str, str] | None = None,
) -> Scheduler:
    """One node; `cost`: seconds of a unit by checkpoint. Loading is so slow that no second replica pays."""
    checkpoints = {unit.checkpoint for unit in all_units}
    facts = {name: WeightsFacts(n := (ranks or {}).get(name, 1), n > 1 or name in sharded, 1e9) for name in checkpoints}
    costed = [replace(unit, seconds=(cost or {}).get(unit.checkpoint, unit.seconds)) for unit in all_units]
    return Scheduler.plan(costed, attempts=attempts, nodes={"n": slots}, facts=facts, weights_of=weights_of)


def decisions(actions) -> list:
    """Actions without the lines for the user."""
    return [action for action in actions if not isinstance(action, Warn)]


class World:
    """Replicas whose ranks do what a seeded generator draws; checks every guarantee at every step."""

    def __init__(
        self,
        scheduler: Scheduler,
        rng: random.Random,
        *,
        bad: frozenset[str] = frozenset(),
        stuck: frozenset[str] = frozenset(),
        trouble: float = 0.0,
        ranks: dict[str, int] | None = None,
        slots: int = 2,
        interrupted_after: int | None = None,
    ) -> None:
        self.interrupted_after = interrupted_after
        self.slots = slots
        self.scheduler, self.rng, self.bad, self.trouble = scheduler, rng, bad, trouble
        self.stuck = stuck
        """Transcripts at which every replica stands still."""
        self.ranks = ranks or {}
        self.still: set[int] = set()
        """Replicas that report nothing and answer with the same work, or not at all."""
        self.pending: list = []
        self.now = 0.0
        self.busy: dict[int, tuple[Unit | None, set[int]]] = {}
        """What each replica was asked to do (None: load), and the ranks that have not reported."""
        self.alive: dict[int, str] = {}
        self.started: set[int] = set()
        self.done: Counter[str] = Counter()
        self.skipped: dict[str, str] = {}
        self.events = 0
        self.is_interrupted = False

    def run(self) -> None:
        self.apply(self.scheduler.begin())
        while not self.scheduler.finished:
            self.events += 1
            assert self.events < 50_000, "retries without bound"
            if self.events == self.interrupted_after:
                self.interrupt()
                continue
            self.apply(self.scheduler.handle(self.step(), self.now))
        assert not self.alive

    def interrupt(self) -> None:
        in_flight = {replica for replica, (unit, ranks) in self.busy.items() if unit is not None and 0 in ranks}
        n_started = len(self.started)
        self.apply(self.scheduler.handle(Interrupted(), self.now))
        assert in_flight <= self.alive.keys(), "a unit in flight was given up"
        assert len(self.started) == n_started
        self.is_interrupted = True

    def step(self):
        if self.pending:
            return self.pending.pop(0)
        deadline = self.scheduler.deadline
        silent = not self.busy or self.rng.random() < 0.05
        if silent and deadline is not None:
            self.now = max(self.now, deadline)
            self.pending = [*self.progress(), Tick()]
            return self.pending.pop(0)
        assert self.busy, f"deadlock: nothing runs and nothing is finished: {self.alive}"
        self.now += self.rng.random()
        replica = self.rng.choice(sorted(self.busy))
        unit, waiting_for = self.busy[replica]
        stuck = unit is not None and self.stuck & {t.id for t in unit.transcripts}
        if stuck or self.rng.random() < self.trouble / 4:
            del self.busy[replica]  # its ranks, or those that have not, never report
            self.still.add(replica)
            return Tick()
        rank = self.rng.choice(sorted(waiting_for))
        waiting_for.remove(rank)
        if not waiting_for:
            del self.busy[replica]
        if unit is not None and (at_fault := self.bad & {t.id for t in unit.transcripts}):
            named = self.rng.choice([None, min(at_fault)])
            return RankFailed(replica, Failure(FailureKind.transcript, "bad", named), rank)
        if self.rng.random() < self.trouble:
            kind = self.rng.choice(KINDS)
            died = kind in TRANSIENT and self.rng.random() < 0.5
            return (RankDied if died else RankFailed)(replica, Failure(kind, "trouble"), rank)
        if rank == 0 and unit is not None:
            self.done.update(t.id for t in unit.transcripts)
        return RankDone(replica, rank)

    def progress(self) -> list[RankProgress]:
        """All that work show it; of those that stand still some still answer, the same every time."""
        working = [RankProgress(replica, rank, self.events) for replica in self.busy for rank in self.busy[replica][1]]
        answering = sorted(replica for replica in self.still if replica % 2)
        return working + [RankProgress(replica, 0, -1) for replica in answering]

    def apply(self, actions) -> None:
        for action in actions:
            assert not (self.is_interrupted and isinstance(action, Score | StartReplica))
            match action:
                case StartReplica(replica=replica, weights=weights):
                    assert replica not in self.started, "a number was used twice"
                    self.started.add(replica)
                    self.alive[replica] = weights
                    assert sum(self.ranks.get(w, 1) for w in self.alive.values()) <= self.slots
                    self.busy[replica] = (None, set(range(self.ranks.get(weights, 1))))
                case Score(replica=replica, unit=unit):
                    assert replica not in self.busy
                    held = {t.id for other, _ in self.busy.values() if other for t in other.transcripts}
                    assert not held & {t.id for t in unit.transcripts}, "a transcript with two replicas"
                    assert not self.done.keys() & {t.id for t in unit.transcripts}, "a committed transcript again"
                    assert unit.checkpoint == self.alive[replica]
                    self.busy[replica] = (unit, set(range(self.ranks.get(unit.checkpoint, 1))))
                case StopReplica(replica=replica):
                    del self.alive[replica]
                    self.busy.pop(replica, None)
                    self.still.discard(replica)
                case Skip(unit=unit, reason=reason):
                    self.skipped.update({t.id: reason for t in unit.transcripts})


@pytest.mark.parametrize("trouble", [0.0, 0.05, 0.3, 0.7])
def test_every_transcript_is_done_once_or_skipped_with_a_reason(trouble):
    for seed in range(300):
        rng = random.Random(f"{trouble}-{seed}")
        work = [u for c in range(rng.randint(1, 5)) for u in units(f"c{c}", rng.randint(1, 8), rng.randint(1, 9))]
        ids = {t.id for u in work for t in u.transcripts}
        bad = frozenset(i for i in ids if rng.random() < 0.02)
        stuck = frozenset(i for i in ids if rng.random() < 0.01) - bad
        ranks = {f"c{c}": rng.choice([1, 1, 2, 4]) for c in range(5)}
        slots = max(*ranks.values(), rng.randint(1, 6))
        scheduler = plan(work, slots=slots, attempts=rng.randint(1, 3), ranks=ranks)
        world = World(scheduler, rng, bad=bad, stuck=stuck, trouble=trouble, ranks=ranks, slots=slots)
        world.run()
        assert set(world.done.values()) <= {1}
        assert world.done.keys() | world.skipped.keys() == ids
        assert not world.done.keys() & world.skipped.keys()
        assert bad | stuck <= world.skipped.keys()
        assert all(world.skipped.values())


@pytest.mark.parametrize("trouble", [0.0, 0.3])
def test_after_an_interruption_units_in_flight_are_finished_and_no_other_is_handed_out(trouble):
    finished = 0
    for seed in range(200):
        rng = random.Random(seed)
        ranks = {"b": 2}
        scheduler = plan([*units("a", 6), *units("b", 6), *units("c", 6)], slots=3, ranks=ranks)
        world = World(scheduler, rng, trouble=trouble, ranks=ranks, slots=3, interrupted_after=rng.randint(1, 12))
        world.run()
        assert world.is_interrupted
        assert max(world.done.values(), default=1) == 1
        assert sum(world.done.values()) < 54
        finished += sum(world.done.values())
    assert finished > 0


def loaded(scheduler: Scheduler, now: float = 0.0) -> Score:
    """Start the only replica, of one rank or more, and load it; its first unit."""
    (start,) = scheduler.begin()
    return load(scheduler, start, now)


def load(scheduler: Scheduler, start: StartReplica, now: float = 0.0, ranks: int = 1) -> Score:
    actions = [a for rank in range(ranks) for a in scheduler.handle(RankDone(start.replica, rank), now)]
    (score,) = actions
    assert isinstance(score, Score)
    return score


def failed(kind: FailureKind, transcript_id: str | None = None, *, rank: int = 0, replica: int = 1) -> RankFailed:
    return RankFailed(replica, Failure(kind, "why", transcript_id), rank)


def test_one_bad_transcript_that_nothing_names_is_skipped_alone():
    scheduler = plan(units("a", 4, 8))
    world = World(scheduler, random.Random(1), bad=frozenset({"a-2-5"}))
    world.run()
    assert list(world.skipped) == ["a-2-5"]
    assert len(world.done) == 31


@pytest.mark.parametrize("kind", [FailureKind.checkpoint, FailureKind.task])
def test_a_permanent_failure_to_load_is_not_tried_again(kind):
    scheduler = plan(units("a", 2))
    scheduler.begin()
    actions = decisions(scheduler.handle(failed(kind), 0.0))
    assert [type(a) for a in actions] == [StopReplica, Skip, Skip]
    assert {a.reason for a in actions[1:]} == {"why"}
    assert scheduler.finished


def test_a_checkpoint_that_never_finishes_a_unit_is_given_up():
    scheduler = plan(units("a", 50), attempts=2)
    actions, deaths, skipped = scheduler.begin(), 0, 0
    while not scheduler.finished:
        (start,) = [a for a in actions if isinstance(a, StartReplica)]
        load(scheduler, start)
        deaths += 1
        actions = scheduler.handle(RankDied(start.replica, Failure(FailureKind.lost, "killed")), 0.0)
        skipped += sum(isinstance(a, Skip) for a in actions)
    assert deaths == HOPELESS * 2
    assert skipped >= 40


def test_a_preempted_replica_counts_against_nothing():
    scheduler = plan(units("a", 1, 1), attempts=1)
    actions = scheduler.begin()
    for number in range(1, 200):
        (start,) = [a for a in actions if isinstance(a, StartReplica)]
        if number % 2:
            load(scheduler, start)
        actions = scheduler.handle(RankDied(start.replica, Failure(FailureKind.preempted, "node taken")), 0.0)
        assert not any(isinstance(a, Skip) for a in actions)
    (start,) = [a for a in actions if isinstance(a, StartReplica)]
    load(scheduler, start)
    assert decisions(scheduler.handle(RankDone(start.replica), 0.0)) == [StopReplica(start.replica)]
    assert scheduler.finished


def test_a_store_that_cannot_be_reached_is_tried_again_after_growing_pauses_and_then_stops_the_sweep():
    scheduler = plan(units("a", 1, 1), attempts=1)
    score, now = loaded(scheduler), 0.0
    for pause in UNREACHABLE_PAUSES_S:
        assert decisions(scheduler.handle(failed(FailureKind.unreachable), now)) == []
        assert scheduler.deadline == now + pause
        assert scheduler.handle(Tick(), now + pause / 2) == []
        now += pause
        assert scheduler.handle(Tick(), now) == [score]
    first, *_ = decisions(scheduler.handle(failed(FailureKind.unreachable), now))
    assert first == StopSweep("why")


def test_a_hub_that_cannot_be_reached_delays_loading_and_no_other_checkpoint():
    scheduler = plan(units("a", 1) + units("b", 1), slots=1, cost={"a": 2.0})
    (start,) = scheduler.begin()
    assert start.weights == "a"
    _, other = decisions(scheduler.handle(failed(FailureKind.unreachable), 0.0))
    assert other.weights == "b"
    assert scheduler.deadline == UNREACHABLE_PAUSES_S[0]
    load(scheduler, other)
    assert decisions(scheduler.handle(RankDone(other.replica), 1.0)) == [StopReplica(other.replica)]
    assert not scheduler.finished
    (again,) = scheduler.handle(Tick(), UNREACHABLE_PAUSES_S[0])
    assert again.weights == "a"


def test_a_hub_that_is_never_reached_is_given_up_after_the_last_pause():
    scheduler = plan(units("a", 2), attempts=1)
    actions, now, loads = scheduler.begin(), 0.0, 0
    while not scheduler.finished:
        (start,) = decisions(actions)
        loads += 1
        actions = scheduler.handle(failed(FailureKind.unreachable, replica=start.replica), now)
        if scheduler.deadline is not None:
            now = scheduler.deadline
            actions = scheduler.handle(Tick(), now)
    assert loads == len(UNREACHABLE_PAUSES_S) + 1
    assert now == sum(UNREACHABLE_PAUSES_S)
    assert sum(isinstance(a, Skip) for a in actions) == 2


@pytest.mark.parametrize("moment", ["loading", "scoring"])
def test_a_gang_of_which_one_rank_runs_out_of_memory_is_stopped_at_once_and_the_next_reads_half(moment):
    scheduler = plan(units("a", 1), slots=2, ranks={"a": 2})
    (start,) = scheduler.begin()
    assert start.pass_share == 1.0
    if moment == "scoring":
        load(scheduler, start, ranks=2)
    stop, again = decisions(scheduler.handle(failed(FailureKind.out_of_memory, rank=1), 0.0))
    assert stop == StopReplica(start.replica)
    assert (again.weights, again.pass_share) == ("a", 0.5)


def test_a_gang_goes_on_when_all_its_ranks_report_the_same_transcript():
    scheduler = plan(units("a", 1, 2), slots=2, ranks={"a": 2})
    (start,) = scheduler.begin()
    load(scheduler, start, ranks=2)
    assert decisions(scheduler.handle(failed(FailureKind.transcript, "a-0-1"), 5.0)) == []
    assert scheduler.deadline == 5.0 + RANK_TIMEOUT_S
    skip, score = decisions(scheduler.handle(failed(FailureKind.transcript, "a-0-1", rank=1), 6.0))
    assert [t.id for t in skip.unit.transcripts] == ["a-0-1"]
    assert [t.id for t in score.unit.transcripts] == ["a-0-0"]
    assert scheduler.deadline == 6.0 + Deadlines().stall_seconds


def test_a_gang_of_which_only_one_rank_reports_is_stopped_after_a_time():
    scheduler = plan(units("a", 1, 2), slots=2, ranks={"a": 2})
    (start,) = scheduler.begin()
    load(scheduler, start, ranks=2)
    assert decisions(scheduler.handle(failed(FailureKind.transcript, "a-0-1"), 5.0)) == []
    stop, skip, again = decisions(scheduler.handle(Tick(), 5.0 + RANK_TIMEOUT_S))
    assert stop == StopReplica(start.replica)
    assert [t.id for t in skip.unit.transcripts] == ["a-0-1"]
    assert again.weights == "a"


def test_a_gang_of_which_one_rank_never_loads_is_given_up_although_the_other_one_does():
    scheduler = plan(units("a", 2), slots=2, ranks={"a": 2}, attempts=3)
    actions, loads = scheduler.begin(), 0
    while not scheduler.finished:
        (start,) = [a for a in actions if isinstance(a, StartReplica)]
        loads += 1
        assert loads <= 3, "retries without bound"
        scheduler.handle(RankDone(start.replica, 0), 0.0)
        actions = scheduler.handle(failed(FailureKind.unknown, rank=1, replica=start.replica), 0.0)
    assert loads == 3


def test_a_gang_whose_store_is_never_reached_stops_the_sweep_after_the_last_pause():
    scheduler = plan(units("a", 1, 1), slots=2, ranks={"a": 2}, attempts=1)
    actions, now, gangs = scheduler.begin(), 0.0, 0
    while True:
        (start,) = [a for a in actions if isinstance(a, StartReplica)]
        gangs += 1
        assert gangs <= len(UNREACHABLE_PAUSES_S) + 1, "retries without bound"
        load(scheduler, start, now, ranks=2)
        failures = [failed(FailureKind.unreachable, rank=rank, replica=start.replica) for rank in range(2)]
        actions = [action for failure in failures for action in scheduler.handle(failure, now)]
        if StopSweep("replica of a ended while scoring: rank 0: why") in actions:
            break
        assert scheduler.deadline is not None
        now = scheduler.deadline
        actions = scheduler.handle(Tick(), now)
    assert now == sum(UNREACHABLE_PAUSES_S)


def gang_of_two(n_units: int = 2, **more) -> tuple[Scheduler, StartReplica]:
    scheduler = plan(units("a", n_units), slots=2, ranks={"a": 2}, **more)
    (start,) = scheduler.begin()
    return scheduler, start


def test_a_preempted_rank_counts_against_nothing_though_the_other_reports_its_broken_connection_first():
    scheduler, start = gang_of_two(attempts=1)
    for number in range(20):
        if number % 2:
            load(scheduler, start, ranks=2)
        broken = failed(FailureKind.unknown if number % 3 else FailureKind.checkpoint, replica=start.replica)
        assert decisions(scheduler.handle(broken, 5.0)) == []
        assert scheduler.deadline == 5.0 + RANK_TIMEOUT_S
        taken = RankDied(start.replica, Failure(FailureKind.preempted, "node taken"), 1)
        warning, stop, start = scheduler.handle(taken, 6.0)
        assert (warning.is_failure, stop) == (False, StopReplica(start.replica - 1))


def test_the_death_of_a_rank_while_loading_is_not_taken_for_a_fault_of_the_checkpoint():
    scheduler, start = gang_of_two()
    scheduler.handle(failed(FailureKind.checkpoint), 0.0)
    died = RankDied(start.replica, Failure(FailureKind.lost, "killed"), 1)
    stop, again = decisions(scheduler.handle(died, 1.0))
    assert (type(stop), type(again)) == (StopReplica, StartReplica)


DEADLINES = Deadlines()


@pytest.mark.parametrize(
    ("moment", "seconds"), [("loading", DEADLINES.load_seconds), ("scoring", DEADLINES.stall_seconds)]
)
def test_a_rank_that_shows_no_progress_ends_its_gang_in_time(moment, seconds):
    scheduler, start = gang_of_two(attempts=5)
    if moment == "scoring":
        load(scheduler, start, ranks=2)
    for rank in range(2):
        assert scheduler.handle(RankProgress(start.replica, rank, 1), 5.0) == []
    assert scheduler.handle(RankProgress(start.replica, 1, 2), 7.0) == []
    assert scheduler.handle(RankDone(start.replica, 0), 8.0) == []
    for now in (100.0, seconds):
        assert scheduler.handle(RankProgress(start.replica, 1, 2), now) == []
    assert scheduler.deadline == 7.0 + seconds
    warning, stop, again = scheduler.handle(Tick(), 7.0 + seconds)
    said = f"replica of a ended while {moment}: rank 1: it made no progress for {seconds:g} s"
    assert warning == Warn(said)
    assert (type(stop), type(again)) == (StopReplica, StartReplica)


def test_a_replica_of_one_rank_that_stands_still_is_lost_and_its_unit_split_until_the_transcript_stands_alone():
    scheduler = plan(units("a", 6, 8))
    world = World(scheduler, random.Random(1), stuck=frozenset({"a-2-5"}))
    world.run()
    assert list(world.skipped) == ["a-2-5"]
    stall = DEADLINES.stall_seconds
    assert world.skipped["a-2-5"] == f"replica of a ended while scoring: it made no progress for {stall:g} s"
    assert len(world.done) == 6 * 8 - 1


def test_a_replica_that_makes_progress_is_never_lost_however_long_it_takes():
    scheduler = plan(units("a", 1))
    (start,) = scheduler.begin()
    now = 0.0
    for work in range(100):
        now = scheduler.deadline - 1.0
        assert scheduler.handle(RankProgress(start.replica, 0, work), now) == []
        assert scheduler.handle(Tick(), now + 1.0) == []
    assert now > 50 * DEADLINES.load_seconds


def test_the_deadline_follows_from_the_most_expensive_transcript_and_the_measured_speed():
    longest = TranscriptRef("long", "study", "f", 0, 900, 5)
    work = [Unit("a", "plain", (*transcripts(1, f"{k}-"), longest), seconds=1000.0) for k in range(3)]
    scheduler = plan(work)
    loaded(scheduler)
    assert scheduler.deadline == STALL_FACTOR * 900.0
    scheduler.handle(RankDone(1), 3000.0)
    assert scheduler.deadline == 3000.0 + STALL_FACTOR * 3.0 * 900.0
    scheduler.handle(RankDone(1), 3001.0)
    assert scheduler.deadline == 3001.0 + STALL_FACTOR * (3001.0 / 2000.0) * 900.0


def test_weights_without_a_place_are_given_up_and_the_others_go_on():
    scheduler = plan(units("a", 2) + units("b", 1), slots=1, cost={"a": 2.0})
    (start,) = scheduler.begin(10.0)
    assert scheduler.deadline == 10.0 + DEADLINES.place_seconds
    assert scheduler.handle(ReplicaWaits(start.replica, "it needs 8 GPU; free are 4 GPU"), 3000.0) == []
    warning, stop, *skips, other = scheduler.handle(Tick(), scheduler.deadline)
    reason = "it had no place on the cluster for 3600 s: it needs 8 GPU; free are 4 GPU"
    assert warning == Warn(f"replica of a given up: {reason}")
    assert stop == StopReplica(start.replica)
    assert [skip.reason for skip in skips] == [reason] * 2
    assert other.weights == "b"


def test_a_replica_is_placed_as_soon_as_one_rank_answers():
    scheduler, start = gang_of_two()
    scheduler.handle(RankProgress(start.replica, 1, 0), 3000.0)
    assert scheduler.deadline == 3000.0 + DEADLINES.load_seconds


@pytest.mark.parametrize("name", ["stall_seconds", "load_seconds", "place_seconds"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_deadline_that_is_none_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"^cluster\.{name}={value}: must be above 0"):
        ClusterConfig(**{name: value})


def test_a_sharded_replica_of_one_rank_reads_less_as_well():
    scheduler = plan(units("a", 1), slots=1, sharded=("a",))
    loaded(scheduler)
    warning, _, again = scheduler.handle(failed(FailureKind.out_of_memory), 0.0)
    assert again.pass_share == 0.5
    assert warning.message.endswith("why; its next gang reads 0.5 of the tokens per pass")
    load(scheduler, again)
    last = scheduler.handle(failed(FailureKind.out_of_memory, replica=again.replica), 0.0)
    assert "its next gang" in last[0].message, "its halves are left"


def test_small_replicas_use_what_a_gang_leaves_and_make_room_for_it_after_their_unit():
    work = units("big", 1) + units("s1", 3) + units("s2", 3) + units("s3", 1)
    scheduler = plan(work, slots=2, ranks={"big": 2}, cost={"s1": 3.0, "s2": 2.0, "s3": 1.0})
    (big,) = scheduler.begin()
    unreachable = [failed(FailureKind.unreachable, replica=big.replica, rank=rank) for rank in range(2)]
    first, second = [a for e in unreachable for a in decisions(scheduler.handle(e, 0.0)) if isinstance(a, StartReplica)]
    load(scheduler, first)
    load(scheduler, second)
    assert scheduler.handle(Tick(), UNREACHABLE_PAUSES_S[0]) == [], "both score"
    assert decisions(scheduler.handle(RankDone(first.replica), 9.0)) == [StopReplica(first.replica)]
    stop, again = decisions(scheduler.handle(RankDone(second.replica), 9.0))
    assert stop == StopReplica(second.replica)
    assert again.weights == "big"


def test_a_unit_that_rank_0_committed_is_not_scored_again_when_another_rank_dies():
    scheduler = plan(units("a", 2), slots=2, ranks={"a": 2})
    (start,) = scheduler.begin()
    first = load(scheduler, start, ranks=2)
    assert scheduler.handle(RankDone(start.replica, 0), 0.0) == []
    actions = decisions(scheduler.handle(RankDied(start.replica, Failure(FailureKind.lost, "killed"), 1), 0.0))
    _, again = actions
    second = load(scheduler, again, ranks=2)
    assert second.unit != first.unit


def test_nothing_can_be_committed_any_more():
    scheduler = plan(units("a", 2))
    loaded(scheduler)
    assert scheduler.handle(failed(FailureKind.sweep), 0.0) == [StopSweep("why")]


def test_large_gangs_come_first_and_small_ones_take_what_they_leave():
    work = units("small", 1) + units("half", 1) + units("whole", 1) + units("other-half", 1)
    ranks = {"half": 2, "other-half": 2, "whole": 4}
    scheduler = plan(work, slots=5, cost={"small": 9.0}, ranks=ranks)
    whole, small = scheduler.begin()
    assert [whole.weights, small.weights] == ["whole", "small"]
    load(scheduler, whole, ranks=4)
    *_, actions = (scheduler.handle(RankDone(whole.replica, rank), 0.0) for rank in range(4))
    stop, *next_ones = actions
    assert stop == StopReplica(whole.replica)
    assert [start.weights for start in next_ones] == ["half", "other-half"]


def test_the_most_expensive_checkpoint_goes_first_and_slots_are_kept():
    scheduler = plan(units("small", 1) + units("large", 1) + units("middle", 1), cost={"large": 9.0, "middle": 5.0})
    assert [a.weights for a in scheduler.begin()] == ["large", "middle"]


def test_a_late_event_of_a_replica_that_is_gone_is_ignored():
    scheduler = plan(units("a", 1))
    (start,) = scheduler.begin()
    scheduler.handle(RankDied(start.replica, Failure(FailureKind.lost, "gone")), 0.0)
    assert scheduler.handle(RankDone(start.replica), 0.0) == []
    assert scheduler.handle(failed(FailureKind.unknown, replica=start.replica), 0.0) == []


def test_a_transcript_known_to_be_at_fault_is_skipped_at_once_and_the_rest_is_scored():
    scheduler = plan(units("a", 1, 5))
    score = loaded(scheduler)
    skip, again = decisions(scheduler.handle(failed(FailureKind.transcript, "a-0-2"), 0.0))
    assert [t.id for t in skip.unit.transcripts] == ["a-0-2"]
    assert [t.id for t in again.unit.transcripts] == ["a-0-0", "a-0-1", "a-0-3", "a-0-4"]
    assert scheduler.handle(RankDone(1), 0.0) == [StopReplica(1)]
    assert scheduler.finished
    assert score.unit != again.unit


def test_a_condition_that_cannot_be_scored_takes_no_other_condition_with_it():
    chat = [Unit("a", "chat", u.transcripts) for u in units("a", 3)]
    scheduler = plan([*chat, *units("a", 3)])
    loaded(scheduler)
    actions = decisions(scheduler.handle(failed(FailureKind.task), 0.0))
    assert [a.unit.condition for a in actions if isinstance(a, Skip)] == ["chat"] * 3
    assert isinstance(actions[-1], Score)
    assert actions[-1].unit.condition == "plain"


def test_adapters_go_to_the_replica_that_holds_their_base():
    work = [*units("base", 1), *units("adapter", 1), *units("other", 1)]
    scheduler = plan(work, slots=2, attempts=1, cost={"base": 2.0}, weights_of={"adapter": "base"})
    assert [a.weights for a in scheduler.begin()] == ["base", "other"]
    (first,) = scheduler.handle(RankDone(1), 0.0)
    (second,) = scheduler.handle(RankDone(1), 0.0)
    assert [first.unit.checkpoint, second.unit.checkpoint] == ["base", "adapter"]
    assert scheduler.handle(RankDone(1), 0.0) == [StopReplica(1)]


def test_an_adapter_that_cannot_be_scored_takes_no_other_adapter_with_it():
    work = [*units("base", 1), *units("adapter", 2)]
    scheduler = plan(work, slots=1, attempts=1, weights_of={"adapter": "base"})
    loaded(scheduler)
    (of_adapter,) = scheduler.handle(RankDone(1), 0.0)
    assert of_adapter.unit.checkpoint == "adapter"
    *skips, stop = decisions(scheduler.handle(failed(FailureKind.checkpoint), 0.0))
    assert [skip.unit.checkpoint for skip in skips] == ["adapter", "adapter"]
    assert isinstance(stop, StopReplica)


def test_weights_without_a_place_wait_while_others_work():
    scheduler = plan(units("a", 1) + units("b", 1), slots=2, cost={"a": 2.0})
    first, second = scheduler.begin()
    load(scheduler, first)
    now = DEADLINES.place_seconds
    scheduler.handle(RankProgress(first.replica, 0, 1), now - 1.0)
    warning, stop = scheduler.handle(Tick(), now)
    assert warning.message.endswith(f"tried again in {ASK_AGAIN_S:g} s")
    assert stop == StopReplica(second.replica)
    (again,) = scheduler.handle(Tick(), now + ASK_AGAIN_S)
    assert again.weights == "b"
