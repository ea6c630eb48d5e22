"""Private and undocumented interfaces of DeepSpeed (0.19.8).

deepspeed and torch are imported inside the functions that use them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def disable_shared_memory_all_reduce() -> None:
    """Keep DeepSpeed from compiling an all-reduce for CPUs on first use, which takes a compiler (deepspeed 0.19.8)."""
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False


def has_async_io() -> bool:
    """Whether DeepSpeed's file access is built or can be (deepspeed 0.19.8)."""
    from deepspeed.ops.op_builder import AsyncIOBuilder

    return bool(AsyncIOBuilder().is_compatible(verbose=False))


def is_tensor_parallel(module: nn.Module) -> bool:
    """Whether AutoTP made a module, whose weights are then views of whole ones (deepspeed 0.19.8)."""
    from deepspeed.module_inject.layers import TensorParallel_Layer

    return isinstance(module, TensorParallel_Layer)


def zero_partition(config: dict[str, Any]) -> tuple[Callable[[nn.Parameter], None], torch.device]:
    """Function that replaces a weight by this rank's partition of it, and the device on which it expects weights.

    `zero.Init` partitions whole modules when they are built; the function for one parameter is an attribute of those
    that it has partitioned (deepspeed 0.19.8).
    """
    import torch
    from deepspeed import zero

    seed: Any = torch.nn.Parameter(torch.zeros(1, dtype=torch.float32), requires_grad=False)
    zero.Init(module=torch.nn.ParameterList([seed]), config_dict_or_path=config)

    def partition(weight: nn.Parameter) -> None:
        seed.convert_to_zero_parameters([weight])

    return partition, seed.device


def is_partitioned(weight: nn.Parameter) -> bool:
    """Whether ZeRO has partitioned a weight (deepspeed 0.19.8)."""
    return hasattr(weight, "ds_id")


def partition_of(weight: nn.Parameter) -> Tensor:
    """This rank's partition of a weight [elements] (deepspeed 0.19.8)."""
    partition: Any = weight
    found: Tensor = partition.ds_tensor
    return found


def release_zero_engine(engine: Any) -> None:
    """Free the weights of an engine that `deepspeed.initialize` made without an optimizer.

    `destroy` leaves the partitions, and a global list of modules keeps every model alive (deepspeed 0.19.8).
    """
    from deepspeed.runtime.zero import parameter_offload

    whole = engine.module
    engine.optimizer.partition_all_parameters()
    engine.destroy()
    own = set(whole.modules())
    stack = parameter_offload.FWD_MODULE_STACK
    stack[:] = [module for module in stack if module not in own]
    for parameter in whole.parameters():
        parameter.ds_tensor = None


def zero_partition_directories(nvme: Path, rank: int) -> list[Path]:
    """Where ZeRO stores the partitions of a rank, which it does not delete (deepspeed 0.19.8)."""
    return list(nvme.glob(f"zero_stage_3/*/rank{rank}"))
