"""Carries out what the scheduler decides, on Ray: starts replicas, hands them units, reports what happens as events.

Decides nothing itself, and never sees a response. Every wait has a time-out, so that time itself is an event.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from psych_ray.cluster.commits import Commits, Table
from psych_ray.cluster.progress import UnitsInProgress
from psych_ray.cluster.replicas import Replicas, WatchesNodes
from psych_ray.ending import Ending
from psych_ray.errors import ClusterLostError, PsychRayError, ResultsError
from psych_ray.sweep.cluster_shape import Slots
from psych_ray.sweep.events import (
    Action,
    Cut,
    Event,
    Fetch,
    Interrupted,
    NodeDraining,
    NodeEvent,
    NodeJoined,
    NodeLost,
    RankDied,
    RankFailed,
    Score,
    Skip,
    StartReplica,
    StopReplica,
    StopSweep,
    Tick,
    Warn,
)
from psych_ray.sweep.scheduler import Scheduler
from psych_ray.sweep.unit import Unit, UnitReport
from psych_ray.tracking import events
from psych_ray.tracking.events import Tracker
from psych_ray.worker.spec import LoadReport, ReplicaSpec

POLL_S = 1.0
"""Longest wait for an outcome; then the scheduler gets a `Tick`, and an interruption is noticed."""
SUSPENDED_S = 60.0
"""A longer pause between two looks at the clock was not one of the ranks: this process was stopped, and saw nothing."""


class Fetches(Protocol):
    """Brings weights to the disks of nodes, and knows what lies there. No call waits."""

    def look(self, node: str) -> None:
        """Find out what lies on the disk of a node."""

    def forget(self, node: str) -> None:
        """Forget a node that is or will be lost."""

    def fetch(self, node: str, weights: str) -> None:
        """Bring weights to the disk of a node."""

    def events(self) -> Sequence[NodeEvent]:
        """What has changed on the disks since the last call."""


def drive(
    scheduler: Scheduler,
    specs: Mapping[str, ReplicaSpec],
    slots: Slots,
    table: Table,
    tracker: Tracker,
    nodes: WatchesNodes,
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
    from where they lie. Needs a Ray session, of which `check` raises ClusterLostError once it no longer answers. Raises
    ResultsError when nothing can be committed any more, and KeyboardInterrupt after an interruption: units in flight
    may be finished for as long as `ending` allows.
    """
    commits = Commits(table, tracker, clock)
    ending = ending or Ending()
    replicas = Replicas(specs, slots, nodes, across_nodes, lambda *reported: driver.report(*reported))
    in_progress = UnitsInProgress(tracker)
    driver = _Driver(scheduler, replicas, commits, in_progress, tracker, nodes, fetches, ending, check, clock, sleep)
    with driver.ending.patiently():
        return driver.run()


