"""Carries out what the scheduler decides, on Ray: starts replicas, hands them units, reports what happens as events.

Decides nothing itself, and never sees a response. Every wait has a time-out, so that time itself is an event.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from psych_ray.cluster.commits import Commits, Table
from psych_ray.cluster.gang import Gang, resources
from psych_ray.compat.ray import was_preempted
from psych_ray.ending import Ending
from psych_ray.errors import ClusterLostError, FailureKind, PsychRayError, ResultsError, first_line
from psych_ray.sweep.cluster_shape import Slots
from psych_ray.sweep.events import (
    Action,
    Cut,
    Event,
    Fetch,
    Interrupted,
    NodeEvent,
    NodeLost,
    RankDied,
    RankDone,
    RankFailed,
    RankProgress,
    ReplicaPlaced,
    ReplicaWaits,
    Score,
    Skip,
    StartReplica,
    StopReplica,
    StopSweep,
    Tick,
    Warn,
)
from psych_ray.sweep.failure import Failure, failure_of
from psych_ray.sweep.scheduler import Scheduler
from psych_ray.sweep.unit import Unit, UnitReport
from psych_ray.tracking import events
from psych_ray.tracking.events import Tracker
from psych_ray.worker.spec import LoadReport, ReplicaSpec

POLL_S = 1.0
"""Longest wait for an outcome; then the scheduler gets a `Tick`, and an interruption is noticed."""
ASK_S = 5.0
"""How often ranks are asked for their progress."""
SUSPENDED_S = 60.0
"""A longer pause between two looks at the clock was not one of the ranks: this process was stopped, and saw nothing."""


class Nodes(Protocol):
    """Tells of the nodes of the cluster."""

    def events(self) -> list[NodeEvent]:
        """What happened since the last call; at the first, every node has joined."""

    def is_alive(self, node: str) -> bool | None:
        """Whether a node is alive; None where that cannot be told."""

    def notes(self) -> list[str]:
        """Lines for the user since the last call."""


class Fetches(Protocol):
    """Brings weights to the disks of nodes."""

    def fetch(self, node: str, weights: str) -> None:
        """Begin to; returns at once."""

    def events(self) -> list[NodeEvent]:
        """What lies on disks since the last call."""


def drive(
    scheduler: Scheduler,
    specs: Mapping[str, ReplicaSpec],
    slots: Slots,
    table: Table,
    tracker: Tracker,
    nodes: Nodes,
    *,
    fetches: Fetches | None = None,
    across_nodes: bool = False,
    ending: Ending | None = None,
    check: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Carry out the scheduler's actions until all units are done or skipped; a line for each that was skipped.

    `specs` by the slug of the weights; `table` is what parts are committed to; without `fetches`, weights are loaded
    from where they lie. Needs a Ray session, of which `check`
    raises ClusterLostError once it no longer answers. Raises ResultsError when nothing can be committed any more, and
    KeyboardInterrupt after an interruption: units in flight may be finished for as long as `ending` allows.
    """
    commits = Commits(table, tracker, clock)
    ending = ending or Ending()
    driver = _Driver(
        scheduler, specs, slots, commits, tracker, nodes, fetches, across_nodes, ending, check, clock, sleep
    )
    with driver.ending.patiently():
        return driver.run()


@dataclass(slots=True, frozen=True, eq=False)
class _Call:
    """What one rank was asked to do; without a unit, to load."""

    replica: int
    rank: int
    unit: Unit | None


