"""Reads the shape of a cluster: described by the configuration, this machine's, or that of a running Ray cluster.

`described_shape` and `local_shape` do not import Ray, so that planning needs none.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
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


def _memory_of_nodes(nodes: list[dict[str, Any]]) -> dict[str, tuple[list[float], float]]:
    """GPU and host memory by node id, bytes; without the nodes that do not answer in time."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def read() -> tuple[list[float], float]:
        return gpu_memory(), memory_here()

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
