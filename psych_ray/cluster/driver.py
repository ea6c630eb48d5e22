"""Carries out what the scheduler decides, on Ray: starts replicas, hands them units, turns what happens into events.

Decides nothing itself, and never sees a response.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayError

from psych_ray.cluster.actor import Failure
from psych_ray.cluster.gang import Gang
from psych_ray.cluster.session import Slots
from psych_ray.errors import ResultsError, first_line
from psych_ray.sweep.scheduler import (
    Action,
    Event,
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
from psych_ray.sweep.unit import Unit, UnitReport
from psych_ray.tracking.base import Tracker
from psych_ray.worker.spec import LoadReport, ReplicaSpec


def drive(
    scheduler: Scheduler,
    specs: Mapping[str, ReplicaSpec],
    slots: Slots,
    tracker: Tracker,
    *,
    across_nodes: bool = False,
) -> list[str]:
    """Carry out the scheduler's actions until all units are done or set aside; a line for each that was set aside.

    `specs` by the slug of the weights. Needs a Ray session. Raises ResultsError when nothing can be committed any more.
    """
    return _Driver(scheduler, dict(specs), slots, tracker, across_nodes).run()


@dataclass(slots=True, eq=False)
class _Call:
    """What all ranks of a replica were asked; without a unit, to load."""

    replica: int
    unit: Unit | None
    references: dict[Any, int]
    """Rank of each reference."""
    outcomes: dict[int, Any] = field(default_factory=dict)
    """By rank."""


@dataclass(slots=True)
class _Driver:
    scheduler: Scheduler
    specs: dict[str, ReplicaSpec]
    slots: Slots
    tracker: Tracker
    across_nodes: bool = False
    failures: list[str] = field(default_factory=list)
    gangs: dict[int, Gang] = field(default_factory=dict)
    weights: dict[int, str] = field(default_factory=dict)
    """What each replica holds."""
    asked: dict[Any, _Call] = field(default_factory=dict)
    """What replicas are at work on, by the references to its outcomes."""

    def run(self) -> list[str]:
        try:
            self._carry_out(self.scheduler.begin())
            while not self.scheduler.finished:
                done, _ = ray.wait(list(self.asked), num_returns=1)
                for reference in done:
                    event = self._event(reference)
                    if event is not None:
                        self._carry_out(self.scheduler.handle(event))
        finally:
            for replica in list(self.gangs):
                self._stop(replica)
        return self.failures

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case StartReplica(replica=replica, weights=weights):
                    self._start(replica, weights)
                case Score(replica=replica, unit=unit):
                    self._ask(replica, unit, self.gangs[replica].score(unit))
                    self.tracker.unit_started(unit.checkpoint, unit.condition, unit.id)
                case StopReplica(replica=replica):
                    self._stop(replica)
                case SetAside(unit=unit, reason=reason):
                    self._set_aside(unit, reason)

    def _start(self, replica: int, weights: str) -> None:
        name = f"replica-{replica}-{weights}"
        gang = Gang(self.specs[weights], self.slots, name=name, across_nodes=self.across_nodes)
        self.gangs[replica] = gang
        self.weights[replica] = weights
        self._ask(replica, None, gang.load())
        for checkpoint in self.specs[weights].checkpoints:
            self.tracker.loading(checkpoint.slug)

    def _ask(self, replica: int, unit: Unit | None, references: Sequence[Any]) -> None:
        call = _Call(replica, unit, {reference: rank for rank, reference in enumerate(references)})
        self.asked |= dict.fromkeys(references, call)

    def _stop(self, replica: int) -> None:
        self.gangs.pop(replica).kill()

    def _event(self, reference: Any) -> Event | None:
        """Say what an outcome means, once that is known: all ranks are heard, or one of them is lost."""
        call = self.asked.pop(reference, None)
        if call is None:  # of a gang that is gone
            return None
        rank = call.references[reference]
        try:
            outcome = ray.get(reference)
        except RayError as error:
            return self._died(call, first_line(error))
        if isinstance(outcome, Failure) and outcome.stops_sweep:
            raise ResultsError(outcome.reason)
        if isinstance(outcome, Failure) and len(call.references) > 1 and not outcome.on_all_ranks:
            if outcome.out_of_memory:
                self._read_less(self.weights[call.replica])
            return self._died(call, f"rank {rank}: {outcome.reason}")
        call.outcomes[rank] = outcome
        if len(call.outcomes) < len(call.references):
            return None
        failures = [found for _, found in sorted(call.outcomes.items()) if isinstance(found, Failure)]
        if failures and len(failures) < len(call.outcomes):
            return self._died(call, f"only some of its ranks failed: {failures[0].reason}")
        return self._failed(call, failures[0]) if failures else self._done(call, call.outcomes[0])

    def _done(self, call: _Call, outcome: Any) -> Event:
        if isinstance(outcome, UnitReport):
            self.tracker.unit_done(outcome)
            self._note(outcome.notes)
            return UnitDone(call.replica)
        assert isinstance(outcome, LoadReport)
        for checkpoint in self.specs[self.weights[call.replica]].checkpoints:
            self.tracker.ready(checkpoint.slug, outcome.seconds)
        self._note(outcome.notes)
        return ReplicaReady(call.replica)

    def _note(self, notes: Iterable[str]) -> None:
        for note in notes:
            self.tracker.note(note)

    def _died(self, call: _Call, reason: str) -> Event:
        """Take a whole gang for dead, whatever its other ranks still do."""
        reason = f"replica of {self.weights[call.replica]} died: {reason}"
        self.tracker.trouble(reason)
        for reference in call.references:
            self.asked.pop(reference, None)
        self._stop(call.replica)
        return ReplicaDied(call.replica, reason)

    def _read_less(self, weights: str) -> None:
        """Let the next gang take half: unlike a replica of one process, one rank cannot go on with less by itself."""
        share = self.specs[weights].pass_share / 2
        self.specs[weights] = replace(self.specs[weights], pass_share=share)
        self.tracker.note(f"{weights}: out of GPU memory; its next gang reads {share:.2g} of the tokens at a time")

    def _failed(self, call: _Call, failure: Failure) -> Event:
        self.tracker.trouble(f"{self.weights[call.replica]}: {failure.reason}")
        if call.unit is None:
            self._stop(call.replica)
            return LoadFailed(call.replica, failure.reason, final=failure.final)
        guilty = frozenset({failure.guilty} if failure.guilty else ())
        return UnitFailed(call.replica, failure.reason, guilty=guilty, final=failure.final)

    def _set_aside(self, unit: Unit, reason: str) -> None:
        self.tracker.set_aside(unit.checkpoint, unit.condition, unit.n_responses)
        first, n = unit.transcripts[0], len(unit.transcripts)
        what = (
            f"transcript {first.id} of {first.study}" if n == 1 else f"{n} transcripts from {first.id} of {first.study}"
        )
        self.failures.append(f"{unit.checkpoint}, {unit.condition}: {what}: {reason}")
