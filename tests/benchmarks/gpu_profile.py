"""Where the time of a GPU goes: the shares of attention, products, everything else, and of gaps between kernels."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

KINDS = {
    "attention": re.compile(r"flash|fmha|attention|varlen", re.IGNORECASE),
    "products": re.compile(r"gemm|gemv|nvjet|cutlass|xmma|cublas|aten::(add)?mm|linear_pointwise", re.IGNORECASE),
    "copies": re.compile(r"memcpy|memset|copy", re.IGNORECASE),
}
"""By names of kernels, the first that matches; on a CPU, by those of operators."""
OTHER, GAPS = "other kernels", "gaps"


def shares_of_time(run: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Shares of the time of one run, warmed up, by kind of kernel."""
    is_cuda = device.type == "cuda"
    run()
    with profile(activities=[ProfilerActivity.CUDA if is_cuda else ProfilerActivity.CPU]) as profiled:
        began = time.perf_counter()
        run()
        if is_cuda:
            torch.cuda.synchronize()
        wall_us = 1e6 * (time.perf_counter() - began)
    times: dict[str, float] = {}
    for event in profiled.key_averages():
        if (event.device_type == DeviceType.CUDA) == is_cuda:
            spent = event.self_device_time_total if is_cuda else event.self_cpu_time_total
            times[event.key] = times.get(event.key, 0.0) + spent
    return by_kind(times, wall_us)


def by_kind(times_us: dict[str, float], wall_us: float) -> dict[str, float]:
    """Shares of the wall time, by kind; the rest are gaps."""
    shares = dict.fromkeys([*KINDS, OTHER], 0.0)
    for name, spent in times_us.items():
        kind = next((kind for kind, pattern in KINDS.items() if pattern.search(name)), OTHER)
        shares[kind] += spent / wall_us
    shares[GAPS] = max(0.0, 1.0 - sum(shares.values()))
    return {f"time in {kind}": round(share, 3) for kind, share in shares.items()}
