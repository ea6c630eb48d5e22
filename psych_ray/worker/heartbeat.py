"""What a rank tells while it loads or scores: that it works, how far it is, and how busy its GPU is.

Measures the GPU with what torch offers, and only where the rank has used one already. Does not import torch itself.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from psych_ray.sweep.unit import UnitReading


@dataclass(frozen=True, slots=True)
class GpuUse:
    """How busy a GPU is, all its processes together."""

    memory_bytes: int
    """In use."""
    utilization: float | None = None
    """Percent of the time in which a kernel ran; None without the package nvidia-ml-py."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Of one rank."""

    work: int
    """A number that changes as long as the rank works."""
    node: str
    """On which it is."""
    reading: UnitReading | None = None
    """How far it is with its unit; None where it has none."""
    gpu: GpuUse | None = None


def gpu_use() -> GpuUse | None:
    """Of this process's GPU; None where it has none, or has not used it yet. Does not raise."""
    torch: Any = sys.modules.get("torch")
    try:
        if torch is None or not torch.cuda.is_initialized():
            return None
        free, total = torch.cuda.mem_get_info()
    except Exception:  # noqa: BLE001  a driver that fails is noticed by what scores
        return None
    with suppress(Exception):
        return GpuUse(total - free, float(torch.cuda.utilization()))
    return GpuUse(total - free)
