"""What this machine offers: within affinity, cgroup and CUDA_VISIBLE_DEVICES, with nvidia-smi or without."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from psych_ray.cluster.shape import cpus_here, gpu_memory, local_shape
from psych_ray.config import ClusterConfig

NVIDIA_SMI = """#!/bin/sh
echo "0, GPU-aaa, 81559"
echo "1, GPU-bbb, 40960"
"""
MIB = 2**20


@pytest.fixture
def two_gpus(tmp_path, monkeypatch) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text(NVIDIA_SMI)
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("visible", "memory"),
    [
        (None, [81559 * MIB, 40960 * MIB]),
        ("0,1", [81559 * MIB, 40960 * MIB]),
        ("1", [40960 * MIB]),
        ("GPU-aaa", [81559 * MIB]),
        ("", []),
        ("-1", []),
        ("MIG-ccc", [0.0]),
    ],
)
def test_gpus_are_those_that_may_be_used(two_gpus, monkeypatch, visible, memory):
    assert gpu_memory(visible) == memory
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    (node,) = local_shape(ClusterConfig()).nodes
    assert (node.gpus, node.gpu_memory_bytes) == (len(memory), min(memory, default=0.0))


def test_the_configuration_has_precedence(two_gpus):
    (node,) = local_shape(ClusterConfig(cpus=3, gpus=8, gpu_memory_gb=141, memory_gb=500)).nodes
    assert (node.cpus, node.gpus, node.gpu_memory_bytes, node.memory_bytes) == (3, 8, 141e9, 500e9)
    (none,) = local_shape(ClusterConfig(gpus=0)).nodes
    assert none.gpus == 0


@pytest.mark.parametrize(
    ("content", "most"), [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1), ("nonsense", None)]
)
def test_cpu_cores_are_those_that_the_cgroup_allows(tmp_path: Path, content, most):
    (tmp_path / "cpu.max").write_text(content)
    all_cpus = len(os.sched_getaffinity(0))
    assert cpus_here(tmp_path / "cpu.max") == (most or all_cpus)
    assert cpus_here(tmp_path / "absent") == all_cpus
