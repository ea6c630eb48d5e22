"""Reads the shape of a cluster: described by the configuration, this machine's, or that of a running Ray cluster.

`described_shape` and `local_shape` do not import Ray, so that planning needs none.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from psych_ray.cluster.node_facts import NodeFacts, facts_of_nodes, require_same_versions
from psych_ray.config import ClusterConfig
from psych_ray.errors import ConfigError
from psych_ray.sweep.cluster_shape import ClusterShape, NodeShape


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
    """Shape of this machine as a local session gets it: `cluster.cpus` and `cluster.gpus` of it, else all of it.

    All are the CPU cores and GPUs that this process may use, within its affinity, its cgroup and CUDA_VISIBLE_DEVICES.
    """
    memory = gpu_memory(os.environ.get("CUDA_VISIBLE_DEVICES"))
    node = NodeShape(
        cpus=config.cpus or cpus_here(),
        gpus=len(memory) if config.gpus is None else config.gpus,
        gpu_memory_bytes=config.gpu_memory_gb * 1e9 if config.gpu_memory_gb else min(memory, default=0.0),
        memory_bytes=config.memory_gb * 1e9 if config.memory_gb else memory_here(),
    )
    return ClusterShape((node,))


def running_shape(config: ClusterConfig) -> ClusterShape:
    """Shape of the Ray cluster that this process is connected to.

    Memory is read by a task on each node; where that fails, `cluster.gpu_memory_gb` and `cluster.memory_gb` count.
    ConfigError where no node has a CPU core, or one has other versions of what scores than this machine.
    """
    import ray

    alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    if not alive:
        raise ConfigError(f"cluster.address={config.address}: no node of that cluster has a CPU core for a replica")
    facts = facts_of_nodes(alive)
    require_same_versions(config.address, alive, facts)
    nodes = []
    for node in alive:
        found = facts.get(node["NodeID"], NodeFacts((), 0.0, {}))
        nodes.append(
            NodeShape(
                cpus=int(node["Resources"]["CPU"]),
                gpus=int(node["Resources"].get("GPU", 0)),
                gpu_memory_bytes=config.gpu_memory_gb * 1e9
                if config.gpu_memory_gb
                else min(found.gpu_memory, default=0.0),
                memory_bytes=config.memory_gb * 1e9 if config.memory_gb else found.memory,
            )
        )
    return ClusterShape(tuple(nodes))


def gpu_memory(visible: str | None = None) -> list[float]:
    """Memory of each GPU of this machine, bytes, 0 where it is not known; empty where there is none.

    `visible`: those that a value of CUDA_VISIBLE_DEVICES names, by index or UUID; None: all.
    """
    by_name = _all_gpu_memory()
    if visible is None:
        return [memory for name, memory in by_name.items() if name.isdecimal()]
    named = [name.strip() for name in visible.split(",") if name.strip() not in {"", "-1"}]
    return [by_name.get(name, 0.0) for name in named]


def _all_gpu_memory() -> dict[str, float]:
    """Memory of each GPU, bytes, by its index and once more by its UUID."""
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout  # noqa: S603
        rows = [[cell.strip() for cell in line.split(",")] for line in answer.splitlines()]
        return {name: float(mebibytes) * 2**20 for *names, mebibytes in rows for name in names}
    except (OSError, ValueError, subprocess.SubprocessError):  # a container may have GPUs without nvidia-smi
        folder = Path("/proc/driver/nvidia/gpus")
        return {str(index): 0.0 for index, _ in enumerate(folder.iterdir())} if folder.is_dir() else {}


def cpus_here(cgroup: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """CPU cores that this process may use: those of its affinity, of which a cgroup may allow less (version 2)."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cgroup.read_text().split()
        return max(1, min(cpus, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or `max`: no limit
        return cpus


def memory_here() -> float:
    """Host memory of this machine, bytes."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