@dataclass(slots=True)
class _Driver:
    scheduler: Scheduler
    specs: Mapping[str, ReplicaSpec]
    slots: Slots
    commits: Commits
    tracker: Tracker
    nodes: Nodes
    fetches: Fetches | None
    across_nodes: bool
    ending: Ending
    check: Callable[[], None]
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    skipped: list[str] = field(default_factory=list)
    gangs: dict[int, Gang] = field(default_factory=dict)
    weights: dict[int, str] = field(default_factory=dict)
    """Held by each replica that was ever started."""
    calls: dict[Any, _Call] = field(default_factory=dict)
    """By the reference to the outcome."""
    asked: dict[Any, tuple[int, int]] = field(default_factory=dict)
    """Replica and rank that were asked for their progress, by the reference to the answer."""
    places: dict[int, dict[int, str]] = field(default_factory=dict)
    """Nodes of the ranks of a replica that have answered."""
    scoring: dict[int, Unit] = field(default_factory=dict)
    """The unit that a replica was given last."""
    asks_at: float = 0.0
    looked_at: float | None = None
    suspended: float = 0.0
    is_interrupted: bool = False

    def run(self) -> list[str]:
        try:
            self._carry_out(self.scheduler.begin(self._now()))
            self._handle(self.nodes.events())
            while not self.scheduler.finished or self.commits.deadline is not None:
                self._handle(self._wait())
                self.commits.carry_out(last=self.scheduler.finished)
                self.check()
                self._obey(self.ending)
        except ClusterLostError:
            self.gangs.clear()  # they cannot be ended through Ray, and end when they notice
            raise
        finally:
            for replica in list(self.gangs):
                self._stop(replica)
            with suppress(PsychRayError):  # what is not committed now is by the next sweep
                self.commits.carry_out(last=True)
        if self.ending.is_asked:
            self.ending.interrupt()
        return self.skipped

    def _handle(self, happened: Iterable[Event]) -> None:
        for event in happened:
            self._carry_out(self.scheduler.handle(event, self._now()))

    def _obey(self, ending: Ending) -> None:
        """After the first request to end, hand out no more units; KeyboardInterrupt when the time for them is over."""
        if not ending.is_asked:
            return
        if not self.is_interrupted:
            self.is_interrupted = True
            self._carry_out(self.scheduler.handle(Interrupted(ending.seconds_left), self._now()))
            n = len({call.replica for call in self.calls.values()})
            if n:
                again = "interrupt again to stop at once"
                line = f"interrupted; finishing {n} unit{'s' * (n > 1)}, at most {ending.seconds_left:.0f} s; {again}"
                self.tracker.handle(events.Noted(line))
        if ending.seconds_left <= 0:
            ending.interrupt()

    def _now(self) -> float:
        """Time, less what passed while this process was suspended."""
        now = self.clock()
        if self.looked_at is not None and now - self.looked_at > SUSPENDED_S:
            self.suspended += now - self.looked_at
        self.looked_at = now
        return now - self.suspended

    def _wait(self) -> list[Event]:
        """Wait for an outcome, the scheduler's deadline or `POLL_S`."""
        waits = self._ask_for_progress()
        deadline = self.scheduler.deadline
        times = [time for time in (deadline, self.commits.deadline) if time is not None]
        seconds = max(0.0, min([POLL_S, *(time - self._now() for time in times)]))
        done: Sequence[Any] = ()
        if self.calls:
            done, _ = ray.wait(list(self.calls), num_returns=1, timeout=seconds)
        else:
            self.sleep(seconds)
        is_due = deadline is not None and self._now() >= deadline
        outcomes = [event for reference in done for event in self._outcome(reference, self.calls.pop(reference))]
        ticks = [Tick()] if is_due or not outcomes else []
        return [*self._of_nodes(), *outcomes, *waits, *self._answers(), *ticks]

    def _of_nodes(self) -> list[NodeEvent]:
        for note in self.nodes.notes():
            self.tracker.handle(events.Noted(note))
        return [*self.nodes.events(), *(self.fetches.events() if self.fetches else ())]

    def _ask_for_progress(self) -> list[Event]:
        """Ask every rank that has answered the last time; an event for each replica of which none has answered yet."""
        now = self._now()
        if now < self.asks_at:
            return []
        self.asks_at = now + ASK_S
        silent = set(self.asked.values())
        for replica, gang in self.gangs.items():
            for rank in range(len(gang.actors)):
                if (replica, rank) not in silent:
                    self.asked[gang.progress(rank)] = (replica, rank)
        unplaced = [replica for replica in self.gangs if replica not in self.places]
        free = resources(ray.available_resources()) if unplaced else ""
        return [ReplicaWaits(replica, f"{self.gangs[replica].asks_for}; free are {free}") for replica in unplaced]

    def _answers(self) -> list[Event]:
        """Progress that ranks have reported since the last time."""
        if not self.asked:
            return []
        done, _ = ray.wait(list(self.asked), num_returns=len(self.asked), timeout=0)
        answers: list[Event] = []
        for reference in done:
            replica, rank = self.asked.pop(reference)
            try:
                work, node = ray.get(reference)
            except RayError:
                continue  # what it was asked to do reports its death
            answers += [RankProgress(replica, rank, work), *self._placed(replica, rank, node)]
        return answers

    def _placed(self, replica: int, rank: int, node: str) -> list[Event]:
        """Note where a rank is; an event when all ranks of the replica have told."""
        places = self.places.setdefault(replica, {})
        if rank in places:
            return []
        places[rank] = node
        n_ranks = len(self.gangs[replica].actors)
        return [ReplicaPlaced(replica, tuple(places[r] for r in range(n_ranks)))] if len(places) == n_ranks else []

    def _outcome(self, reference: Any, call: _Call) -> list[Event]:
        try:
            outcome = ray.get(reference)
        except RayError as error:
            return self._death(call, failure_of_death(error))
        if isinstance(outcome, Failure):
            return [RankFailed(call.replica, outcome, call.rank)]
        if call.rank == 0:
            self._report(self.weights[call.replica], outcome)
        left = outcome.left if isinstance(outcome, UnitReport) else frozenset[str]()
        return [RankDone(call.replica, call.rank, left)]

    def _death(self, call: _Call, failure: Failure) -> list[Event]:
        """The process of a rank is gone, perhaps with its node, of which the cluster may tell only later."""
        node = self.places.get(call.replica, {}).get(call.rank)
        is_lost = node is not None and failure.kind == FailureKind.lost and self.nodes.is_alive(node) is False
        lost = [NodeLost(node)] if node is not None and is_lost else []
        return [*lost, RankDied(call.replica, failure, call.rank)]

    def _report(self, weights: str, outcome: UnitReport | LoadReport) -> None:
        if isinstance(outcome, UnitReport):
            self.commits.add(outcome)
        else:
            for checkpoint in self.specs[weights].checkpoints:
                self.tracker.handle(events.CheckpointLoaded(checkpoint.slug, outcome.seconds))
        for note in outcome.notes:
            self.tracker.handle(events.Noted(note))

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case StartReplica():
                    self._start(action)
                case Score(replica=replica, unit=unit):
                    self.scoring[replica] = unit
                    self._call(replica, unit, self.gangs[replica].score(unit))
                    self.tracker.handle(events.UnitStarted(unit.checkpoint, unit.condition, unit.id))
                case Cut(replica=replica):
                    self.gangs[replica].cut(self.scoring[replica])
                case Fetch(node=node, weights=weights):
                    if self.fetches is not None:
                        self.fetches.fetch(node, weights)
                case StopReplica(replica=replica):
                    self._stop(replica)
                case Skip(unit=unit, reason=reason):
                    self._skip(unit, reason)
                case Warn(message=message, is_failure=is_failure):
                    self.tracker.handle(events.Failed(message) if is_failure else events.Noted(message))
                case StopSweep(reason=reason):
                    raise ResultsError(reason)

    def _start(self, action: StartReplica) -> None:
        spec = replace(self.specs[action.weights], pass_share=action.pass_share)
        name = f"replica-{action.replica}-{action.weights}"
        gang = Gang(spec, self.slots, name=name, across_nodes=self.across_nodes, nodes=action.nodes)
        self.gangs[action.replica] = gang
        self.weights[action.replica] = action.weights
        self._call(action.replica, None, gang.load())
        for checkpoint in spec.checkpoints:
            self.tracker.handle(events.CheckpointLoading(checkpoint.slug))

    def _call(self, replica: int, unit: Unit | None, references: Sequence[Any]) -> None:
        self.calls |= {reference: _Call(replica, rank, unit) for rank, reference in enumerate(references)}

    def _stop(self, replica: int) -> None:
        """End a replica's processes and forget what they were asked to do."""
        self.calls = {reference: call for reference, call in self.calls.items() if call.replica != replica}
        self.asked = {reference: asked for reference, asked in self.asked.items() if asked[0] != replica}
        self.places.pop(replica, None)
        self.scoring.pop(replica, None)
        self.gangs.pop(replica).kill()

    def _skip(self, unit: Unit, reason: str) -> None:
        self.tracker.handle(events.ResponsesSkipped(unit.checkpoint, unit.condition, unit.n_responses))
        first, n = unit.transcripts[0], len(unit.transcripts)
        what = (
            f"transcript {first.id} of {first.study}" if n == 1 else f"{n} transcripts from {first.id} of {first.study}"
        )
        self.skipped.append(f"{unit.checkpoint}, {unit.condition}: {what}: {reason}")


def failure_of_death(error: RayError) -> Failure:
    """Why a process gave no outcome: an exception outside of the calls that report one, or its end."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        return failure_of(error.cause)
    if was_preempted(error):
        return Failure(FailureKind.preempted, first_line(error))
    kind = FailureKind.out_of_memory if isinstance(error, OutOfMemoryError) else FailureKind.lost
    return Failure(kind, first_line(error))
