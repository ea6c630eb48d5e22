"""Partitions weights for ZeRO while they are loaded: each rank keeps its part of every weight.

transformers can load for ZeRO itself, but then reports neither unused weights nor those of another shape. So it loads
as for one process, with all checks, and each weight is partitioned as soon as it is assigned to its module.
Does not depend on engines or queries.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from transformers import AutoConfig

from psych_ray.compat.deepspeed import disable_shared_memory_all_reduce, has_async_io, is_partitioned, zero_partition
from psych_ray.compat.torch import parameter_hook
from psych_ray.compat.transformers import load_weights_one_by_one
from psych_ray.config import ScoringConfig
from psych_ray.errors import UnsupportedError
from psych_ray.scoring.engines.sharded.process_group import Rank
from psych_ray.scoring.models.text_model import text_model


def require_async_io() -> None:
    """Raise UnsupportedError where DeepSpeed's asynchronous file access is neither built nor can be."""
    with suppress_output():
        if not has_async_io():
            raise UnsupportedError(
                "weights cannot be kept on NVMe here: DeepSpeed's async_io needs libaio and its headers (apt install "
                "libaio-dev); leave the NVMe directory out to keep them in CPU memory"
            )


def deepspeed_config(directory: Path, scoring: ScoringConfig, rank: Rank, nvme: Path | None) -> dict[str, Any]:
    """DeepSpeed's configuration: no optimizer, weights partitioned and outside the GPU."""
    on_gpu = scoring.device != "cpu" and torch.cuda.is_available()
    offload: dict[str, Any] = {"device": "cpu", "pin_memory": on_gpu}
    if nvme is not None:
        offload |= {
            "device": "nvme",
            "nvme_path": str(nvme),
            "buffer_size": -(-_largest_weight(directory) // rank.world_size),
        }
    zero = {
        "stage": 3,
        "offload_param": offload,
        # True would replace torch.nn.functional.linear in the whole process
        "memory_efficient_linear": False,
    }
    if not on_gpu:  # prefetching does not help, and gathered weights take the same memory as partitions
        zero |= {"stage3_prefetch_bucket_size": 0, "stage3_max_live_parameters": 0, "stage3_max_reuse_distance": 0}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": scoring.dtype == "bfloat16"},
        "fp16": {"enabled": scoring.dtype == "float16"},
        "zero_optimization": zero,
    }


def _largest_weight(directory: Path) -> int:
    """Elements of the largest parameter, where experts that are stored one by one count as fused."""
    model_class, config = text_model(AutoConfig.from_pretrained(directory))
    with torch.device("meta"):
        return max(weight.numel() for weight in model_class(config).parameters())


@contextmanager
def partitioned_on_load(settings: dict[str, Any]) -> Iterator[None]:
    """Within the context, a weight that is assigned to a module is partitioned, and only this rank's part is kept.

    transformers loads one weight after the other as for one process: converts, renames and checks them.
    """
    disable_shared_memory_all_reduce()
    partition, device = zero_partition(settings)

    def replace_by_partition(module: nn.Module, name: str, weight: nn.Parameter | None) -> nn.Parameter | None:
        if weight is None or weight.is_meta:
            return None
        if is_partitioned(weight):
            held = getattr(module, name, None)
            # Tied, but the files hold both: partitions cannot be compared as weights are, so each keeps its own.
            return held if held is not None and is_partitioned(held) else None
        weight.requires_grad_(False)
        if distributed.get_rank() and device.type == "cpu":
            # Rank 0's values are written over it, and a page of a mapped file that is written to takes memory.
            weight.data = weight.data.clone()
        partition(weight)
        return None

    with load_weights_one_by_one(), parameter_hook(replace_by_partition):
        yield


@contextmanager
def suppress_output() -> Iterator[None]:
    """Within the context, drop what DeepSpeed prints and logs below a warning, and PyTorch's warning of its gathers.

    Standard output, the level of the logger and the warning filters are then what they were before.
    """
    logger = logging.getLogger("DeepSpeed")
    level = logger.level
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*all_gather_into_tensor", category=FutureWarning)
            logger.setLevel(logging.WARNING)
            yield
    finally:
        logger.setLevel(level)
