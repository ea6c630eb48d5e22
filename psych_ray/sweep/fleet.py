"""The replicas that live: what each was asked to do, where it is, and when something about it is due. Pure.

Decides nothing; it keeps what the scheduler asks for by weights and by node without looking at every replica.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from psych_ray.errors import FailureKind
from psych_ray.sweep.events import Action, StopReplica
from psych_ray.sweep.failure import Failure, cause_of
from psych_ray.sweep.nodes import Nodes
from psych_ray.sweep.retries import PERMANENT
from psych_ray.sweep.stalls import Watch
from psych_ray.sweep.timers import Timers
from psych_ray.sweep.unit import Unit


@dataclass(slots=True)
class Replica:
    """One replica."""

    weights: str
    nodes: tuple[str, ...]
    """By rank: asked for, then those that Ray chose."""
    waiting_for: set[int]
    """Ranks that have not reported on what the replica was last asked to do."""
    watch: Watch
    asked_at: float
    """When it was asked to do that."""
    unit: Unit | None = None
    """Being scored and not yet committed."""
    last: Unit | None = None
    """Handed out last."""
    is_loaded: bool = False
    failure: Failure | None = None
    """The cause, of those that ranks reported."""
    failed_ranks: int = 0
    deadline: float | None = None
    """By then all ranks must have reported, or, while paused, the next unit is handed out."""
    is_paused: bool = False
    is_retiring: bool = False
    """Whether it gets no further unit: its node is draining, or its place is needed for a gang."""

    @property
    def n_ranks(self) -> int:
        """Its processes."""
        return len(self.nodes)

    def cause(self, failure: Failure, rank: int) -> Failure:
        """Of what its ranks reported so far and this failure, the cause."""
        if self.n_ranks > 1 and failure.kind not in PERMANENT:
            failure = Failure(failure.kind, f"rank {rank}: {failure.reason}", failure.transcript_id)
        return cause_of([failure] if self.failure is None else [self.failure, failure])

    def stall(self) -> Failure:
        """What is said of the rank that shows no progress."""
        failure = Failure(FailureKind.lost, f"it made no progress for {self.watch.seconds:g} s")
        return self.cause(failure, self.watch.slowest(self.waiting_for))

    @property
    def due(self) -> float | None:
        """When it must be looked at."""
        times = [self.deadline] if self.deadline is not None else []
        if self.waiting_for and not self.is_paused:
            times.append(self.watch.deadline(self.waiting_for))
        return min(times, default=None)


@dataclass(slots=True)
class Fleet:
    """Replicas by number, on the nodes whose slots they take."""

    nodes: Nodes
    timers: Timers[tuple[str, str | int]] = field(default_factory=Timers)
    """What is due: a `replica` to be looked at, its unit to be `cut`, `paused` weights, `unfit` ones."""
    _replicas: dict[int, Replica] = field(default_factory=dict)
    _of_weights: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    _on_node: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    _count: Counter[str] = field(default_factory=Counter)
    _seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _held: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def __iter__(self) -> Iterator[tuple[int, Replica]]:
        return iter(self._replicas.items())

    def __len__(self) -> int:
        return len(self._replicas)

    def get(self, number: int) -> Replica | None:
        """The replica of this number; None where it is gone."""
        return self._replicas.get(number)

    def add(self, number: int, replica: Replica) -> None:
        """Add a replica, and take the slots of its nodes."""
        self._replicas[number] = replica
        self._count[replica.weights] += 1
        self._of_weights[replica.weights].add(number)
        self._put(number, replica.nodes)
        self.timers.set(("replica", number), replica.due)

    def join(self, node: str, slots: int) -> None:
        """Add a node, or change its number of slots; a replica may have been placed there before it was told of."""
        is_new = node not in self.nodes
        self.nodes.join(node, slots)
        if is_new:
            self.nodes.take([node] * sum(self.slots_on(node, number) for number, _ in self.on_node(node)))

    def slots_on(self, node: str, number: int) -> int:
        """Slots of a node that a replica takes."""
        return self._replicas[number].nodes.count(node)

    def move(self, number: int, nodes: Iterable[str]) -> None:
        """Note that Ray placed a replica on other nodes than those asked for."""
        replica = self._replicas[number]
        self._remove_from(number, replica.nodes)
        replica.nodes = tuple(nodes)
        self._put(number, replica.nodes)

    def stop(self, number: int) -> list[Action]:
        """Remove a replica, which has no unit any more, and free its slots."""
        self.retire(number)
        replica = self._replicas.pop(number)
        assert replica.unit is None
        self._of_weights[replica.weights].discard(number)
        self._remove_from(number, replica.nodes)
        self.timers.set(("replica", number), None)
        self.timers.set(("cut", number), None)
        return [StopReplica(number)]

    def on_node(self, node: str) -> list[tuple[int, Replica]]:
        """Replicas of which a rank is on this node, oldest first."""
        return [(number, self._replicas[number]) for number in sorted(self._on_node.get(node, ()))]

    def loading(self, weights: str) -> list[int]:
        """Numbers of the replicas of these weights that are not loaded yet, oldest first."""
        return sorted(number for number in self._of_weights.get(weights, ()) if not self._replicas[number].is_loaded)

    def count(self, weights: str) -> int:
        """Number of replicas of these weights, without those that retire."""
        return self._count[weights]

    def retire(self, number: int) -> None:
        """Let a replica get no further unit."""
        replica = self._replicas[number]
        if not replica.is_retiring:
            replica.is_retiring = True
            self._count[replica.weights] -= 1

    def hand_out(self, number: int, unit: Unit) -> None:
        """Note what a replica scores."""
        replica = self._replicas[number]
        replica.unit = replica.last = unit
        self._seconds[replica.weights] += unit.seconds
        self._held[replica.weights][unit.transcripts[0].id] += 1

    def take_back(self, number: int) -> Unit | None:
        """Note that a replica does not score its unit any more; the unit, if it had one."""
        replica = self._replicas[number]
        unit, replica.unit = replica.unit, None
        self.timers.set(("cut", number), None)
        if unit is not None:
            held, first = self._held[replica.weights], unit.transcripts[0].id
            held[first] -= 1
            if not held[first]:
                del held[first]
            self._seconds[replica.weights] = self._seconds[replica.weights] - unit.seconds if held else 0.0
        return unit

    def seconds(self, weights: str) -> float:
        """Estimated time of all units of these weights that are being scored, whatever is done of them."""
        return self._seconds[weights]

    def held(self, weights: str) -> Collection[str]:
        """Ids of the first transcripts of these units."""
        return self._held[weights].keys()

    def _put(self, number: int, nodes: tuple[str, ...]) -> None:
        self.nodes.take(nodes)
        for node in nodes:
            self._on_node[node].add(number)

    def _remove_from(self, number: int, nodes: tuple[str, ...]) -> None:
        self.nodes.release(nodes)
        for node in set(nodes):
            self._on_node[node].discard(number)
            if not self._on_node[node]:
                del self._on_node[node]
