"""What a cluster consists of, and how it is divided among replicas. Pure: reads no machine and no running cluster."""

from __future__ import annotations

from dataclasses import dataclass

from psych_ray.errors import ConfigError


@dataclass(frozen=True, slots=True)
class NodeShape:
    """One node."""

    cpus: int
    gpus: int = 0
    gpu_memory_bytes: float = 0.0
    """Of one GPU; 0 where it is not known."""
    memory_bytes: float = 0.0
    """Of the host; 0 where it is not known."""


@dataclass(frozen=True, slots=True)
class ClusterShape:
    """The nodes that replicas may run on."""

    nodes: tuple[NodeShape, ...]

    @property
    def usable_nodes(self) -> tuple[NodeShape, ...]:
        """Nodes that ranks run on: those with GPUs, where there are any."""
        return tuple(node for node in self.nodes if node.gpus) or self.nodes

    @property
    def cpus(self) -> int:
        """CPU cores of all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> int:
        """GPUs of all nodes."""
        return sum(node.gpus for node in self.nodes)

    @property
    def gpus_per_node(self) -> int:
        """GPUs of the node that has most."""
        return max((node.gpus for node in self.nodes), default=0)

    @property
    def gpu_memory_bytes(self) -> float:
        """Memory of the smallest GPU, 0 where one is not known: a replica may be placed on any of them."""
        return min((node.gpu_memory_bytes for node in self.nodes if node.gpus), default=0.0)

    @property
    def memory_bytes(self) -> float:
        """Host memory of the largest node that ranks run on; 0 where it is not known."""
        return max((node.memory_bytes for node in self.usable_nodes), default=0.0)

    def __str__(self) -> str:
        """For example `4 nodes of 8 GPUs of 80 GB and 96 CPU cores`."""
        if len(set(self.nodes)) != 1:
            return f"{len(self.nodes)} nodes with {self.gpus} GPUs and {self.cpus} CPU cores together"
        node = self.nodes[0]
        memory = f" of {node.gpu_memory_bytes / 1e9:.3g} GB" if node.gpu_memory_bytes else ""
        gpus = f"{_count(node.gpus, 'GPU')}{memory} and " if node.gpus else ""
        return f"{_count(len(self.nodes), 'node')} of {gpus}{_count(node.cpus, 'CPU core')}"


@dataclass(frozen=True, slots=True)
class Slots:
    """How many ranks run at a time, over all replicas, and what each of them gets."""

    ranks: int
    cpus: int
    gpus: int


def divide(shape: ClusterShape, n_ranks: int, *, gang: int = 1, cpus_per_rank: int | None = None) -> Slots:
    """Divide a cluster among at most `n_ranks` ranks, of one GPU each, or, without GPUs, of some CPU cores each.

    `gang`: ranks that one node must hold together. Without GPUs as many ranks run at a time as possible, each with as
    many cores as possible. ConfigError where `cpus_per_rank` is more than any node has.
    """
    nodes = shape.usable_nodes
    largest = max(node.cpus for node in nodes)
    if cpus_per_rank is not None and cpus_per_rank > largest:
        raise ConfigError(f"cluster.cpus_per_replica={cpus_per_rank}: no node has more than {largest} CPU cores")
    gpus = 1 if shape.gpus else 0
    if cpus_per_rank is not None:
        choices = [Slots(0, cpus_per_rank, gpus)]
    elif gpus:
        choices = [Slots(0, max(1, min([4, *(node.cpus // node.gpus for node in nodes)])), gpus)]
    else:
        cores = {node.cpus // k for node in nodes for k in range(1, n_ranks + 1)} | {1}
        choices = [Slots(0, cpus, 0) for cpus in cores if 1 <= cpus <= max(1, largest // gang)]
    divided = [Slots(min(n_ranks, sum(ranks_on(node, one) for node in nodes)), one.cpus, gpus) for one in choices]
    slots = max(divided, key=lambda one: (one.ranks, one.cpus))
    if not slots.ranks:
        raise ConfigError(f"the cluster ({shape}) has no CPU core for a replica; see cluster.cpus")
    return slots


def ranks_on(node: NodeShape, slots: Slots) -> int:
    """How many ranks fit on a node."""
    by_cpus = node.cpus // slots.cpus
    return min(by_cpus, node.gpus // slots.gpus) if slots.gpus else by_cpus


def require_fit(shape: ClusterShape, slots: Slots, n_ranks: int, *, across_nodes: bool) -> None:
    """Raise ConfigError for a replica of so many ranks that no node, or all of them together, could ever hold."""
    if n_ranks == 1:
        return
    per_node = [ranks_on(node, slots) for node in shape.usable_nodes]
    most = sum(per_node) if across_nodes else max(per_node, default=0)
    if n_ranks > most:
        each = " and ".join(
            [*(["a GPU"] if slots.gpus else []), *([_count(slots.cpus, "CPU core")] if slots.cpus else [])]
        )
        where = "all nodes together hold" if across_nodes else "no node holds more than"
        raise ConfigError(
            f"a checkpoint needs {n_ranks} ranks of {each} each together, {where} {most} ({shape}); see cluster.ranks"
            + ("" if across_nodes else ", or cluster.across_nodes=true")
        )


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
