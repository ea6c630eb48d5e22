"""Events in orders that are seldom, many replicas that fail at once, and what must not follow from either."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from psych_ray.errors import FailureKind
from psych_ray.results.schema import TranscriptRef
from psych_ray.sweep.events import (
    Cut,
    Fetch,
    Interrupted,
    NodeDraining,
    NodeJoined,
    NodeLost,
    RankDied,
    RankDone,
    RankFailed,
    RankProgress,
    ReplicaPlaced,
    Score,
    Skip,
    StartReplica,
    StopReplica,
    StopSweep,
    Tick,
)
from psych_ray.sweep.failure import Failure
from psych_ray.sweep.retries import HOPELESS, UNREACHABLE_PAUSES_S
from psych_ray.sweep.scheduler import Scheduler
from psych_ray.sweep.starts import WeightsFacts
from psych_ray.sweep.timers import Timers
from psych_ray.sweep.unit import Unit


def units(weights: str, n: int, size: int = 3, seconds: float = 60.0) -> list[Unit]:
    refs = [[TranscriptRef(f"{weights}-{k}-{t}", "s", "f", t, 100, 5) for t in range(size)] for k in range(n)]
    return [Unit(weights, "plain", tuple(one), seconds) for one in refs]


def plan(work: list[Unit], nodes: dict[str, int], ranks: dict[str, int] | None = None, **more) -> Scheduler:
    facts = {u.checkpoint: WeightsFacts(n := (ranks or {}).get(u.checkpoint, 1), n > 1) for u in work}
    return Scheduler.plan(work, attempts=2, nodes=nodes, facts=facts, **more)


def started(actions) -> list[int]:
    return [action.replica for action in actions if isinstance(action, StartReplica)]


def failed(replica: int, kind: FailureKind) -> RankFailed:
    return RankFailed(replica, Failure(kind, "why"))


def all_loaded(scheduler: Scheduler, n: int, now: float = 1.0) -> list[int]:
    replicas = started(scheduler.begin())
    assert len(replicas) == n
    for replica in replicas:
        scheduler.handle(RankDone(replica), now)
    return replicas


def test_one_outage_of_a_store_is_counted_once_however_many_replicas_meet_it():
    scheduler = plan(units("a", 100), {"n": 16})
    replicas = all_loaded(scheduler, 16)
    actions = [a for k, r in enumerate(replicas) for a in scheduler.handle(failed(r, FailureKind.unreachable), 10 + k)]
    assert not any(isinstance(action, StopSweep) for action in actions)
    now, is_stopped = 26.0, False
    while not is_stopped:
        now = max(now, scheduler.deadline)
        for action in scheduler.handle(Tick(), now):
            if isinstance(action, Score):
                follows = scheduler.handle(failed(action.replica, FailureKind.unreachable), now + 0.1)
                is_stopped |= any(isinstance(one, StopSweep) for one in follows)
    assert sum(UNREACHABLE_PAUSES_S) <= now - 10.0 <= 1.2 * sum(UNREACHABLE_PAUSES_S), "it is stopped, in time"


def test_one_glitch_that_many_replicas_meet_while_they_load_gives_up_no_weights():
    scheduler = plan(units("a", 100), {"n": 16})
    replicas = started(scheduler.begin())
    actions = [a for k, r in enumerate(replicas) for a in scheduler.handle(failed(r, FailureKind.unknown), 1.0 + k)]
    assert not any(isinstance(action, Skip) for action in actions)
    assert len(started(actions)) == 16


def test_one_glitch_that_many_replicas_meet_while_they_score_gives_up_no_weights():
    n = HOPELESS * 2 + 6
    scheduler = plan(units("a", 200), {"n": n})
    actions = [
        action
        for k, replica in enumerate(all_loaded(scheduler, n))
        for action in scheduler.handle(RankDied(replica, Failure(FailureKind.lost, "killed")), 10.0 + k)
    ]
    assert not any(isinstance(action, Skip) for action in actions)


def test_weights_that_never_load_anywhere_are_given_up_though_many_replicas_try():
    scheduler = plan(units("a", 100), {"n": 16})
    alive, now, n_starts, skipped = started(scheduler.begin()), 0.0, 16, 0
    while not scheduler.finished:
        now += 1.0
        actions = scheduler.handle(failed(alive.pop(0), FailureKind.unknown), now)
        alive += started(actions)
        n_starts += len(started(actions))
        skipped += sum(isinstance(action, Skip) for action in actions)
        assert n_starts < 100, "retries without bound"
    assert skipped == 100


def test_a_second_replica_that_never_loads_is_not_started_for_ever():
    scheduler = plan(units("a", 100), {"n": 2})
    first, second = started(scheduler.begin())
    scheduler.handle(RankDone(first), 1.0)
    n_starts, now = 0, 1.0
    while second is not None:
        now += 1.0
        again = started(scheduler.handle(failed(second, FailureKind.unknown), now))
        n_starts += len(again)
        assert n_starts < 20, "retries without bound"
        second = again[0] if again else None
    assert scheduler.handle(RankDone(first), now + 1.0), "the first goes on"


def test_weights_that_one_node_cannot_load_are_loaded_on_others():
    scheduler = plan(units("a", 100), {"good": 1, "bad": 8})
    replicas = {a.replica: a.nodes for a in scheduler.begin()}
    bad = [replica for replica, nodes in replicas.items() if nodes == ("bad",)]
    (good,) = replicas.keys() - set(bad)
    now, skipped = 0.0, 0
    for _ in range(40):
        if not bad:
            break
        now += 1.0
        actions = scheduler.handle(failed(bad.pop(0), FailureKind.unknown), now)
        bad += started(actions)
        skipped += sum(isinstance(action, Skip) for action in actions)
    assert not skipped
    assert not bad
    assert any(isinstance(action, Score) for action in scheduler.handle(RankDone(good), now + 1.0))


def test_a_replica_that_ray_places_before_its_node_is_told_takes_its_slots_there():
    scheduler = plan([*units("a", 9), *units("b", 9), *units("c", 9)], {"n": 1}, replicas=1)
    (first,) = started(scheduler.begin())
    (second,) = started(scheduler.handle(ReplicaPlaced(first, ("new",)), 1.0))
    assert started(scheduler.handle(NodeJoined("new", 1), 2.0)) == [], "its slot is taken"
    scheduler.handle(NodeLost("n"), 3.0)
    actions = scheduler.handle(RankDied(first, Failure(FailureKind.preempted, "")), 4.0)
    assert len(started(actions)) == 1, "one slot is free, not two"
    assert second != first


@pytest.mark.parametrize("seconds", [(20.0, 60.0), (60.0, 20.0)])
@pytest.mark.parametrize("is_drained_first", [True, False])
def test_of_two_reasons_to_cut_a_unit_the_earlier_one_counts(is_drained_first, seconds):
    scheduler = plan(units("a", 9), {"n": 1})
    (replica,) = all_loaded(scheduler, 1)
    events = NodeDraining("n", seconds[0], "spot"), Interrupted(seconds[1])
    for event in events if is_drained_first else reversed(events):
        scheduler.handle(event, 2.0)
    assert scheduler.deadline == 12.0
    assert scheduler.handle(Tick(), 12.0) == [Cut(replica)]


def test_a_node_that_lost_slots_is_no_longer_kept_for_a_gang_that_has_no_room_there():
    scheduler = plan([*units("gang", 9), *units("s", 9), *units("t", 9)], {"n": 2}, {"gang": 2}, replicas=1)
    (gang,) = started(scheduler.begin())
    died = [RankFailed(gang, Failure(FailureKind.unreachable, "hub"), rank) for rank in (0, 1)]
    small = started([a for event in died for a in scheduler.handle(event, 1.0)])
    for replica in small:
        scheduler.handle(RankDone(replica), 2.0)
    scheduler.handle(Tick(), 1.0 + UNREACHABLE_PAUSES_S[0])  # from now on the node is kept
    scheduler.handle(NodeJoined("n", 1), 7.0)
    ended = [a for replica in small for a in scheduler.handle(RankDone(replica), 8.0)]
    assert sum(isinstance(action, StopReplica) for action in ended) == 2
    assert len(started(ended)) == 1, "a small one uses the slot that is left"


@pytest.mark.parametrize("nodes", [{"small": 1}, {"large": 2, "small": 1}])
def test_gangs_that_a_node_does_not_hold_keep_no_others_from_being_fetched_there(nodes):
    gangs = [f"gang{k}" for k in range(6)]
    work = [*units("running", 9, seconds=90.0), *units("s", 9), *(u for gang in gangs for u in units(gang, 9))]
    scheduler = plan(work, nodes, dict.fromkeys(gangs, 2), replicas=1, across_nodes=True, prefetches=True)
    fetched = [action.weights for action in scheduler.begin() if isinstance(action, Fetch) and action.node == "small"]
    assert fetched == ["s"]


def test_after_an_interruption_nothing_is_given_up_for_want_of_a_node():
    scheduler = plan([*units("a", 9), *units("large", 9)], {"n": 1}, {"large": 4})
    all_loaded(scheduler, 1)
    scheduler.handle(Interrupted(None), 2.0)
    for now in (1800.0, 3500.0, 3700.0):
        scheduler.handle(RankProgress(1, 0, int(now)), now)
    assert scheduler.handle(Tick(), 3700.0) == []


def test_slots_are_kept_count_of_in_any_order_of_events():
    for seed in range(150):
        rng, names = random.Random(seed), [f"n{k}" for k in range(4)]
        ranks = {"a": 1, "b": 2, "c": 4}
        scheduler = plan([u for w in ranks for u in units(w, 20)], {}, ranks, across_nodes=seed % 3 == 0)
        alive = dict.fromkeys(started(scheduler.begin()), 0)
        for now in range(100):
            node, replica = rng.choice(names), rng.choice([*alive] or [0])
            n_ranks = 0 if replica not in alive else len(scheduler._fleet.get(replica).nodes)
            event = rng.choice(
                [
                    NodeJoined(node, rng.choice([0, 1, 4, 8])),
                    NodeDraining(node, rng.choice([None, -1.0, 20.0]), "spot"),
                    NodeLost(node),
                    ReplicaPlaced(replica, tuple(rng.choice([*names, "unknown"]) for _ in range(n_ranks))),
                    RankDied(replica, Failure(FailureKind.preempted, "")),
                    Tick(),
                    *(RankDone(replica, rank) for rank in range(n_ranks)),
                ]
            )
            for action in scheduler.handle(event, 5.0 * now):
                if isinstance(action, StartReplica):
                    alive[action.replica] = now
                elif isinstance(action, StopReplica):
                    del alive[action.replica]
            nodes, replicas = scheduler._fleet.nodes._nodes, dict(scheduler._fleet)
            assert replicas.keys() == alive.keys()
            taken = Counter(node for one in replicas.values() for node in one.nodes)
            assert {name: one.slots - taken[name] for name, one in nodes.items()} == {
                name: one.free for name, one in nodes.items()
            }
            assert scheduler._fleet.nodes.free == sum(one.free for one in nodes.values() if one.is_open)


def test_due_times_are_those_of_a_plain_dictionary():
    for seed in range(200):
        rng, timers, plain = random.Random(seed), Timers[int](), dict[int, float]()
        now = 0.0
        for _ in range(200):
            key, draw = rng.randrange(6), rng.random()
            if draw < 0.2:
                timers.set(key, None)
                plain.pop(key, None)
            elif draw < 0.8:
                due_at = now + rng.randrange(8)
                if rng.random() < 0.3:
                    timers.set_earlier(key, due_at)
                    plain[key] = min(due_at, plain.get(key, due_at))
                else:
                    timers.set(key, due_at)
                    plain[key] = due_at
            else:
                now += rng.randrange(4)
                due = sorted(key for key, at in plain.items() if at <= now)
                taken = timers.take_due(now)
                times = [plain[key] for key in taken]
                assert (sorted(taken), times) == (due, sorted(times))
                plain = {key: at for key, at in plain.items() if at > now}
            assert timers.next == min(plain.values(), default=None)
