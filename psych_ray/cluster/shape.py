"""Reads the shape of a cluster: described by the configuration, this machine's, or that of a running Ray cluster.

`described_shape` and `local_shape` do not import Ray, so that planning needs none.
"""

from __future__ import annotations

import os
import subprocess
from typing import Any

from psych_ray.config import ClusterConfig
from psych_ray.errors import ConfigError
from psych_ray.sweep.cluster_shape import ClusterShape, NodeShape

_READ_NODES_S = 60.0


def described_shape(config: ClusterConfig) -> ClusterShape | None:
    """Shape that the configuration describes by `cluster.nodes`, each with the other settings; None without it."""
    if config.nodes is None:
        return None
    node = NodeShape(
        cpus=config.cpus or max(1, 4 * (config.gpus or 1)),
        gpus=config.gpus or 0,
        gpu_memory_bytes=(config.gpu_memory_gb or 0.0) * 1e9,
        memory_bytes=(config.memory_gb or 0.0) * 1e9,
    )
    return ClusterShape((node,) * config.nodes)


def local_shape(config: ClusterConfig) -> ClusterShape:
    """Shape of this machine, of which a local sweep uses `cluster.cpus` and `cluster.gpus`."""
    memory = gpu_memory_here() if config.gpus is None or config.gpu_memory_gb is None else []
    gpus = len(memory) if config.gpus is None else config.gpus
    node = NodeShape(
        cpus=config.cpus or os.cpu_count() or 1,
        gpus=gpus,
        gpu_memory_bytes=config.gpu_memory_gb * 1e9 if config.gpu_memory_gb else min(memory, default=0.0),
        memory_bytes=config.memory_gb * 1e9 if config.memory_gb else memory_here(),
    )
    return ClusterShape((node,))


def running_shape(config: ClusterConfig) -> ClusterShape:
    """Shape of the Ray cluster that this process is connected to. ConfigError where no node has a CPU core.

    Memory is read by a task on each node; where that fails, `cluster.gpu_memory_gb` and `cluster.memory_gb` count.
    """
    import ray

    alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    if not alive:
        raise ConfigError(f"cluster.address={config.address}: no node of that cluster has a CPU core for a replica")
    memory = _memory_of_nodes(alive)
    nodes = []
    for node in alive:
        gpu_memory, host_memory = memory.get(node["NodeID"], ([], 0.0))
        nodes.append(
            NodeShape(
                cpus=int(node["Resources"]["CPU"]),
                gpus=int(node["Resources"].get("GPU", 0)),
                gpu_memory_bytes=config.gpu_memory_gb * 1e9 if config.gpu_memory_gb else min(gpu_memory, default=0.0),
                memory_bytes=config.memory_gb * 1e9 if config.memory_gb else host_memory,
            )
        )
    return ClusterShape(tuple(nodes))


def gpu_memory_here() -> list[float]:
    """Memory of each GPU of this machine, bytes; empty where there is none."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout  # noqa: S603
        return [float(line) * 2**20 for line in answer.split()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def memory_here() -> float:
    """Host memory of this machine, bytes."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _memory_of_nodes(nodes: list[dict[str, Any]]) -> dict[str, tuple[list[float], float]]:
    """GPU and host memory by node id, bytes; nodes that do not answer in time are left out."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def read() -> tuple[list[float], float]:
        return gpu_memory_here(), memory_here()

    references = {}
    for node in nodes:
        on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        reader = ray.remote(num_cpus=0, num_gpus=0, max_retries=0, scheduling_strategy=on_node)(read)
        references[reader.remote()] = node["NodeID"]
    done, late = ray.wait(list(references), num_returns=len(references), timeout=_READ_NODES_S)
    for reference in late:
        ray.cancel(reference, force=True)
    found = {}
    for reference in done:
        try:
            found[references[reference]] = ray.get(reference)
        except RayError:
            continue
    return found
