"""Carries out what the scheduler decides, on Ray: starts replicas, hands them units, turns what happens into events.

Decides nothing itself, and never sees a response.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from psych_ray.cluster.actor import Failure, ReplicaActor
from psych_ray.cluster.replica import ReplicaSpec
from psych_ray.cluster.session import Slots, divide, ray_session
from psych_ray.config import Config
from psych_ray.errors import ResultsError
from psych_ray.scoring.checkpoints import Checkpoint, load_group
from psych_ray.sweep.prepare import Prepared, checkpoint_facts
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


def run_sweep(prepared: Prepared, config: Config, tracker: Tracker) -> list[str]:
    """Score all that is missing; a line for everything that was set aside.

    Raises ResultsError when nothing can be committed any more. KeyboardInterrupt passes through; what is committed by
    then stays.
    """
    units = _side_by_side(prepared)
    if not units:
        return []
    weights_of = {slug: load_group(checkpoint) for slug, checkpoint in prepared.checkpoints.items()}
    cost: dict[str, float] = defaultdict(float)
    for lane in prepared.lanes:
        cost[weights_of[lane.checkpoint]] += prepared.device.seconds(lane.n_characters_missing, lane.n_parameters)
    with ray_session(config.cluster):
        slots = divide(config.cluster, len({weights_of[unit.checkpoint] for unit in units}))
        scheduler = Scheduler.plan(
            units, slots=slots.replicas, attempts=config.cluster.attempts, cost=cost, weights_of=weights_of
        )
        return _Driver(scheduler, replica_specs(prepared, config, slots), slots, tracker).run()


def _side_by_side(prepared: Prepared) -> list[Unit]:
    """All missing units, those of the same transcripts under different conditions next to each other.

    A transcript that reads the same under two conditions is then scored once: the replica still knows the answer.
    """
    numbered = [(number, unit) for lane in prepared.lanes for number, unit in enumerate(lane.missing)]
    return [unit for _, unit in sorted(numbered, key=lambda pair: pair[0])]


def replica_specs(prepared: Prepared, config: Config, slots: Slots) -> dict[str, ReplicaSpec]:
    """What each set of weights needs to know to be a replica, by the slug of the weights."""
    groups: dict[str, list[Checkpoint]] = {}
    for checkpoint in prepared.checkpoints.values():
        groups.setdefault(load_group(checkpoint), []).append(checkpoint)
    return {
        weights: ReplicaSpec(
            checkpoints=tuple(checkpoints),
            facts={checkpoint.slug: checkpoint_facts(checkpoint) for checkpoint in checkpoints},
            identity=prepared.scoring,
            scoring=config.scoring,
            results_root=str(prepared.root.path),
            allow_pickle=config.checkpoints.allow_pickle,
            threads=None if slots.gpus else slots.cpus,
        )
        for weights, checkpoints in groups.items()
    }


@dataclass(slots=True)
class _Driver:
    scheduler: Scheduler
    specs: Mapping[str, ReplicaSpec]
    slots: Slots
    tracker: Tracker
    failures: list[str] = field(default_factory=list)
    actors: dict[int, Any] = field(default_factory=dict)
    weights: dict[int, str] = field(default_factory=dict)
    """What each replica holds."""
    asked: dict[Any, tuple[int, Unit | None]] = field(default_factory=dict)
    """What replicas are at work on, by the reference to its outcome; without a unit they load."""

    def run(self) -> list[str]:
        try:
            self._carry_out(self.scheduler.begin())
            while not self.scheduler.finished:
                done, _ = ray.wait(list(self.asked), num_returns=1)
                for reference in done:
                    self._carry_out(self.scheduler.handle(self._event(reference)))
        finally:
            for replica in list(self.actors):
                self._stop(replica)
        return self.failures

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case StartReplica(replica=replica, weights=weights):
                    self._start(replica, weights)
                case Score(replica=replica, unit=unit):
                    self.asked[self.actors[replica].score.remote(unit)] = (replica, unit)
                    self.tracker.unit_started(unit.checkpoint, unit.condition, unit.id)
                case StopReplica(replica=replica):
                    self._stop(replica)
                case SetAside(unit=unit, reason=reason):
                    self._set_aside(unit, reason)

    def _start(self, replica: int, weights: str) -> None:
        actor = ReplicaActor.options(  # type: ignore[attr-defined]
            num_cpus=self.slots.cpus, num_gpus=self.slots.gpus, name=f"replica-{replica}-{weights}"
        ).remote(self.specs[weights])
        self.actors[replica] = actor
        self.weights[replica] = weights
        self.asked[actor.load.remote()] = (replica, None)
        for checkpoint in self.specs[weights].checkpoints:
            self.tracker.loading(checkpoint.slug)

    def _stop(self, replica: int) -> None:
        ray.kill(self.actors.pop(replica))

    def _event(self, reference: Any) -> Event:
        replica, unit = self.asked.pop(reference)
        weights = self.weights[replica]
        try:
            outcome = ray.get(reference)
        except RayError as error:
            reason = f"replica of {weights} died: {_first_line(error)}"
            self.tracker.trouble(reason)
            self._stop(replica)
            return ReplicaDied(replica, reason)
        if isinstance(outcome, Failure):
            return self._failure(replica, unit, outcome)
        if unit is None:
            for checkpoint in self.specs[weights].checkpoints:
                self.tracker.ready(checkpoint.slug, outcome)
            return ReplicaReady(replica)
        assert isinstance(outcome, UnitReport)
        self.tracker.unit_done(outcome)
        return UnitDone(replica)

    def _failure(self, replica: int, unit: Unit | None, failure: Failure) -> Event:
        if failure.stops_sweep:
            raise ResultsError(failure.reason)
        self.tracker.trouble(f"{self.weights[replica]}: {failure.reason}")
        if unit is None:
            self._stop(replica)
            return LoadFailed(replica, failure.reason, final=failure.final)
        guilty = frozenset({failure.guilty} if failure.guilty else ())
        return UnitFailed(replica, failure.reason, guilty=guilty, final=failure.final)

    def _set_aside(self, unit: Unit, reason: str) -> None:
        self.tracker.set_aside(unit.checkpoint, unit.condition, unit.n_responses)
        first, n = unit.transcripts[0], len(unit.transcripts)
        what = (
            f"transcript {first.id} of {first.study}" if n == 1 else f"{n} transcripts from {first.id} of {first.study}"
        )
        self.failures.append(f"{unit.checkpoint}, {unit.condition}: {what}: {reason}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
