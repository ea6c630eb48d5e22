"""What a scheduler takes and gives: events of ranks, actions for whoever drives it."""

from __future__ import annotations

from dataclasses import dataclass

from psych_ray.sweep.failure import Failure
from psych_ray.sweep.unit import Unit


@dataclass(frozen=True, slots=True)
class RankDone:
    """A rank has finished what its replica was last asked to do: load, or score a unit. Rank 0 has written its part."""

    replica: int
    rank: int = 0
    left: frozenset[str] = frozenset()
    """Ids of the unit's transcripts that were not scored, because the unit was cut."""


@dataclass(frozen=True, slots=True)
class RankFailed:
    """A rank raised an error; its process lives."""

    replica: int
    failure: Failure
    rank: int = 0


@dataclass(frozen=True, slots=True)
class RankDied:
    """The process of a rank is gone."""

    replica: int
    failure: Failure
    rank: int = 0


@dataclass(frozen=True, slots=True)
class RankProgress:
    """A rank has answered how much it has done so far, in any measure that changes as long as it works."""

    replica: int
    rank: int
    work: int


@dataclass(frozen=True, slots=True)
class ReplicaWaits:
    """A replica has no processes yet: in one line what was asked for, and what is free."""

    replica: int
    reason: str


@dataclass(frozen=True, slots=True)
class ReplicaPlaced:
    """The ranks of a replica have processes on these nodes, by rank; Ray may choose others than those asked for."""

    replica: int
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """A node can be used, with room for so many ranks at a time; of a known node, that number has changed."""

    node: str
    slots: int


@dataclass(frozen=True, slots=True)
class NodeDraining:
    """A node will be gone in `seconds`, or soon where that is None: it was drained, or is taken back by the cloud."""

    node: str
    seconds: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class NodeLost:
    """A node is gone, with all ranks on it."""

    node: str


@dataclass(frozen=True, slots=True)
class WeightsOnDisk:
    """Weights lie on the disk of a node, or, with `is_there=False`, do not any more."""

    node: str
    weights: str
    is_there: bool = True


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; sent when `Scheduler.deadline` is reached, or at any other moment."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The sweep is to end early: units that are being scored may be finished, no other is handed out."""

    seconds: float | None = None
    """Time that is left for them; None: as long as they take."""


RankEvent = RankDone | RankFailed | RankDied | RankProgress | ReplicaWaits | ReplicaPlaced
NodeEvent = NodeJoined | NodeDraining | NodeLost | WeightsOnDisk
Event = RankEvent | NodeEvent | Tick | Interrupted


@dataclass(frozen=True, slots=True)
class StartReplica:
    """Load these weights somewhere, with all adapters that are scored on them."""

    replica: int
    weights: str
    pass_share: float = 1.0
    """Share of the engine's own number of tokens per forward pass; halved after a gang ran out of memory."""
    nodes: tuple[str, ...] = ()
    """Where, by rank: asked for, not required."""


@dataclass(frozen=True, slots=True)
class Score:
    """Let the replica score this unit."""

    replica: int
    unit: Unit


@dataclass(frozen=True, slots=True)
class Cut:
    """Let the replica end its unit after the transcript that it is scoring, and report what is left of the unit."""

    replica: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Bring these weights to the disk of a node, where a replica will be started; nothing follows if it fails."""

    node: str
    weights: str


@dataclass(frozen=True, slots=True)
class StopReplica:
    """End all processes of this replica and free what they hold."""

    replica: int


@dataclass(frozen=True, slots=True)
class Skip:
    """This unit cannot be scored."""

    unit: Unit
    reason: str


@dataclass(frozen=True, slots=True)
class StopSweep:
    """Nothing can be committed any more."""

    reason: str


@dataclass(frozen=True, slots=True)
class Warn:
    """One line for the user: what failed, and what is done about it."""

    message: str
    is_failure: bool = True
    """False for preemption, which is not counted."""


Action = StartReplica | Score | Cut | Fetch | StopReplica | Skip | StopSweep | Warn
