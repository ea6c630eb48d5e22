"""Fetches weights to the disks of nodes while others are scored: an actor per node, and what is known of its disk.

It can neither delay nor fail a sweep: nothing waits for it, and a replica whose weights it has not fetched does that
itself, or goes on with what is there. Decides nothing about which weights are fetched where.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from psych_ray.errors import first_line
from psych_ray.sweep.events import WeightsOnDisk
from psych_ray.worker.spec import ReplicaSpec

LOOK = "look"
"""Concurrency group of the calls that are answered while weights are fetched."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OnDisk:
    """What lies on the disk of a node."""

    weights: frozenset[str]
    at: float
    """By the clock of that node: answers may come in another order."""
    problem: str | None = None
    """Why weights were not fetched."""


class NodeFetcher:
    """The process on one node; `Fetchers` makes an actor of it. Fetches one set of weights at a time."""

    def __init__(self, specs: Mapping[str, ReplicaSpec]) -> None:
        self._disks = {weights: (disk, spec) for weights, spec in specs.items() if (disk := spec.weights_disk)}

    def fetch(self, weights: str) -> OnDisk:
        """Bring weights to the disk of this node."""
        disk, spec = self._disks[weights]
        try:
            with disk.fetched(spec.checkpoints) as fetched:
                problem = "; ".join(fetched.notes) or None
        except Exception as error:  # noqa: BLE001  a replica that loads them raises it where it matters
            problem = first_line(error)
        return self._on_disk(problem)

    @ray.method(concurrency_group=LOOK)  # type: ignore[untyped-decorator]
    def look(self) -> OnDisk:
        """What lies on the disk of this node, whoever fetched it."""
        return self._on_disk()

    def _on_disk(self, problem: str | None = None) -> OnDisk:
        at = time.monotonic()
        there = (weights for weights, (disk, spec) in self._disks.items() if disk.holds(spec.checkpoints))
        return OnDisk(frozenset(there), at, problem)


class Fetchers:
    """The fetchers of all nodes, each started when it is needed first. No call waits for any of them.

    `specs` by the slug of the weights; where they name no disk, nothing is ever started. Nodes are named by their Ray
    ids.
    """

    def __init__(self, specs: Mapping[str, ReplicaSpec]) -> None:
        self._specs = {weights: s for weights, s in specs.items() if s.disk and not s.of_references}
        self._actors: dict[str, Any] = {}
        self._known: dict[str, OnDisk] = {}
        self._calls: dict[Any, tuple[str, str | None]] = {}
        """By the reference to the answer: the node, and the weights that it fetches; None: it looks."""

    def look(self, node: str) -> None:
        """Find out what lies on the disk of a node: when it joins, and when a replica has loaded there.

        Replicas fetch as well, and remove what was not used for longest.
        """
        if self._specs:
            self._calls[self._actor(node).look.remote()] = (node, None)

    def fetch(self, node: str, weights: str) -> None:
        """Bring weights to the disk of a node, after those that it was asked for before."""
        if weights in self._specs and (node, weights) not in self._calls.values():
            self._calls[self._actor(node).fetch.remote(weights)] = (node, weights)

    def events(self) -> list[WeightsOnDisk]:
        """What has changed on the disks, as far as it became known since the last call."""
        if not self._calls:
            return []
        events = []
        done, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
        for reference in done:
            if reference not in self._calls:  # its fetcher was found to be gone
                continue
            node, weights = self._calls.pop(reference)
            try:
                found: OnDisk = ray.get(reference)
            except RayError as error:
                _log.info("the fetcher of node %s ended: %s", node, first_line(error))
                self._end(node)
                continue
            if found.problem is not None:
                _log.info("%s was not fetched to node %s: %s", weights, node, found.problem)
            events += self._changes(node, found)
        return events

    def forget(self, node: str) -> None:
        """End the fetcher of a node that is or will be lost, and forget what lies there."""
        self._known.pop(node, None)
        self._end(node)

    def close(self) -> None:
        """End all fetchers; what they have of a file stays, and whoever needs it continues."""
        for node in list(self._actors):
            self._end(node)

    def _changes(self, node: str, found: OnDisk) -> list[WeightsOnDisk]:
        before = self._known.get(node, OnDisk(frozenset(), 0.0))
        if found.at < before.at:
            return []
        self._known[node] = found
        gone = [WeightsOnDisk(node, weights, is_there=False) for weights in sorted(before.weights - found.weights)]
        return [*gone, *(WeightsOnDisk(node, weights) for weights in sorted(found.weights - before.weights))]

    def _end(self, node: str) -> None:
        """End the process of a node's fetcher, if it still runs; the next call starts another."""
        self._calls = {reference: call for reference, call in self._calls.items() if call[0] != node}
        if (actor := self._actors.pop(node, None)) is not None:
            with suppress(RayError):
                ray.kill(actor)

    def _actor(self, node: str) -> Any:
        if node not in self._actors:
            actor_class: Any = ray.remote(concurrency_groups={LOOK: 1})(NodeFetcher)
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            options = {"num_cpus": 0, "num_gpus": 0, "max_restarts": 0, "scheduling_strategy": there}
            self._actors[node] = actor_class.options(**options).remote(self._specs)
        return self._actors[node]
