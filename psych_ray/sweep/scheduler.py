"""Decides what runs next. Pure logic: events in, actions out; no clock, no thread, no Ray.

Whoever drives it (the Ray driver, a test, a simulator) tells it every event in the order in which it happened and
carries out every action that comes back. It holds these promises, whatever the order of events:

- a unit is with at most one replica, and is given out again only after the replica has failed it or died;
- a unit that failed `attempts` times is split in two; one transcript alone is set aside, with the reason; transcripts
  that are known to be at fault are set aside at once, and the rest of their unit goes on;
- a checkpoint that cannot be scored under a condition at all is set aside under that condition;
- weights whose replica could not load `attempts` times running, or that failed `HOPELESS * attempts` units without
  finishing one, are given up with all their units;
- replicas of many ranks are started first, and nobody overtakes them, so that small ones never starve large ones;
- when no event can come any more, every unit is done or set aside.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from psych_ray.sweep.unit import Unit

HOPELESS = 5


@dataclass(frozen=True, slots=True)
class ReplicaReady:
    """A replica has loaded its checkpoint."""

    replica: int


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """A replica could not load its checkpoint; it is gone. `final`: another try would end the same."""

    replica: int
    reason: str
    final: bool = False


@dataclass(frozen=True, slots=True)
class UnitDone:
    """A replica has committed its unit."""

    replica: int


@dataclass(frozen=True, slots=True)
class UnitFailed:
    """A replica could not score its unit, and lives."""

    replica: int
    reason: str
    guilty: frozenset[str] = frozenset()
    """Ids of the transcripts that are known to be at fault."""
    final: bool = False
    """No unit of this checkpoint and condition can be scored."""


@dataclass(frozen=True, slots=True)
class ReplicaDied:
    """A replica is gone, loading or scoring."""

    replica: int
    reason: str


Event = ReplicaReady | LoadFailed | UnitDone | UnitFailed | ReplicaDied


@dataclass(frozen=True, slots=True)
class StartReplica:
    """Load these weights somewhere, and all that is put on top of them."""

    replica: int
    weights: str


@dataclass(frozen=True, slots=True)
class Score:
    """Let the replica score this unit."""

    replica: int
    unit: Unit


@dataclass(frozen=True, slots=True)
class StopReplica:
    """Nothing is left for this replica; free what it holds."""

    replica: int


@dataclass(frozen=True, slots=True)
class SetAside:
    """This unit cannot be scored."""

    unit: Unit
    reason: str


Action = StartReplica | Score | StopReplica | SetAside


@dataclass(slots=True)
class _Replica:
    weights: str
    unit: Unit | None = None


@dataclass(slots=True)
class Scheduler:
    """One replica for the same weights, as many at a time as there are slots for their ranks.

    Those of the most ranks come first, of them the most expensive. Weights are a checkpoint, or a base and all its
    adapters.
    """

    slots: int
    attempts: int
    _weights_of: Mapping[str, str] = field(default_factory=dict)
    _ranks: Mapping[str, int] = field(default_factory=dict)
    _queues: dict[str, deque[Unit]] = field(default_factory=dict)
    _waiting: deque[str] = field(default_factory=deque)
    _replicas: dict[int, _Replica] = field(default_factory=dict)
    _failed: Counter[Unit] = field(default_factory=Counter)
    _failed_loads: Counter[str] = field(default_factory=Counter)
    _failed_in_a_row: Counter[str] = field(default_factory=Counter)
    _started: int = 0

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
    ) -> Scheduler:
        """Prepare for these units.

        `cost` by weights, in any one measure, decides who goes first. `weights_of` names the weights that an adapter
        needs; a checkpoint that is not in it is its own weights. `ranks`: the slots that a replica of these weights
        takes, one where it does not say.
        """
        assert slots >= max(1, *(ranks or {}).values(), 1)
        assert attempts >= 1
        scheduler = cls(slots, attempts, weights_of or {}, ranks or {})
        for unit in units:
            scheduler._queues.setdefault(scheduler._weights(unit), deque()).append(unit)
        scheduler._waiting.extend(
            sorted(scheduler._queues, key=lambda weights: (-scheduler._size(weights), -cost.get(weights, 0.0)))
        )
        return scheduler

    @property
    def finished(self) -> bool:
        """No unit is left and no replica lives."""
        return not self._waiting and not self._replicas

    def begin(self) -> list[Action]:
        """Return the first actions."""
        return self._fill_slots()

    def handle(self, event: Event) -> list[Action]:
        """Return what follows from an event. Events of replicas that are gone are passed over."""
        replica = self._replicas.get(event.replica)
        if replica is None:
            return []
        match event:
            case ReplicaReady():
                self._failed_loads[replica.weights] = 0
                return self._next(event.replica)
            case UnitDone():
                assert replica.unit is not None
                del self._failed[replica.unit]
                self._failed_in_a_row[replica.weights] = 0
                replica.unit = None
                return self._next(event.replica)
            case UnitFailed():
                return self._judge(replica, event) + self._next(event.replica)
            case LoadFailed(reason=reason, final=final):
                return self._lose(event.replica, reason, give_up=final)
            case ReplicaDied(reason=reason):
                return self._lose(event.replica, reason, give_up=False)

    def _next(self, number: int) -> list[Action]:
        replica = self._replicas[number]
        queue = self._queues[replica.weights]
        if queue:
            replica.unit = queue.popleft()
            return [Score(number, replica.unit)]
        del self._replicas[number]
        return [StopReplica(number), *self._fill_slots()]

    def _lose(self, number: int, reason: str, *, give_up: bool) -> list[Action]:
        replica = self._replicas.pop(number)
        actions: list[Action] = []
        if replica.unit is None:
            self._failed_loads[replica.weights] += 1
            give_up = give_up or self._failed_loads[replica.weights] >= self.attempts
        else:
            actions += self._fail_unit(replica, reason)
        if give_up:
            actions += self._give_up(replica.weights, reason)
        if self._queues[replica.weights]:
            self._waiting.appendleft(replica.weights)
        return actions + self._fill_slots()

    def _judge(self, replica: _Replica, event: UnitFailed) -> list[Action]:
        unit = replica.unit
        assert unit is not None
        guilty = unit.only(event.guilty)
        if event.final:
            replica.unit = None
            lane = [u for u in self._queues[replica.weights] if u.task == unit.task]
            self._queues[replica.weights] = deque(u for u in self._queues[replica.weights] if u.task != unit.task)
            return [SetAside(u, event.reason) for u in (unit, *lane)]
        if guilty is None:
            return self._fail_unit(replica, event.reason)
        replica.unit = None
        rest = unit.only({t.id for t in unit.transcripts} - event.guilty)
        if rest is not None:
            self._queues[replica.weights].appendleft(rest)
        return [SetAside(guilty, event.reason)]

    def _fail_unit(self, replica: _Replica, reason: str) -> list[Action]:
        unit, replica.unit = replica.unit, None
        assert unit is not None
        self._failed[unit] += 1
        self._failed_in_a_row[replica.weights] += 1
        queue = self._queues[replica.weights]
        actions: list[Action] = []
        if self._failed[unit] < self.attempts:
            queue.append(unit)
        else:
            del self._failed[unit]
            if len(unit.transcripts) == 1:
                actions.append(SetAside(unit, reason))
            else:
                queue.extend(unit.halves())
        if self._failed_in_a_row[replica.weights] >= HOPELESS * self.attempts:
            actions += self._give_up(replica.weights, reason)
        return actions

    def _give_up(self, weights: str, reason: str) -> list[Action]:
        queue = self._queues[weights]
        actions: list[Action] = [SetAside(unit, reason) for unit in queue]
        queue.clear()
        return actions

    def _fill_slots(self) -> list[Action]:
        actions: list[Action] = []
        free = self.slots - sum(self._size(replica.weights) for replica in self._replicas.values())
        while self._waiting and self._size(self._waiting[0]) <= free:
            weights = self._waiting.popleft()
            free -= self._size(weights)
            self._started += 1
            self._replicas[self._started] = _Replica(weights)
            actions.append(StartReplica(self._started, weights))
        return actions

    def _size(self, weights: str) -> int:
        return self._ranks.get(weights, 1)

    def _weights(self, unit: Unit) -> str:
        return self._weights_of.get(unit.checkpoint, unit.checkpoint)
