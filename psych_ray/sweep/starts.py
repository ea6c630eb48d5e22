"""Starts replicas where there is room for them, makes room for gangs, and has weights brought to disks before. Pure.

Which weights come first follows from `shares`; what becomes of a replica afterwards is the scheduler's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from psych_ray.sweep.events import Action, Fetch, StartReplica
from psych_ray.sweep.fleet import Fleet, Replica
from psych_ray.sweep.queues import Queues
from psych_ray.sweep.retries import Retries
from psych_ray.sweep.shares import Demand, by_need
from psych_ray.sweep.stalls import Deadlines, Pace, Watch

FETCHED_AHEAD = 2
"""So many weights are brought to the disk of a node before a replica is started there."""
_LOOK_AGAIN_S = 5.0
"""How often it is looked where a gang could have room."""


@dataclass(frozen=True, slots=True)
class WeightsFacts:
    """What the scheduler knows of weights."""

    ranks: int = 1
    """Slots that a replica takes."""
    is_sharded: bool = False
    """Whether its engine shards them, so that it cannot reduce a pass by itself. Engines of several ranks do."""
    load_seconds: float = 0.0
    """Estimated time to load them."""


@dataclass(slots=True)
class Starts:
    """Decides which replicas are started now, and where."""

    facts: Mapping[str, WeightsFacts]
    deadlines: Deadlines
    retries: Retries
    queues: Queues
    fleet: Fleet
    pace: Pace
    most_replicas: int | None = None
    """Of the same weights."""
    prefetches: bool = False
    paused: dict[str, float] = field(default_factory=dict)
    """Weights that are not loaded before this time."""
    _now: float = 0.0
    _started: int = 0
    _load_seconds: dict[str, float] = field(default_factory=dict)
    """Measured."""
    _failed_on: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Nodes on which replicas of these weights failed."""
    _limits: dict[str, int] = field(default_factory=dict)
    """Replicas that there may be of weights that could not be loaded once more, until they are."""
    _reserved: dict[str, str] = field(default_factory=dict)
    """Weights by the node that is kept for them."""
    _looked_at: dict[str, float] = field(default_factory=dict)
    """When it was looked where these weights could have room."""
    _fetched: dict[str, list[str]] = field(default_factory=dict)
    """Weights that were brought to the disk of a node, or are being, and are not loaded yet."""
    _unfit: set[str] = field(default_factory=set)
    """Weights for which no node is large enough."""

    def fill(self, now: float) -> list[Action]:
        """Start what is worth a place."""
        self._now = now
        self.paused = {weights: until for weights, until in self.paused.items() if until > now}
        self._forget_settled()
        self._watch_unfit()
        actions = [*self._start_reserved(), *self._start_fetched()]
        demands = self._demands()
        unplaced = [2**31]

        for one in by_need(demands, self.fleet.nodes.slots, lambda ranks: ranks < min(unplaced)):
            nodes = self._place(one.weights, one.ranks)
            if nodes:
                actions.append(self._start(one.weights, nodes))
                continue
            unplaced.append(one.ranks)
            if one.ranks > 1 and not self.fleet.count(one.weights):
                actions += self._make_room(one.weights, one.ranks)
        return [*actions, *self._fetch_ahead(demands)]

    def loaded(self, weights: str, seconds: float) -> None:
        """Note how long weights took to load; they can be loaded, whatever was before."""
        self._load_seconds[weights] = seconds
        self._limits.pop(weights, None)

    def failed_on(self, weights: str, nodes: tuple[str, ...]) -> None:
        """Prefer other nodes for these weights."""
        self._failed_on[weights].update(nodes)

    def give_up(self, weights: str, reason: str) -> list[Action]:
        """Skip all units of these weights, unless replicas load or score; then no more are started than these."""
        if n_replicas := self.fleet.count(weights):
            self._limits[weights] = n_replicas
            return []
        return self.queues.give_up(weights, reason)

    def give_up_unfit(self, weights: str) -> list[Action]:
        """Skip all units of weights for which no node was large enough for too long."""
        nodes, ranks = self.fleet.nodes, self.facts[weights].ranks
        most = nodes.slots if nodes.across_nodes else nodes.largest
        reason = (
            f"it had no place on the cluster for {self.deadlines.place_seconds:g} s: it needs {_ranks(ranks)}, "
            + (f"no node has room for more than {most}" if most else "no node is left")
        )
        return self.queues.give_up(weights, reason)

    def _demands(self) -> list[Demand]:
        found = []
        for weights in self.queues:
            n_units = self.queues.n_units(weights)
            if not n_units or weights in self.paused:
                continue
            facts, replicas = self.facts[weights], self.fleet.count(weights)
            limits = [self._limits.get(weights), self.most_replicas]
            most = min([replicas + n_units, *(limit for limit in limits if limit is not None)])
            found.append(
                Demand(
                    weights=weights,
                    seconds=self.pace.ratio(weights) * (self.queues.seconds(weights) + self.fleet.seconds(weights)),
                    ranks=facts.ranks,
                    replicas=replicas,
                    load_seconds=self._load_seconds.get(weights, facts.load_seconds),
                    most=max(1, most),
                )
            )
        return found

    def _place(self, weights: str, ranks: int) -> list[str]:
        nodes = self.fleet.nodes
        if holders := nodes.holders(weights):
            found = nodes.place(ranks, only=holders)
            if found:
                return found
        return nodes.place(ranks, avoid=self._failed_on.get(weights, ()))

    def _start(self, weights: str, nodes: list[str]) -> StartReplica:
        self._started += 1
        watch = Watch(self.deadlines.place_seconds, self._now)
        waiting_for = set(range(self.facts[weights].ranks))
        self.fleet.add(self._started, Replica(weights, tuple(nodes), waiting_for, watch, self._now))
        return StartReplica(self._started, weights, self.retries.pass_share(weights), tuple(nodes))

    def _may_start(self, weights: str) -> bool:
        """Whether the first replica of these weights is wanted."""
        return self.queues.has(weights) and weights not in self.paused and not self.fleet.count(weights)

    def _start_reserved(self) -> list[Action]:
        actions: list[Action] = []
        for node, weights in list(self._reserved.items()):
            is_wanted = self._may_start(weights) and not self.fleet.nodes.is_draining(node)
            free, ranks = self.fleet.nodes.free_on(node), self.facts[weights].ranks
            is_free = free >= ranks
            leaving = (n for n, one in self.fleet.on_node(node) if one.is_retiring)
            # where that is not so any more, Ray placed others there, or the node has fewer slots
            will_be_free = is_free or free + sum(self.fleet.slots_on(node, n) for n in leaving) >= ranks
            if is_wanted and will_be_free and not is_free:
                continue
            del self._reserved[node]
            self.fleet.nodes.reserve(node, is_reserved=False)
            if is_wanted and is_free:
                actions.append(self._start(weights, [node] * ranks))
        return actions

    def _make_room(self, weights: str, ranks: int) -> list[Action]:
        """Keep the node for a gang where the fewest smaller replicas are in its way, and let these end."""
        if weights in self._reserved.values() or self._now < self._looked_at.get(weights, float("-inf")):
            return []
        self._looked_at[weights] = self._now + _LOOK_AGAIN_S
        nodes, best = self.fleet.nodes, None
        for node in nodes:
            if node in self._reserved or not nodes.has_slots(node, ranks):
                continue
            smaller = [number for number, one in self.fleet.on_node(node) if self.facts[one.weights].ranks < ranks]
            freed = sum(self.fleet.slots_on(node, number) for number in smaller)
            if nodes.free_on(node) + freed >= ranks and (best is None or len(smaller) < len(best[1])):
                best = node, smaller
        if best is None:
            return []
        node, smaller = best
        self._reserved[node] = weights
        nodes.reserve(node)
        actions: list[Action] = []
        for number in smaller:
            self.fleet.retire(number)
            replica = self.fleet.get(number)
            if replica is not None and replica.unit is None:
                actions += self.fleet.stop(number)
        return [*actions, *self._start_reserved()]

    def _start_fetched(self) -> list[Action]:
        """Start weights where they were brought to, even if others take longer: these would wait for a download."""
        actions: list[Action] = []
        for node, fetched in self._fetched.items():
            for weights in fetched:
                ranks = self.facts[weights].ranks
                if node not in self.fleet.nodes.holders(weights) or not self._may_start(weights):
                    continue
                if place := self.fleet.nodes.place(ranks, only=[node]):
                    actions.append(self._start(weights, place))
        return actions

    def _fetch_ahead(self, demands: list[Demand]) -> list[Action]:
        if not self.prefetches:
            return []
        taken = {weights for fetched in self._fetched.values() for weights in fetched}
        waiting = [one for one in demands if one.weights not in taken and self._may_start(one.weights)]
        waiting.sort(key=lambda one: (one.ranks, one.seconds))
        actions: list[Action] = []
        nodes = self.fleet.nodes
        for node in [*nodes] * FETCHED_AHEAD:
            if not waiting:
                return actions
            fetched = self._fetched.setdefault(node, [])
            if len(fetched) >= FETCHED_AHEAD:
                continue
            n_fitting = bisect_left(waiting, True, key=lambda one: not nodes.has_slots(node, one.ranks))
            if n_fitting:
                fetched.append(waiting.pop(n_fitting - 1).weights)
                if node not in nodes.holders(fetched[-1]):
                    actions.append(Fetch(node, fetched[-1]))
        return actions

    def _forget_settled(self) -> None:
        """Forget where weights were brought to that are loaded by now, or that nothing is left of."""
        for node in list(self._fetched):
            if self.fleet.nodes.is_draining(node):
                del self._fetched[node]
            else:
                self._fetched[node] = [
                    weights
                    for weights in self._fetched[node]
                    if self.queues.has(weights) and not self.fleet.count(weights)
                ]

    def _watch_unfit(self) -> None:
        timers = self.fleet.timers
        for weights in self.queues:
            is_unfit = self.queues.has(weights) and not self.fleet.nodes.fits(self.facts[weights].ranks)
            if is_unfit and weights not in self._unfit:
                self._unfit.add(weights)
                timers.set(("unfit", weights), self._now + self.deadlines.place_seconds)
            elif not is_unfit and weights in self._unfit:
                self._unfit.remove(weights)
                timers.set(("unfit", weights), None)


def _ranks(n: int) -> str:
    return "a place" if n == 1 else f"{n} ranks together"
