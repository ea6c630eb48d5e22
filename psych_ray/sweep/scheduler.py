"""Decides what runs next, and what follows from every failure. Pure logic: events in, actions out.

Whoever drives it (the Ray driver, a test, the simulator) reports every event in the order in which it happened, with
the time, and carries out every action that comes back; it reports a `Tick` when `deadline` is reached. What is
guaranteed, whatever the order of events:

- a unit is with at most one replica, and is handed out again only after that replica failed it, cut it or died;
- a unit that failed `attempts` times is split in two; one transcript alone is skipped, with the reason; transcripts
  that are known to be at fault are skipped at once, and the rest of their unit is scored;
- a task whose condition cannot be scored is skipped, the checkpoint's other conditions are not;
- weights that could not be loaded `attempts` times in a row, and of which no other replica loads or scores, or that
  failed `HOPELESS * attempts` units in a row without finishing one, are given up with all their units;
- a hub or store that cannot be reached is tried again after a pause, `UNREACHABLE_PAUSES_S` one after the other; then
  the weights are given up that cannot be loaded, or the sweep is stopped that cannot commit;
- what several replicas of the same weights meet at the same time counts as one failure in a row;
- preemption counts against nothing, also where another rank of the gang reports its broken connection first; nodes that
  are lost without notice count against a unit that they were lost with more than `NODES_LOST` times;
- a gang of which a rank fails or dies is stopped: at once after running out of memory and after a death, else when all
  ranks have reported or `RANK_TIMEOUT_S` later;
- nothing is waited for without a deadline (`Deadlines`): a rank that shows no progress is lost with its gang, weights
  that have no place on the cluster are given up, unless others have one and work;
- a sharded replica that ran out of memory is started again with half as many tokens per pass;
- replicas of many ranks are started first; where small ones are in the way of the first replica of a larger one, those
  of one node end after their unit;
- a draining node gets no further unit; units that run there are cut shortly before it is gone;
- after an interruption no unit is handed out any more, and only replicas that are scoring one are kept until they end;
- when no event can come any more, every unit is done or skipped, unless the sweep was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from psych_ray.errors import FailureKind
from psych_ray.sweep.events import (
    Action,
    Cut,
    Event,
    Interrupted,
    NodeDraining,
    NodeEvent,
    NodeJoined,
    NodeLost,
    RankDied,
    RankDone,
    RankEvent,
    RankFailed,
    RankProgress,
    ReplicaPlaced,
    ReplicaWaits,
    Score,
    StopSweep,
    Tick,
    Warn,
    WeightsOnDisk,
)
from psych_ray.sweep.failure import Failure
from psych_ray.sweep.fleet import Fleet, Replica
from psych_ray.sweep.nodes import Nodes
from psych_ray.sweep.queues import Queues
from psych_ray.sweep.retries import PERMANENT, Attempt, Retries
from psych_ray.sweep.stalls import Deadlines, Pace
from psych_ray.sweep.starts import Starts, WeightsFacts
from psych_ray.sweep.unit import Unit

RANK_TIMEOUT_S = 10.0
"""How long the other ranks of a gang may take to report after one of them failed."""
CUT_MARGIN_S = 15.0
"""A unit is cut so long before its node is gone, or in half of the time that is left if that is shorter."""
GRACE_S = 30.0
"""How long a draining node is taken to stay where its notice does not say."""
ASK_AGAIN_S = 60.0
"""After this time a place is asked for again, for weights for which there was none while others had one."""
TAIL_UNIT_S = 5.0
"""Units become shorter towards the end of a checkpoint with several replicas, but not shorter than this."""


@dataclass(slots=True)
class Scheduler:
    """Replicas of many weights on the nodes of a cluster, as many of each as pay for their load time.

    Weights are a checkpoint, or a base and all its adapters, by the base's slug. A node is not known until it joins.
    """

    _facts: Mapping[str, WeightsFacts]
    _deadlines: Deadlines
    _retries: Retries
    _queues: Queues
    _fleet: Fleet
    _pace: Pace
    _starts: Starts
    _now: float = 0.0
    """Time of the event that is being handled."""
    _is_interrupted: bool = False
    _draining: dict[str, float] = field(default_factory=dict)
    """Times at which nodes will be gone."""

    @classmethod
    def plan(
        cls,
        units: Iterable[Unit],
        *,
        attempts: int,
        nodes: Mapping[str, int] | None = None,
        facts: Mapping[str, WeightsFacts] | None = None,
        weights_of: Mapping[str, str] | None = None,
        deadlines: Deadlines | None = None,
        across_nodes: bool = False,
        replicas: int | None = None,
        prefetches: bool = False,
    ) -> Scheduler:
        """Prepare for these units.

        `nodes` that are known already, with their slots. `facts` by weights; those without an entry take one rank.
        `weights_of`: the weights that an adapter needs; a checkpoint that is not in it is its own weights. `replicas`:
        of the same weights at most at a time. `prefetches`: whether weights are brought to the disks of nodes.
        """
        assert attempts >= 1
        retries, deadlines = Retries(attempts), deadlines or Deadlines()
        queues, pace = Queues(retries), Pace()
        for unit in units:
            queues.add((weights_of or {}).get(unit.checkpoint, unit.checkpoint), unit)
        known = {weights: (facts or {}).get(weights, WeightsFacts()) for weights in queues}
        fleet = Fleet(Nodes(across_nodes))
        for node, slots in (nodes or {}).items():
            fleet.join(node, slots)
        starts = Starts(known, deadlines, retries, queues, fleet, pace, replicas, prefetches)
        return cls(known, deadlines, retries, queues, fleet, pace, starts)

    @property
    def finished(self) -> bool:
        """No unit is left, or none is handed out any more, and no replica lives."""
        return not len(self._fleet) and (self._is_interrupted or not self._queues.any())

    @property
    def deadline(self) -> float | None:
        """Time at which a `Tick` is due, None where nothing depends on time."""
        return None if self.finished else self._fleet.timers.next

    def begin(self, now: float = 0.0, joined: Iterable[NodeJoined] = ()) -> list[Action]:
        """Return the first actions, at time `now`, seconds.

        `joined`: the nodes that are there, so that what needs several of them is not late to others that need one.
        """
        self._now = now
        for event in joined:
            self._fleet.join(event.node, event.slots)
        return self._fill()

    def handle(self, event: Event, now: float) -> list[Action]:
        """Return what follows from an event at time `now`, seconds. Events of replicas that are gone are ignored."""
        self._now = now
        match event:
            case Tick():
                return self._tick()
            case Interrupted(seconds=seconds):
                return self._interrupt(seconds)
            case NodeJoined() | NodeDraining() | NodeLost() | WeightsOnDisk():
                return self._node(event)
        replica = self._fleet.get(event.replica)
        if replica is None:
            return []
        actions = self._rank(event, replica)
        if self._fleet.get(event.replica) is replica:
            self._fleet.timers.set(("replica", event.replica), replica.due)
        return actions

    def _rank(self, event: RankEvent, replica: Replica) -> list[Action]:
        number, now = event.replica, self._now
        if isinstance(event, ReplicaWaits):
            replica.watch.waits_for = event.reason
            return []
        replica.watch.answered(self._deadlines.load_seconds, now)
        match event:
            case ReplicaPlaced(nodes=nodes):
                return self._placed(number, nodes)
            case RankProgress(rank=rank, work=work):
                replica.watch.progress(rank, work, now)
                return []
            case RankDone(rank=rank, left=left):
                return self._rank_done(number, replica, rank, left)
            case RankFailed(rank=rank, failure=failure):
                return self._rank_failed(number, replica, rank, failure)
            case RankDied(rank=rank, failure=failure):
                return self._rank_died(number, replica, rank, failure)

    def _node(self, event: NodeEvent) -> list[Action]:
        nodes, node = self._fleet.nodes, event.node
        match event:
            case NodeJoined(slots=slots):
                self._fleet.join(node, slots)
            case WeightsOnDisk(weights=weights, is_there=is_there):
                nodes.put_on_disk(node, weights, is_there=is_there)
            case NodeDraining(seconds=seconds, reason=reason):
                return self._drain(node, GRACE_S if seconds is None else seconds, reason)
            case NodeLost():
                return self._lose_node(node)
        return self._fill()

    def _drain(self, node: str, seconds: float, reason: str) -> list[Action]:
        until = self._now + max(0.0, seconds)
        if node not in self._fleet.nodes or until >= self._draining.get(node, float("inf")):
            return []
        is_new = node not in self._draining
        self._draining[node] = until
        if is_new:
            self._fleet.nodes.drain(node)
        actions: list[Action] = [Warn(f"node {node[:8]} is draining: {reason}", is_failure=False)] if is_new else []
        for number, replica in self._fleet.on_node(node):
            self._fleet.retire(number)
            actions += self._end_in_time(number, replica, seconds)
        return actions + self._fill()

    def _end_in_time(self, number: int, replica: Replica, seconds: float) -> list[Action]:
        """Stop a replica that scores nothing; else let its unit be cut where it has not ended shortly before."""
        if replica.unit is None:
            return self._fleet.stop(number)
        self._fleet.timers.set_earlier(("cut", number), self._now + max(seconds / 2, seconds - CUT_MARGIN_S))
        return []

    def _lose_node(self, node: str) -> list[Action]:
        if node not in self._fleet.nodes:
            return []
        is_expected = self._draining.pop(node, None) is not None
        self._fleet.nodes.lose(node)
        actions: list[Action] = []
        for number, replica in self._fleet.on_node(node):
            actions += self._end(number, self._node_failure(replica, is_expected))
        return actions + self._fill()

    def _node_failure(self, replica: Replica, is_expected: bool) -> Failure:
        reason = "its node was lost"
        if is_expected or replica.unit is None or not self._retries.node_lost(replica.unit):
            return Failure(FailureKind.preempted, reason)
        return Failure(FailureKind.lost, f"{reason}, as others were with the same transcripts")

    def _tick(self) -> list[Action]:
        actions: list[Action] = []
        for kind, key in self._fleet.timers.take_due(self._now):
            if isinstance(key, str):
                is_unfit = kind == "unfit" and not self._is_interrupted
                actions += self._starts.give_up_unfit(key) if is_unfit else ()
                continue
            replica = self._fleet.get(key)
            if replica is None:
                continue
            if kind == "cut":
                actions += [Cut(key)] if replica.unit is not None else []
                continue
            actions += self._look_at(key, replica)
            if self._fleet.get(key) is replica:
                self._fleet.timers.set((kind, key), replica.due)
        return actions + self._fill()

    def _look_at(self, number: int, replica: Replica) -> list[Action]:
        if replica.due is None or replica.due > self._now:
            return []
        if replica.is_paused:
            return self._next(number)
        if not replica.watch.is_placed:
            return self._give_up_unplaced(number, replica)
        return self._lose(number, replica.failure or replica.stall())

    def _interrupt(self, seconds: float | None) -> list[Action]:
        self._is_interrupted = True
        actions: list[Action] = []
        for number, replica in list(self._fleet):
            if replica.unit is None or seconds is not None:
                actions += self._end_in_time(number, replica, seconds or 0.0)
        return actions

    def _placed(self, number: int, nodes: tuple[str, ...]) -> list[Action]:
        replica = self._fleet.get(number)
        assert replica is not None
        if nodes == replica.nodes:
            return []
        self._fleet.move(number, nodes)
        leaving = [self._draining[node] for node in nodes if node in self._draining]
        if leaving:
            self._fleet.retire(number)
            return [*self._end_in_time(number, replica, min(leaving) - self._now), *self._fill()]
        return self._fill()

    def _rank_done(self, number: int, replica: Replica, rank: int, left: frozenset[str]) -> list[Action]:
        replica.waiting_for.discard(rank)
        if rank == 0 and replica.unit is not None:
            self._committed(number, replica, left)
        return self._when_all_reported(number, replica)

    def _committed(self, number: int, replica: Replica, left: frozenset[str]) -> None:
        unit = self._fleet.take_back(number)
        assert unit is not None
        rest = unit.only(left) if left else None
        if rest is None or rest != unit:
            self._retries.committed(replica.weights, unit)
        if rest is None:
            self._pace.committed(replica.weights, unit, self._now - replica.asked_at)
        else:
            self._queues.put_back(replica.weights, rest)

    def _rank_failed(self, number: int, replica: Replica, rank: int, failure: Failure) -> list[Action]:
        if failure.kind == FailureKind.sweep:
            return [StopSweep(failure.reason)]
        replica.waiting_for.discard(rank)
        replica.failed_ranks += 1
        replica.failure = replica.cause(failure, rank)
        if failure.kind == FailureKind.out_of_memory and self._facts[replica.weights].is_sharded:
            return self._lose(number, replica.failure)
        return self._when_all_reported(number, replica)

    def _rank_died(self, number: int, replica: Replica, rank: int, failure: Failure) -> list[Action]:
        if any(node in self._draining for node in replica.nodes):
            failure = Failure(FailureKind.preempted, failure.reason)
        return self._lose(number, replica.cause(failure, rank))

    def _when_all_reported(self, number: int, replica: Replica) -> list[Action]:
        if replica.waiting_for:
            if replica.failure is not None and replica.deadline is None:
                replica.deadline = self._now + RANK_TIMEOUT_S
            return []
        if replica.failure is None:
            if not replica.is_loaded:
                self._retries.loaded(replica.weights)
                self._starts.loaded(replica.weights, self._now - replica.watch.began)
                replica.is_loaded = True
            return self._next(number)
        n_ranks = replica.n_ranks
        may_differ = replica.failed_ranks < n_ranks or (n_ranks > 1 and replica.failure.kind not in PERMANENT)
        if not replica.is_loaded or may_differ:
            return self._lose(number, replica.failure)
        pause = self._retries.pause(replica.weights, replica.failure, self._attempt(replica), is_loaded=True)
        reason = f"{replica.weights}: {replica.failure.reason}"
        actions = [Warn(f"{reason}{_after(pause)}"), *self._judge_unit(number, replica, replica.failure, pause)]
        if pause is None or self._is_interrupted or replica.is_retiring:
            return actions + self._next(number)
        replica.deadline, replica.is_paused = self._now + pause, True
        return actions

    def _next(self, number: int) -> list[Action]:
        """Hand the replica its next unit, or stop it."""
        replica = self._fleet.get(number)
        assert replica is not None
        replica.failure, replica.failed_ranks, replica.deadline, replica.is_paused = None, 0, None, False
        if self._is_interrupted or replica.is_retiring or not self._queues.has(replica.weights):
            return [*self._fleet.stop(number), *self._fill()]
        unit = self._take(replica)
        self._fleet.hand_out(number, unit)
        replica.waiting_for, replica.asked_at = set(range(replica.n_ranks)), self._now
        stall_seconds = self._deadlines.stall_seconds
        replica.watch.begin(self._pace.stall_seconds(replica.weights, unit, stall_seconds), self._now)
        if self._queues.has(replica.weights):
            return [Score(number, unit)]
        superfluous = self._fleet.loading(replica.weights)  # the rest is being scored
        stops = [stop for other in superfluous for stop in self._fleet.stop(other)]
        return [Score(number, unit), *stops, *(self._fill() if stops else ())]

    def _take(self, replica: Replica) -> Unit:
        """The next unit for a replica, a part of one where several replicas share what little is left."""
        weights, n_replicas, at_most = replica.weights, self._fleet.count(replica.weights), None
        if n_replicas > 1:
            share = self._queues.seconds(weights) / (2 * n_replicas)
            at_most = max(share, TAIL_UNIT_S / max(1e-9, self._pace.ratio(weights)))
        return self._queues.take(weights, last=replica.last, held=self._fleet.held(weights), at_most=at_most)

    def _lose(self, number: int, failure: Failure) -> list[Action]:
        return [*self._end(number, failure), *self._fill()]

    def _end(self, number: int, failure: Failure) -> list[Action]:
        """End a replica, all its ranks, and decide what becomes of its unit and its weights; start nothing yet."""
        replica = self._fleet.get(number)
        assert replica is not None
        weights = replica.weights
        reason = f"replica of {weights} ended while {'scoring' if replica.is_loaded else 'loading'}: {failure.reason}"
        attempt = self._attempt(replica)
        pause = self._retries.pause(weights, failure, attempt, is_loaded=replica.is_loaded)
        judged: list[Action] = []
        if replica.is_loaded:
            judged = self._judge_unit(number, replica, Failure(failure.kind, reason, failure.transcript_id), pause)
        actions = [*self._fleet.stop(number), *judged]
        if not replica.is_loaded and self._retries.load_failed(weights, failure, attempt, pause):
            actions += self._starts.give_up(weights, failure.reason)
        if failure.kind != FailureKind.preempted:
            self._starts.failed_on(weights, replica.nodes)
        follows = _after(pause)
        has_units = self._queues.has(weights)
        if has_units and failure.kind == FailureKind.out_of_memory and self._facts[weights].is_sharded:
            follows = f"; its next gang reads {self._retries.halve_pass(weights):.2g} of the tokens per pass"
        if has_units and pause is not None:
            self._pause(weights, pause)
        warning = Warn(f"{reason}{follows}", is_failure=failure.kind != FailureKind.preempted)
        return [warning, *actions]

    def _judge_unit(self, number: int, replica: Replica, failure: Failure, pause: float | None) -> list[Action]:
        """Decide what becomes of the unit that a replica failed to score; nothing where it was committed."""
        unit, attempt = self._fleet.take_back(number), self._attempt(replica)
        return [] if unit is None else self._queues.failed(replica.weights, unit, failure, attempt, pause)

    def _pause(self, weights: str, seconds: float) -> None:
        """Start no replica of these weights for so long."""
        self._fleet.timers.set(("paused", weights), self._now + seconds)
        self._starts.paused[weights] = self._now + seconds

    def _give_up_unplaced(self, number: int, replica: Replica) -> list[Action]:
        weights = replica.weights
        reason = f"it had no place on the cluster for {replica.watch.seconds:g} s: {replica.watch.waits_for}"
        if any(other.watch.is_placed for _, other in self._fleet):  # others use the cluster as well, for a while
            self._pause(weights, ASK_AGAIN_S)
            return [Warn(f"replica of {weights}: {reason}{_after(ASK_AGAIN_S)}"), *self._fleet.stop(number)]
        actions = [Warn(f"replica of {weights} given up: {reason}"), *self._fleet.stop(number)]
        return actions + self._starts.give_up(weights, reason)

    def _fill(self) -> list[Action]:
        return [] if self._is_interrupted else self._starts.fill(self._now)

    def _attempt(self, replica: Replica) -> Attempt:
        return Attempt(replica.asked_at, self._now)


def _after(pause: float | None) -> str:
    return "" if pause is None else f"; tried again in {pause:g} s"
