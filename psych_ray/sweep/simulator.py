"""Simulates a sweep: the scheduler that runs one drives replicas that only take time. Pure; a seed makes it repeatable.

For plans before anything is paid for, and for tests of the scheduler on clusters that nobody has at hand.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from psych_ray.errors import ConfigError, FailureKind
from psych_ray.sweep.events import (
    Action,
    Cut,
    Event,
    Fetch,
    NodeDraining,
    NodeJoined,
    NodeLost,
    RankDied,
    RankDone,
    RankProgress,
    Score,
    Skip,
    StartReplica,
    StopReplica,
    StopSweep,
    Tick,
    WeightsOnDisk,
)
from psych_ray.sweep.failure import Failure
from psych_ray.sweep.scheduler import Scheduler
from psych_ray.sweep.starts import WeightsFacts
from psych_ray.sweep.timeline import REPLACES, Doing, Span, Timeline
from psych_ray.sweep.unit import Unit

_EVENTS_AT_MOST = 50_000
"""And `_EVENTS_PER_UNIT` for each unit; more are only needed where nodes seldom live long enough to get on."""
_EVENTS_PER_UNIT = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbances:
    """What happens to a simulated cluster, and how much slower or faster things are than estimated."""

    preempted_every_s: float | None = None
    """Mean time between preemptions of a node; None: never."""
    notice_s: float = 120.0
    """From the notice to the end of the node; that of AWS."""
    without_notice: float = 0.0
    """Share of preemptions that nothing announces."""
    replaced_after_s: float | None = 180.0
    """From the end of a node until another one takes its place; None: never."""
    deaths: float = 0.0
    """Probability that a replica dies while it scores a unit or loads."""
    lost_messages: float = 0.0
    """Probability that nothing more is heard of a replica."""
    noise: float = 0.0
    """Standard deviation of the logarithm of the time that a unit takes."""
    unit_overhead_s: float = 0.1
    """Of each unit: reading it, writing its part, the driver."""
    joins: tuple[tuple[float, str, int], ...] = ()
    """Nodes that join later: when, id, slots."""


@dataclass(slots=True)
class _Running:
    weights: str
    nodes: tuple[str, ...]
    doing: Doing
    since: float
    """When what it does now began; of units that follow each other, the first."""
    unit: Unit | None = None
    began: float = 0.0
    ends: float = 0.0
    is_silent: bool = False
    token: int = 0
    """Of what it was last asked to do; outcomes of what was asked before are void."""


def simulate(
    units: Iterable[Unit],
    *,
    nodes: Mapping[str, int],
    facts: Mapping[str, WeightsFacts],
    weights_of: Mapping[str, str] | None = None,
    attempts: int = 2,
    disturbances: Disturbances | None = None,
    fetch_seconds: Mapping[str, float] | None = None,
    replicas: int | None = None,
    across_nodes: bool = False,
    seed: int = 0,
) -> Timeline:
    """Simulate a sweep of these units on nodes with so many slots each.

    `facts` by weights; `fetch_seconds` by weights: time to bring them to a node's disk, before which they cannot be
    loaded there; None: they lie there. Other arguments as of `Scheduler.plan`. ConfigError where nodes are preempted so
    often that the sweep does not end.
    """
    units = list(units)
    scheduler = Scheduler.plan(
        units,
        attempts=attempts,
        facts=facts,
        weights_of=weights_of,
        across_nodes=across_nodes,
        replicas=replicas,
        prefetches=fetch_seconds is not None,
    )
    world = _World(scheduler, facts, disturbances or Disturbances(), fetch_seconds or {}, random.Random(seed))  # noqa: S311
    world.run(nodes, events_at_most=_EVENTS_AT_MOST + _EVENTS_PER_UNIT * len(units))
    return world.timeline(_bound(units, facts, weights_of or {}, sum(nodes.values())))


def _bound(
    units: Iterable[Unit], facts: Mapping[str, WeightsFacts], weights_of: Mapping[str, str], slots: int
) -> float:
    """Each checkpoint is loaded once at least, and no transcript is divided."""
    seconds: defaultdict[str, float] = defaultdict(float)
    longest: defaultdict[str, float] = defaultdict(float)
    for unit in units:
        weights = weights_of.get(unit.checkpoint, unit.checkpoint)
        seconds[weights] += unit.seconds
        longest[weights] = max(longest[weights], unit.longest_seconds)
    work = sum((total + facts[weights].load_seconds) * facts[weights].ranks for weights, total in seconds.items())
    chain = max((one + facts[weights].load_seconds for weights, one in longest.items()), default=0.0)
    return max(work / max(1, slots), chain)


@dataclass(slots=True)
class _World:
    scheduler: Scheduler
    facts: Mapping[str, WeightsFacts]
    disturbances: Disturbances
    fetch_seconds: Mapping[str, float]
    rng: random.Random
    now: float = 0.0
    coming: list[tuple[float, int, int, int, Event | str]] = field(default_factory=list)
    """Time, number, replica and token of each event that will come; replica 0: of a node, or a node's end by its id."""
    replicas: dict[int, _Running] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)
    lifetimes: dict[str, tuple[float, float]] = field(default_factory=dict)
    arrives: dict[tuple[str, str], float] = field(default_factory=dict)
    """When what is being fetched will be on a node's disk."""
    spans: list[Span] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    starts: Counter[str] = field(default_factory=Counter)
    living: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    numbers: dict[str, int] = field(default_factory=dict)
    """Of transcripts, in the order in which they were first committed, by id."""
    done: dict[tuple[str, str], NDArray[np.bool_]] = field(default_factory=dict)
    """Whether the transcript of each number was committed, by task; there may be tens of millions."""

    def run(self, nodes: Mapping[str, int], *, events_at_most: int) -> None:
        for node, slots in nodes.items():
            self._live(node, slots, 0.0)
        for at, node, slots in self.disturbances.joins:
            self._join(node, slots, at)
        self._carry_out(self.scheduler.begin(0.0, [NodeJoined(node, slots) for node, slots in nodes.items()]))
        while not self.scheduler.finished:
            self._carry_out(self.scheduler.handle(self._next_event(), self.now))
            self.counts["events"] += 1
            if self.counts["events"] > events_at_most:
                every = self.disturbances.preempted_every_s
                raise ConfigError(
                    f"the simulated sweep has not ended after {self.now / 86_400:,.1f} days"
                    + (f": nodes that live {every:,.0f} s on average are too short-lived for it" if every else "")
                )

    def timeline(self, bound: float) -> Timeline:
        """What happened."""
        ends = {node: (start, min(end, self.now)) for node, (start, end) in self.lifetimes.items() if start <= self.now}
        return Timeline(
            spans=tuple(self.spans),
            lifetimes=ends,
            slots=self.slots,
            makespan=self.now,
            bound=bound,
            starts=self.starts,
            most_at_a_time=self.most,
            committed=self.counts["committed"],
            skipped=self.counts["skipped"],
            scored_again=self.counts["again"],
            cut=self.counts["cut"],
            events=self.counts["events"],
        )

    def _next_event(self) -> Event:
        while True:
            deadline = self.scheduler.deadline
            at = self.coming[0][0] if self.coming else None
            if deadline is not None and (at is None or deadline < at):
                self.now = max(self.now, deadline)
                return self._tick(deadline)
            if at is None:
                raise AssertionError("nothing can happen any more, and the sweep is not finished")
            self.now, _, number, token, event = heapq.heappop(self.coming)
            if isinstance(event, str):
                self._end_of_node(event)
                continue
            replica = self.replicas.get(number)
            if number and (replica is None or replica.token != token):
                continue
            self._happened(event)
            return event

    def _tick(self, deadline: float) -> Event:
        """Replicas that work have shown progress by the time at which they would be lost."""
        for number, replica in self.replicas.items():
            if not replica.is_silent and replica.ends > self.now:
                for rank in range(len(replica.nodes)):
                    self.counts["work"] += 1
                    self._carry_out(self.scheduler.handle(RankProgress(number, rank, self.counts["work"]), deadline))
        return Tick()

    def _happened(self, event: Event) -> None:
        if isinstance(event, RankDone) and event.rank == 0:
            replica = self.replicas[event.replica]
            if replica.unit is not None:
                self._commit(replica.unit, event.left)
                self.counts["cut"] += bool(event.left)
                replica.unit = None

    def _commit(self, unit: Unit, left: Set[str]) -> None:
        known = self.numbers
        ids = (t.id for t in unit.transcripts if t.id not in left)
        numbers = np.fromiter((known.setdefault(one, len(known)) for one in ids), np.int64)
        is_done = self.done.get(unit.task, np.zeros(0, np.bool_))
        if len(is_done) < len(known):
            is_done = np.concatenate([is_done, np.zeros(2 * len(known) - len(is_done), np.bool_)])
        assert not is_done[numbers].any(), "a transcript was committed twice"
        assert len(np.unique(numbers)) == len(numbers), "a unit has a transcript twice"
        is_done[numbers] = True
        self.done[unit.task] = is_done
        self.counts["committed"] += len(numbers)

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case StartReplica(replica=number, weights=weights, nodes=nodes):
                    self.starts[weights] += 1
                    self.living[weights] += 1
                    self.most[weights] = max(self.most[weights], self.living[weights])
                    self.replicas[number] = _Running(weights, nodes, Doing.loading, self.now)
                    self._ask(number, self._load_seconds(weights, nodes))
                case Score(replica=number, unit=unit):
                    self._score(number, unit)
                case Cut(replica=number):
                    self._cut(number)
                case StopReplica(replica=number):
                    self._stop(number)
                case Fetch(node=node, weights=weights):
                    self._fetch(node, weights)
                case Skip(unit=unit):
                    self.counts["skipped"] += len(unit.transcripts)
                case StopSweep(reason=reason):
                    raise AssertionError(reason)
                case _:
                    pass

    def _load_seconds(self, weights: str, nodes: tuple[str, ...]) -> float:
        seconds = self.facts[weights].load_seconds
        if not self.fetch_seconds:
            return seconds
        for node in set(nodes):
            self._fetch(node, weights)
        return seconds + max(max(0.0, self.arrives[node, weights] - self.now) for node in nodes)

    def _fetch(self, node: str, weights: str) -> None:
        if (node, weights) not in self.arrives:
            self.arrives[node, weights] = self.now + self.fetch_seconds[weights]
            self._later(self.arrives[node, weights], WeightsOnDisk(node, weights))

    def _score(self, number: int, unit: Unit) -> None:
        replica = self.replicas[number]
        if replica.doing == Doing.loading:
            self._close_spans(number, replica)
            replica.doing, replica.since = Doing.scoring, self.now
        replica.unit = unit
        sigma = self.disturbances.noise
        noise = self.rng.lognormvariate(-(sigma**2) / 2, sigma) if sigma else 1.0  # of mean 1
        self._ask(number, unit.seconds * noise + self.disturbances.unit_overhead_s)

    def _ask(self, number: int, seconds: float) -> None:
        replica = self.replicas[number]
        replica.token += 1
        replica.began, replica.ends = self.now, self.now + seconds
        drawn = self.rng.random()
        if drawn < self.disturbances.lost_messages:
            replica.is_silent = True
            return
        if drawn < self.disturbances.lost_messages + self.disturbances.deaths:
            died = RankDied(number, Failure(FailureKind.lost, "it died"))
            self._later(self.now + seconds * self.rng.random(), died, number, replica.token)
            return
        self._done(number, replica.ends, frozenset())

    def _done(self, number: int, at: float, left: frozenset[str]) -> None:
        replica = self.replicas[number]
        for rank in range(len(replica.nodes)):
            self._later(at, RankDone(number, rank, left if rank == 0 else frozenset()), number, replica.token)

    def _cut(self, number: int) -> None:
        """End the unit after the transcript that is being scored."""
        replica = self.replicas[number]
        unit = replica.unit
        if unit is None or replica.is_silent or replica.ends <= self.now:
            return
        seconds = replica.ends - replica.began
        total, read, left = max(1, unit.n_characters), 0, set[str]()
        until = (self.now - replica.began) / seconds
        end = replica.began
        for transcript in unit.transcripts:
            if read / total > until:
                left.add(transcript.id)
                continue
            read += transcript.n_characters
            end = replica.began + seconds * read / total
        replica.token += 1
        replica.ends = max(end, self.now)
        self._done(number, replica.ends, frozenset(left))

    def _stop(self, number: int) -> None:
        replica = self.replicas.pop(number)
        self.living[replica.weights] -= 1
        self.counts["again"] += replica.unit is not None
        self._close_spans(number, replica)

    def _close_spans(self, number: int, replica: _Running) -> None:
        if self.now > replica.since:
            for node, ranks in Counter(replica.nodes).items():
                doing, since = replica.doing, replica.since
                self.spans.append(Span(node, number, replica.weights, doing, since, self.now, ranks))

    def _join(self, node: str, slots: int, at: float) -> None:
        self._later(at, NodeJoined(node, slots))
        self._live(node, slots, at)

    def _live(self, node: str, slots: int, at: float) -> None:
        """From when to when a node is there."""
        self.slots[node] = slots
        mean = self.disturbances.preempted_every_s
        gone = at + self.rng.expovariate(1 / mean) if mean else float("inf")
        self.lifetimes[node] = at, gone
        if gone < float("inf"):
            if self.rng.random() >= self.disturbances.without_notice:
                notice = max(at, gone - self.disturbances.notice_s)
                self._later(notice, NodeDraining(node, gone - notice, "it is preempted"))
            self._later(gone, node)

    def _end_of_node(self, node: str) -> None:
        """A node is gone: nothing more is heard of its replicas, and soon it is known to be lost."""
        for replica in self.replicas.values():
            if node in replica.nodes:
                replica.token += 1
                replica.is_silent = True
        self._later(self.now + self.rng.uniform(0.5, 15.0), NodeLost(node))
        if self.disturbances.replaced_after_s is not None:
            name, _, generation = node.partition(REPLACES)
            successor = f"{name}{REPLACES}{int(generation or 1) + 1}"
            self._join(successor, self.slots[node], self.now + self.disturbances.replaced_after_s)

    def _later(self, at: float, event: Event | str, number: int = 0, token: int = 0) -> None:
        self.counts["coming"] += 1
        heapq.heappush(self.coming, (at, self.counts["coming"], number, token, event))
