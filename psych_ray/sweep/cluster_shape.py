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
        """Host memory of the largest node; 0 where it is not known."""
        return max((node.memory_bytes for node in self.nodes), default=0.0)

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


def divide(shape: ClusterShape, n_ranks: int, *, cpus_per_rank: int | None = None) -> Slots:
    """Divide a cluster among at most `n_ranks` ranks, of one GPU each, or, without GPUs, of some CPU cores each.

    ConfigError where `cpus_per_rank` is more than any node has.
    """
    nodes = [node for node in shape.nodes if node.gpus] or list(shape.nodes)
    largest = max(node.cpus for node in nodes)
    if cpus_per_rank is not None and cpus_per_rank > largest:
        raise ConfigError(f"cluster.cpus_per_replica={cpus_per_rank}: no node has more than {largest} CPU cores")
    if shape.gpus:
        cpus = cpus_per_rank or max(1, min([4, *(node.cpus // node.gpus for node in nodes)]))
    else:
        per_node = -(-max(1, n_ranks) // len(nodes))
        cpus = cpus_per_rank or max(1, largest // per_node)
    slots = Slots(0, cpus, 1 if shape.gpus else 0)
    at_a_time = sum(ranks_on(node, slots) for node in nodes)
    if not at_a_time:
        raise ConfigError(f"the cluster ({shape}) has no CPU core for a replica; see cluster.cpus")
    return Slots(min(n_ranks, at_a_time), cpus, slots.gpus)


def ranks_on(node: NodeShape, slots: Slots) -> int:
    """How many ranks fit on a node."""
    by_cpus = node.cpus // slots.cpus
    return min(by_cpus, node.gpus // slots.gpus) if slots.gpus else by_cpus


def require_room(shape: ClusterShape, slots: Slots, n_ranks: int, *, across_nodes: bool) -> None:
    """Raise ConfigError for a replica of so many ranks that no node, or all of them together, could ever hold."""
    if n_ranks == 1:
        return
    per_node = [ranks_on(node, slots) for node in shape.nodes]
    most = sum(per_node) if across_nodes else max(per_node, default=0)
    if n_ranks > most:
        what = "GPUs" if slots.gpus else f"times {slots.cpus} CPU cores"
        where = "the cluster has" if across_nodes else "the largest node has"
        raise ConfigError(
            f"cluster.ranks: a checkpoint needs {n_ranks} {what} together, {where} {most}; fewer cluster.ranks, "
            "scoring.engine=deepspeed_zero" + ("" if across_nodes else ", or cluster.across_nodes=true")
        )


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
