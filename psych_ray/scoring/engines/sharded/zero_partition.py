"""Weights in shares: how each rank comes to keep its part of every weight, and DeepSpeed to know of it.

transformers has a way of its own to load for ZeRO, but reports there neither weights that are left over nor those of
another shape. So it is let load as it does for one process, with all checks, and each weight is cut the moment it is
in its place. Knows no engine and no queries.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoConfig

from psych_ray.config import ScoringConfig
from psych_ray.errors import UnsupportedError
from psych_ray.scoring.engines.sharded.process_group import Ranks
from psych_ray.scoring.models.text_model import text_side


def require_async_io() -> None:
    """Raise UnsupportedError where DeepSpeed's file access is neither built nor can be."""
    with quietly():
        from deepspeed.ops.op_builder import AsyncIOBuilder

        if not AsyncIOBuilder().is_compatible(verbose=False):
            raise UnsupportedError(
                "weights cannot be kept on NVMe here: DeepSpeed's async_io needs libaio and its headers (apt install "
                "libaio-dev); leave the NVMe directory out to keep them in CPU memory"
            )


def settings_of(directory: Path, scoring: ScoringConfig, ranks: Ranks, nvme: Path | None) -> dict[str, Any]:
    """DeepSpeed's configuration: no optimizer, weights in shares outside the GPU."""
    on_gpu = scoring.device != "cpu" and torch.cuda.is_available()
    where: dict[str, Any] = {"device": "cpu", "pin_memory": on_gpu}
    if nvme is not None:
        where |= {"device": "nvme", "nvme_path": str(nvme), "buffer_size": -(-_largest_weight(directory) // ranks.size)}
    zero = {
        "stage": 3,
        "offload_param": where,
        # it would replace torch.nn.functional.linear for the whole process
        "memory_efficient_linear": False,
    }
    if not on_gpu:  # where weights come no sooner for being asked for ahead, and what is put together is memory as well
        zero |= {"stage3_prefetch_bucket_size": 0, "stage3_max_live_parameters": 0, "stage3_max_reuse_distance": 0}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": scoring.dtype == "bfloat16"},
        "fp16": {"enabled": scoring.dtype == "float16"},
        "zero_optimization": zero,
    }


def _largest_weight(directory: Path) -> int:
    """Elements of the largest parameter, experts that are stored apart put together."""
    model_class, config = text_side(AutoConfig.from_pretrained(directory))
    with torch.device("meta"):
        return max(weight.numel() for weight in model_class(config).parameters())


@contextmanager
def kept_in_shares(settings: dict[str, Any]) -> Iterator[None]:
    """While it lasts, a weight that is given to a module is cut, and only this rank's share of it is kept.

    transformers then loads as it always does, one weight after the other: converted, renamed and checked.
    """
    from deepspeed import ops, zero

    # DeepSpeed would compile a faster all-reduce for CPUs, which gathering weights has no use for.
    ops.__compatible_ops__["deepspeed_shm_comm"] = False
    seed = nn.Parameter(torch.zeros(1, dtype=torch.float32), requires_grad=False)
    zero.Init(module=nn.ParameterList([seed]), config_dict_or_path=settings)
    cutting = seed.convert_to_zero_parameters  # type: ignore[attr-defined]

    def cut(module: nn.Module, name: str, weight: nn.Parameter | None) -> nn.Parameter | None:
        if weight is None or weight.is_meta:
            return None
        if hasattr(weight, "ds_id"):
            held = module._parameters.get(name)
            # Tied, though the files have both: shares cannot be compared as weights are, so each stays what it is.
            return held if held is not None and hasattr(held, "ds_id") else None
        weight.requires_grad_(False)
        if distributed.get_rank() and seed.device.type == "cpu":
            # Rank 0's will be written over it, and a page of a mapped file that is written to is memory from then on.
            weight.data = weight.data.clone()
        cutting([weight])
        return None

    # Read ahead, all weights would stand in memory before the first of them is cut.
    before = os.environ.get("HF_DEACTIVATE_ASYNC_LOAD")
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    handle = register_module_parameter_registration_hook(cut)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()
        del os.environ["HF_DEACTIVATE_ASYNC_LOAD"]
        if before is not None:
            os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = before


@contextmanager
def quietly() -> Iterator[None]:
    """Leave out what DeepSpeed and PyTorch tell each other, and what is no concern of who scores."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*all_gather_into_tensor", category=FutureWarning)
    with redirect_stdout(io.StringIO()):
        yield