@dataclass(slots=True)
class _Driver:
    scheduler: Scheduler
    replicas: Replicas
    commits: Commits
    in_progress: UnitsInProgress
    tracker: Tracker
    nodes: WatchesNodes
    fetches: Fetches | None
    ending: Ending
    check: Callable[[], None]
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    skipped: list[str] = field(default_factory=list)
    looked_at: float | None = None
    suspended: float = 0.0
    is_interrupted: bool = False

    def run(self) -> list[str]:
        try:
            self._begin(self.nodes.events())
            while not self.scheduler.finished or self.commits.deadline is not None:
                self._handle(self._wait())
                self.commits.carry_out(last=self.scheduler.finished)
                self.check()
                self._obey(self.ending)
        except ClusterLostError:
            self.replicas.forget_all()
            raise
        finally:
            self.replicas.stop_all()
            with suppress(PsychRayError):  # what is not committed now is by the next sweep
                self.commits.carry_out(last=True)
        if self.ending.is_asked:
            self.ending.interrupt()
        return self.skipped

    def _begin(self, happened: Sequence[NodeEvent]) -> None:
        joined: list[NodeJoined] = []
        for event in happened:
            if not isinstance(event, NodeJoined):
                break
            joined.append(event)
        self._look_at(event.node for event in joined)
        self._carry_out(self.scheduler.begin(self._now(), joined))
        self._handle(happened[len(joined) :])

    def _handle(self, happened: Iterable[Event]) -> None:
        for event in happened:
            if isinstance(event, NodeJoined):
                self._look_at({event.node})
            elif isinstance(event, NodeDraining | NodeLost) and self.fetches is not None:
                self.fetches.forget(event.node)
            elif isinstance(event, RankFailed | RankDied):
                self.in_progress.lost(event.replica)
            self._carry_out(self.scheduler.handle(event, self._now()))

    def _look_at(self, nodes: Iterable[str]) -> None:
        """Find out which weights lie on the disks of these nodes: a replica that loads fetches and removes as well."""
        if self.fetches is not None:
            for node in nodes:
                self.fetches.look(node)

    def _obey(self, ending: Ending) -> None:
        """After the first request to end, hand out no more units; KeyboardInterrupt when the time for them is over."""
        if not ending.is_asked:
            return
        if not self.is_interrupted:
            self.is_interrupted = True
            self._carry_out(self.scheduler.handle(Interrupted(ending.seconds_left), self._now()))
            if n := self.replicas.n_busy:
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

    def _wait(self) -> Iterator[Event]:
        """Wait for an outcome, the scheduler's deadline or `POLL_S`; what happened by then."""
        yield from self.replicas.ask_for_progress(self._now())
        deadline = self.scheduler.deadline
        times = [time for time in (deadline, self.commits.deadline) if time is not None]
        seconds = max(0.0, min([POLL_S, *(time - self._now() for time in times)]))
        n_outcomes = 0
        for event in self.replicas.wait(seconds, self.sleep):
            n_outcomes += 1
            yield event
        is_due = deadline is not None and self._now() >= deadline
        yield from self._of_nodes()
        if answers := self.replicas.answers():
            self.in_progress.tell(self.replicas.heartbeats, ranks=self.replicas.n_ranks)
            yield from answers
        if is_due or not n_outcomes:
            yield Tick()

    def _of_nodes(self) -> list[NodeEvent]:
        for note in self.nodes.notes():
            self.tracker.handle(events.Noted(note))
        return [*self.nodes.events(), *(self.fetches.events() if self.fetches else ())]

    def report(self, replica: int, spec: ReplicaSpec, outcome: UnitReport | LoadReport) -> None:
        """Take what rank 0 of a replica reports."""
        if isinstance(outcome, UnitReport):
            self.in_progress.reported(replica)
            self.commits.add(outcome)
        else:
            self._look_at(self.replicas.nodes_of(replica))
            for checkpoint in spec.checkpoints:
                self.tracker.handle(events.CheckpointLoaded(checkpoint.slug, outcome.seconds))
        for note in outcome.notes:
            self.tracker.handle(events.Noted(note))

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Skip(unit=unit, reason=reason):
                    self._skip(unit, reason)
                case Warn(message=message, is_failure=is_failure):
                    self.tracker.handle(events.Failed(message) if is_failure else events.Noted(message))
                case StopSweep(reason=reason):
                    raise ResultsError(reason)
                case _:
                    self._ask_replica(action)
        self.replicas.end_spare()

    def _ask_replica(self, action: StartReplica | Score | Cut | Fetch | StopReplica) -> None:
        match action:
            case StartReplica():
                for checkpoint in self.replicas.start(action).checkpoints:
                    self.tracker.handle(events.CheckpointLoading(checkpoint.slug))
            case Score(replica=replica, unit=unit):
                self.replicas.score(replica, unit)
                self.in_progress.given(replica, unit)
            case Cut(replica=replica):
                self.replicas.cut(replica)
            case StopReplica(replica=replica):
                self.in_progress.lost(replica)
                self.replicas.stop(replica)
            case Fetch(node=node, weights=weights):
                if self.fetches is not None:
                    self.fetches.fetch(node, weights)

    def _skip(self, unit: Unit, reason: str) -> None:
        self.tracker.handle(events.ResponsesSkipped(unit.checkpoint, unit.condition, unit.n_responses))
        first, n = unit.transcripts[0], len(unit.transcripts)
        what = (
            f"transcript {first.id} of {first.study}" if n == 1 else f"{n} transcripts from {first.id} of {first.study}"
        )
        self.skipped.append(f"{unit.checkpoint}, {unit.condition}: {what}: {reason}")
