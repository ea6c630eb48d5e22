"""The replicas of a sweep as Ray holds them: starts and ends them, asks them, and tells what they answer as events.

Decides nothing, and commits nothing. An outcome is told once, and never of a replica that was stopped before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from psych_ray.cluster.gang import Gang, resources
from psych_ray.compat.ray import was_preempted
from psych_ray.errors import FailureKind, first_line
from psych_ray.sweep.cluster_shape import Slots
from psych_ray.sweep.events import (
    Event,
    NodeEvent,
    NodeLost,
    RankDied,
    RankDone,
    RankFailed,
    RankProgress,
    ReplicaPlaced,
    ReplicaWaits,
    StartReplica,
)
from psych_ray.sweep.failure import Failure, failure_of
from psych_ray.sweep.unit import Unit, UnitReport
from psych_ray.worker.heartbeat import Heartbeat
from psych_ray.worker.spec import LoadReport, ReplicaSpec

ASK_S = 2.0
"""How often ranks are asked for their progress, at most."""
_ASKED_PER_S = 100.0
"""Of more ranks, each is asked less often."""


class WatchesNodes(Protocol):
    """Tells of the nodes of the cluster."""

    def events(self) -> list[NodeEvent]:
        """What happened since the last call; at the first, every node has joined."""

    def is_alive(self, node: str) -> bool | None:
        """Whether a node is alive; None where that cannot be told."""

    def notes(self) -> list[str]:
        """Lines for the user since the last call."""


@dataclass(slots=True, frozen=True, eq=False)
class _Call:
    """Whom a call is to."""

    replica: int
    rank: int


@dataclass(slots=True)
class Replicas:
    """Replicas by number, from their start until they are stopped."""

    specs: Mapping[str, ReplicaSpec]
    """By the slug of the weights."""
    slots: Slots
    nodes: WatchesNodes
    across_nodes: bool
    report: Callable[[int, ReplicaSpec, UnitReport | LoadReport], None]
    """Called with what rank 0 reports, before its event is told."""
    heartbeats: dict[tuple[int, int], Heartbeat] = field(default_factory=dict)
    """The last of each rank, by replica and rank."""
    _gangs: dict[int, Gang] = field(default_factory=dict)
    _weights: dict[int, str] = field(default_factory=dict)
    _calls: dict[Any, _Call] = field(default_factory=dict)
    """By the reference to the outcome."""
    _asked: dict[Any, tuple[int, int]] = field(default_factory=dict)
    """Replica and rank that were asked for their progress, by the reference to the answer."""
    _places: dict[int, dict[int, str]] = field(default_factory=dict)
    """Nodes of the ranks of a replica that have answered."""
    _units: dict[int, Unit] = field(default_factory=dict)
    """The unit that a replica was given last."""
    _failed: set[int] = field(default_factory=set)
    """Replicas of which a rank failed or died."""
    _spare: list[Gang] = field(default_factory=list)
    """Processes of stopped replicas that the next ones may take over; see `end_spare`."""
    _asks_at: float = 0.0

    @property
    def n_busy(self) -> int:
        """Replicas of which an outcome is awaited."""
        return len({call.replica for call in self._calls.values()})

    @property
    def n_ranks(self) -> int:
        """Ranks of all replicas."""
        return sum(len(gang.actors) for gang in self._gangs.values())

    def nodes_of(self, replica: int) -> Collection[str]:
        """Nodes of its ranks, as far as they are known."""
        return set(self._places.get(replica, {}).values())

    def start(self, action: StartReplica) -> ReplicaSpec:
        """Start the processes of a replica, or take over spare ones, and let them load; what it is made from."""
        spec = replace(self.specs[action.weights], pass_share=action.pass_share)
        gang = self._take_spare(action.nodes) if spec.shares_process else None
        if gang is None:
            name = f"replica-{action.replica}-{action.weights}"
            gang = Gang(spec, self.slots, name=name, across_nodes=self.across_nodes, nodes=action.nodes)
        else:
            gang.renew(spec)
        self._gangs[action.replica], self._weights[action.replica] = gang, action.weights
        self._call(action.replica, gang.load())
        return spec

    def score(self, replica: int, unit: Unit) -> None:
        """Let a replica score a unit."""
        self._units[replica] = unit
        self._call(replica, self._gangs[replica].score(unit))

    def cut(self, replica: int) -> None:
        """Let a replica end its unit early."""
        self._gangs[replica].cut(self._units[replica])

    def stop(self, replica: int) -> None:
        """End a replica's processes and forget what they were asked to do.

        Until `end_spare`, those that are idle, and may hold other weights, can be taken over.
        """
        is_sound = replica not in self._failed and all(call.replica != replica for call in self._calls.values())
        self._failed.discard(replica)
        self._calls = {reference: call for reference, call in self._calls.items() if call.replica != replica}
        self._asked = {reference: asked for reference, asked in self._asked.items() if asked[0] != replica}
        self.heartbeats = {key: beat for key, beat in self.heartbeats.items() if key[0] != replica}
        for held in (self._weights, self._places, self._units):
            held.pop(replica, None)
        gang = self._gangs.pop(replica)
        if gang.shares_process and gang.node is not None and is_sound:
            self._spare.append(gang)
        else:
            gang.kill()

    def end_spare(self) -> None:
        """End the spare processes, whose places Ray could give to none of the replicas that were started since."""
        while self._spare:
            self._spare.pop().kill()

    def _take_spare(self, nodes: Sequence[str]) -> Gang | None:
        for gang in self._spare:
            if not nodes or gang.node == nodes[0]:
                self._spare.remove(gang)
                return gang
        return None

    def stop_all(self) -> None:
        """End all processes."""
        for replica in list(self._gangs):
            self.stop(replica)
        self.end_spare()

    def forget_all(self) -> None:
        """End nothing: the cluster is gone, and they end when they notice."""
        self._gangs.clear()
        self._spare.clear()

    def wait(self, seconds: float, sleep: Callable[[float], None]) -> Iterator[Event]:
        """Wait for an outcome, at most so long; events of all that are known then.

        They are read one by one, as what follows from one may stop the replica of the next.
        """
        if not self._calls:
            sleep(seconds)
            return
        if ray.wait(list(self._calls), num_returns=1, timeout=seconds)[0]:
            done, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
            for reference in done:
                call = self._calls.pop(reference, None)
                if call is not None:
                    yield from self._outcome(reference, call)

    def ask_for_progress(self, now: float) -> list[Event]:
        """Ask every rank that answered the last time, every `ASK_S`; an event for each replica without a place."""
        if now < self._asks_at:
            return []
        self._asks_at = now + max(ASK_S, self.n_ranks / _ASKED_PER_S)
        silent = set(self._asked.values())
        for replica, gang in self._gangs.items():
            for rank in range(len(gang.actors)):
                if (replica, rank) not in silent:
                    self._asked[gang.progress(rank)] = (replica, rank)
        unplaced = [replica for replica in self._gangs if replica not in self._places]
        free = resources(ray.available_resources()) if unplaced else ""
        return [ReplicaWaits(replica, f"{self._gangs[replica].asks_for}; free are {free}") for replica in unplaced]

    def answers(self) -> list[Event]:
        """Progress that ranks have reported since the last time."""
        if not self._asked:
            return []
        done, _ = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)
        answers: list[Event] = []
        for reference in done:
            replica, rank = self._asked.pop(reference)
            try:
                beat: Heartbeat = ray.get(reference)
            except RayError:
                continue  # what it was asked to do reports its death
            self.heartbeats[replica, rank] = beat
            answers += [RankProgress(replica, rank, beat.work), *self._placed(replica, rank, beat.node)]
        return answers

    def _placed(self, replica: int, rank: int, node: str) -> list[Event]:
        """Note where a rank is; an event when all ranks of the replica have told."""
        places = self._places.setdefault(replica, {})
        if rank in places:
            return []
        places[rank] = node
        if rank == 0:
            self._gangs[replica].node = node
        n_ranks = len(self._gangs[replica].actors)
        return [ReplicaPlaced(replica, tuple(places[r] for r in range(n_ranks)))] if len(places) == n_ranks else []

    def _outcome(self, reference: Any, call: _Call) -> list[Event]:
        try:
            outcome = ray.get(reference)
        except RayError as error:
            self._failed.add(call.replica)
            return self._death(call, failure_of_death(error))
        if isinstance(outcome, Failure):
            self._failed.add(call.replica)
            return [RankFailed(call.replica, outcome, call.rank)]
        if call.rank == 0:
            self.report(call.replica, self.specs[self._weights[call.replica]], outcome)
        left = outcome.left if isinstance(outcome, UnitReport) else frozenset[str]()
        return [RankDone(call.replica, call.rank, left)]

    def _death(self, call: _Call, failure: Failure) -> list[Event]:
        """The process of a rank is gone, perhaps with its node, of which the cluster may tell only later."""
        node = self._places.get(call.replica, {}).get(call.rank)
        is_lost = node is not None and failure.kind == FailureKind.lost and self.nodes.is_alive(node) is False
        lost = [NodeLost(node)] if node is not None and is_lost else []
        return [*lost, RankDied(call.replica, failure, call.rank)]

    def _call(self, replica: int, references: Sequence[Any]) -> None:
        self._calls |= {reference: _Call(replica, rank) for rank, reference in enumerate(references)}


def failure_of_death(error: RayError) -> Failure:
    """Why a process gave no outcome: an exception outside of the calls that report one, or its end."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        return failure_of(error.cause)
    if was_preempted(error):
        return Failure(FailureKind.preempted, first_line(error))
    kind = FailureKind.out_of_memory if isinstance(error, OutOfMemoryError) else FailureKind.lost
    return Failure(kind, first_line(error))
