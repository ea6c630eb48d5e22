"""Decides what runs next, and what follows from every failure. Pure logic: events in, actions out.

Whoever drives it (the Ray driver, a test, a simulator) reports every event in the order in which it happened, with the
time, and carries out every action that comes back; it reports a `Tick` when `deadline` is reached. What is guaranteed,
whatever the order of events:

- a unit is with at most one replica, and is handed out again only after that replica failed it or died;
- a unit that failed `attempts` times is split in two; one transcript alone is skipped, with the reason; transcripts
  that are known to be at fault are skipped at once, and the rest of their unit is scored;
- a task whose condition cannot be scored is skipped, the checkpoint's other conditions are not;
- weights that could not be loaded `attempts` times in a row, or that failed `HOPELESS * attempts` units without
  finishing one, are given up with all their units;
- a hub or store that cannot be reached is tried again after a pause, `UNREACHABLE_PAUSES_S` one after the other; then
  the weights are given up that cannot be loaded, or the sweep is stopped that cannot commit;
- preemption counts against nothing, also where another rank of the gang reports its broken connection first;
- a gang of which a rank fails or dies is stopped: at once after running out of memory and after a death, else when all
  ranks have reported or `RANK_TIMEOUT_S` later;
- nothing is waited for without a deadline (`Deadlines`): a rank that shows no progress is lost with its gang, weights
  that have no place on the cluster are given up;
- a sharded replica that ran out of memory is started again with half as many tokens per pass;
- replicas of many ranks are started first, and nothing overtakes them, so that small ones never starve large ones;
- after an interruption no unit is handed out any more, and only replicas that are scoring one are kept until they end;
- when no event can come any more, every unit is done or skipped, unless the sweep was interrupted.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from psych_ray.errors import FailureKind
from psych_ray.sweep.events import (
    Action,
    Event,
    Interrupted,
    RankDied,
    RankDone,
    RankFailed,
    RankProgress,
    ReplicaWaits,
    Score,
    StartReplica,
    StopReplica,
    StopSweep,
    Tick,
    Warn,
)
from psych_ray.sweep.failure import Failure
from psych_ray.sweep.queues import Queues
from psych_ray.sweep.retries import PERMANENT, Retries
from psych_ray.sweep.stalls import Deadlines, Pace, Watch
from psych_ray.sweep.unit import Unit

RANK_TIMEOUT_S = 10.0
"""How long the other ranks of a gang may take to report after one of them failed."""

_PRECEDENCE = [
    FailureKind.preempted,
    FailureKind.out_of_memory,
    FailureKind.lost,
    FailureKind.unreachable,
    FailureKind.transcript,
    FailureKind.task,
    FailureKind.checkpoint,
    FailureKind.unknown,
]
"""Of the failures that the ranks of a gang report, the cause: the others often report its consequences."""


@dataclass(slots=True)
class _Replica:
    weights: str
    waiting_for: set[int]
    """Ranks that have not reported on what the replica was last asked to do."""
    watch: Watch
    unit: Unit | None = None
    """Being scored and not yet committed."""
    is_loaded: bool = False
    failure: Failure | None = None
    """The cause, of those that ranks reported."""
    failed_ranks: int = 0
    deadline: float | None = None
    """By then all ranks must have reported, or, while paused, the next unit is handed out."""
    is_paused: bool = False

    @property
    def due(self) -> float | None:
        """When a `Tick` is due."""
        times = [self.deadline] if self.deadline is not None else []
        if self.waiting_for and not self.is_paused:
            times.append(self.watch.deadline(self.waiting_for))
        return min(times, default=None)


@dataclass(slots=True)
class Scheduler:
    """One replica per weights, as many at a time as there are slots for their ranks.

    Those of the most ranks come first, of them the most expensive. Weights are a checkpoint, or a base and all its
    adapters, by the base's slug.
    """

    slots: int
    _retries: Retries
    _queues: Queues
    _deadlines: Deadlines
    _ranks: Mapping[str, int]
    _sharded: Set[str]
    _cost: Mapping[str, float]
    _waiting: list[str] = field(default_factory=list)
    """In the order in which they are loaded."""
    _paused: dict[str, float] = field(default_factory=dict)
    """Weights that are not loaded before this time."""
    _replicas: dict[int, _Replica] = field(default_factory=dict)
    _started: int = 0
    _pace: Pace = field(default_factory=Pace)
    _now: float = 0.0
    """Time of the event that is being handled."""
    _is_interrupted: bool = False

    @classmethod
    def plan(
        cls,
        units: Iterable[Unit],
        *,
        slots: int,
        attempts: int,
        cost: Mapping[str, float],
        weights_of: Mapping[str, str] | None = None,
        ranks: Mapping[str, int] | None = None,
        sharded: Iterable[str] = (),
        deadlines: Deadlines | None = None,
    ) -> Scheduler:
        """Prepare for these units.

        `cost` by weights, in any one measure, decides the order. `weights_of`: the weights that an adapter needs; a
        checkpoint that is not in it is its own weights. `ranks`: the slots that a replica of these weights takes, one
        where it has no entry. `sharded`: weights whose engine shards them, and so cannot reduce a pass by itself; those
        of several ranks always do.
        """
        assert slots >= max(1, *(ranks or {}).values(), 1)
        assert attempts >= 1
        ranks = ranks or {}
        several = {weights for weights, n_ranks in ranks.items() if n_ranks > 1}
        retries = Retries(attempts)
        queues = Queues(retries)
        for unit in units:
            queues.add((weights_of or {}).get(unit.checkpoint, unit.checkpoint), unit)
        scheduler = cls(slots, retries, queues, deadlines or Deadlines(), ranks, several | set(sharded), cost)
        for weights in scheduler._queues:
            scheduler._wait(weights)
        return scheduler

    @property
    def finished(self) -> bool:
        """No unit is left, or none is handed out any more, and no replica lives."""
        return not self._replicas and (self._is_interrupted or not (self._waiting or self._paused))

    @property
    def deadline(self) -> float | None:
        """Time at which a `Tick` is due, None where nothing depends on time."""
        times = [due for replica in self._replicas.values() if (due := replica.due) is not None]
        return min([*times, *self._paused.values()], default=None)

    def begin(self, now: float = 0.0) -> list[Action]:
        """Return the first actions, at time `now`, seconds."""
        self._now = now
        return self._fill_slots()

    def handle(self, event: Event, now: float) -> list[Action]:
        """Return what follows from an event at time `now`, seconds. Events of replicas that are gone are ignored."""
        self._now = now
        if isinstance(event, Tick):
            return self._tick(now)
        if isinstance(event, Interrupted):
            return self._interrupt()
        replica = self._replicas.get(event.replica)
        if replica is None:
            return []
        if isinstance(event, ReplicaWaits):
            replica.watch.waits_for = event.reason
            return []
        replica.watch.answered(self._deadlines.load_seconds, now)
        match event:
            case RankProgress(rank=rank, work=work):
                replica.watch.progress(rank, work, now)
                return []
            case RankDone(rank=rank):
                return self._rank_done(event.replica, replica, rank, now)
            case RankFailed(rank=rank, failure=failure):
                return self._rank_failed(event.replica, replica, rank, failure, now)
            case RankDied(rank=rank, failure=failure):
                return self._lose(event.replica, self._cause(replica, failure, rank), now)

    def _tick(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for number, replica in list(self._replicas.items()):
            if replica.due is None or replica.due > now:
                continue
            if replica.is_paused:
                actions += self._next(number)
            elif not replica.watch.is_placed:
                actions += self._give_up_unplaced(number, replica)
            else:
                actions += self._lose(number, replica.failure or self._stall(replica), now)
        for weights in [weights for weights, until in self._paused.items() if until <= now]:
            del self._paused[weights]
            self._wait(weights)
        return actions + self._fill_slots()

    def _interrupt(self) -> list[Action]:
        self._is_interrupted = True
        idle = [number for number, replica in self._replicas.items() if replica.unit is None]
        for number in idle:
            del self._replicas[number]
        return [StopReplica(number) for number in idle]

    def _rank_done(self, number: int, replica: _Replica, rank: int, now: float) -> list[Action]:
        replica.waiting_for.discard(rank)
        if rank == 0 and replica.unit is not None:
            self._retries.committed(replica.weights, replica.unit)
            self._pace.committed(replica.weights, replica.unit, now - replica.watch.began)
            replica.unit = None
        return self._when_all_reported(number, replica, now)

    def _rank_failed(self, number: int, replica: _Replica, rank: int, failure: Failure, now: float) -> list[Action]:
        if failure.kind == FailureKind.sweep:
            return [StopSweep(failure.reason)]
        replica.waiting_for.discard(rank)
        replica.failed_ranks += 1
        replica.failure = self._cause(replica, failure, rank)
        if failure.kind == FailureKind.out_of_memory and replica.weights in self._sharded:
            return self._lose(number, replica.failure, now)
        return self._when_all_reported(number, replica, now)

    def _stall(self, replica: _Replica) -> Failure:
        """What is said of the rank that shows no progress."""
        reason = f"it made no progress for {replica.watch.seconds:g} s"
        return self._cause(replica, Failure(FailureKind.lost, reason), replica.watch.slowest(replica.waiting_for))

    def _cause(self, replica: _Replica, failure: Failure, rank: int) -> Failure:
        """Of what the ranks of a replica reported so far and this failure, the cause."""
        if self._n_ranks(replica.weights) > 1 and failure.kind not in PERMANENT:
            failure = Failure(failure.kind, f"rank {rank}: {failure.reason}", failure.transcript_id)
        known = [failure] if replica.failure is None else [replica.failure, failure]
        return min(known, key=lambda one: _PRECEDENCE.index(one.kind))

    def _when_all_reported(self, number: int, replica: _Replica, now: float) -> list[Action]:
        if replica.waiting_for:
            if replica.failure is not None and replica.deadline is None:
                replica.deadline = now + RANK_TIMEOUT_S
            return []
        if replica.failure is None:
            if not replica.is_loaded:
                self._retries.loaded(replica.weights)
                replica.is_loaded = True
            return self._next(number)
        n_ranks = self._n_ranks(replica.weights)
        may_differ = replica.failed_ranks < n_ranks or (n_ranks > 1 and replica.failure.kind not in PERMANENT)
        if not replica.is_loaded or may_differ:
            return self._lose(number, replica.failure, now)
        pause = self._retries.pause(replica.weights, replica.failure, is_loaded=True)
        reason = f"{replica.weights}: {replica.failure.reason}"
        actions = [Warn(f"{reason}{_after(pause)}"), *self._judge_unit(replica, replica.failure, pause)]
        if pause is None or self._is_interrupted:
            return actions + self._next(number)
        replica.deadline, replica.is_paused = now + pause, True
        return actions

    def _next(self, number: int) -> list[Action]:
        """Hand the replica its next unit, or stop it."""
        replica = self._replicas[number]
        replica.failure, replica.failed_ranks, replica.deadline, replica.is_paused = None, 0, None, False
        if self._queues.has(replica.weights) and not self._is_interrupted:
            replica.unit = self._queues.take(replica.weights)
            replica.waiting_for = set(range(self._n_ranks(replica.weights)))
            stall_seconds = self._deadlines.stall_seconds
            replica.watch.begin(self._pace.stall_seconds(replica.weights, replica.unit, stall_seconds), self._now)
            return [Score(number, replica.unit)]
        del self._replicas[number]
        return [StopReplica(number), *self._fill_slots()]

    def _lose(self, number: int, failure: Failure, now: float) -> list[Action]:
        """End a replica, all its ranks, and decide what becomes of its unit and its weights."""
        replica = self._replicas.pop(number)
        weights = replica.weights
        reason = f"replica of {weights} ended while {'scoring' if replica.is_loaded else 'loading'}: {failure.reason}"
        pause = self._retries.pause(weights, failure, is_loaded=replica.is_loaded)
        actions: list[Action] = [StopReplica(number)]
        if replica.is_loaded:
            actions += self._judge_unit(replica, Failure(failure.kind, reason, failure.transcript_id), pause)
        elif self._retries.load_failed(weights, failure, pause):
            actions += self._queues.give_up(weights, failure.reason)
        follows = _after(pause)
        has_units = self._queues.has(weights)
        if has_units and failure.kind == FailureKind.out_of_memory and weights in self._sharded:
            follows = f"; its next gang reads {self._retries.halve_pass(weights):.2g} of the tokens per pass"
        if has_units and pause is not None:
            self._paused[weights] = now + pause
        elif has_units:
            self._wait(weights)
        warning = Warn(f"{reason}{follows}", is_failure=failure.kind != FailureKind.preempted)
        return [warning, *actions, *self._fill_slots()]

    def _judge_unit(self, replica: _Replica, failure: Failure, pause: float | None) -> list[Action]:
        """Decide what becomes of the unit that a replica failed to score; nothing where it was committed."""
        unit, replica.unit = replica.unit, None
        return [] if unit is None else self._queues.failed(replica.weights, unit, failure, pause)

    def _give_up_unplaced(self, number: int, replica: _Replica) -> list[Action]:
        del self._replicas[number]
        reason = f"it had no place on the cluster for {replica.watch.seconds:g} s: {replica.watch.waits_for}"
        warning = Warn(f"replica of {replica.weights} given up: {reason}")
        return [warning, StopReplica(number), *self._queues.give_up(replica.weights, reason), *self._fill_slots()]

    def _fill_slots(self) -> list[Action]:
        actions: list[Action] = []
        free = self.slots - sum(self._n_ranks(replica.weights) for replica in self._replicas.values())
        while not self._is_interrupted and self._waiting and self._n_ranks(self._waiting[0]) <= free:
            weights = self._waiting.pop(0)
            n_ranks = self._n_ranks(weights)
            free -= n_ranks
            self._started += 1
            watch = Watch(self._deadlines.place_seconds, self._now)
            self._replicas[self._started] = _Replica(weights, set(range(n_ranks)), watch)
            actions.append(StartReplica(self._started, weights, self._retries.pass_share(weights)))
        return actions

    def _wait(self, weights: str) -> None:
        """Put weights among those that wait to be loaded: of the most ranks first, of them the most expensive."""
        insort(self._waiting, weights, key=lambda one: (-self._n_ranks(one), -self._cost.get(one, 0.0)))

    def _n_ranks(self, weights: str) -> int:
        return self._ranks.get(weights, 1)


def _after(pause: float | None) -> str:
    return "" if pause is None else f"; tried again in {pause:g} s"
