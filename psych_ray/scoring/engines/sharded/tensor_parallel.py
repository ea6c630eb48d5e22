"""The engine `deepspeed_tp`: one checkpoint over several ranks, each with a shard of every matrix.

DeepSpeed's AutoTP shards the body, `modules` what AutoTP leaves whole or computes wrongly, `head` the head. Every rank
scores the same queries in the same order and gets the same results. Weights are loaded by `load_model`, with all its
checks, not by DeepSpeed from the meta device, which loads wrong weights for Gemma 3 without an error.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed import ProcessGroup
from transformers import PreTrainedConfig, PreTrainedModel

from psych_ray.checkpoints.cards import CONFIG, read_json
from psych_ray.checkpoints.tensor_parallel_sizes import require_divisible
from psych_ray.checkpoints.weight_files import safetensors_header, weight_files
from psych_ray.compat.deepspeed import disable_shared_memory_all_reduce, is_tensor_parallel
from psych_ray.compat.transformers import restore_embedding_scale, text_decoder
from psych_ray.config import CheckpointCard, ScoringConfig
from psych_ray.errors import CheckpointError
from psych_ray.scoring.engines.base import Query, TokenScores
from psych_ray.scoring.engines.packed import DeviceScores, body_and_head, run_pack, score_in_packs
from psych_ray.scoring.engines.packed_attention import VarlenAttention, enable_varlen_attention, varlen_attention_for
from psych_ray.scoring.engines.packs import PASS_TOKENS
from psych_ray.scoring.engines.sharded.head import ShardedHead
from psych_ray.scoring.engines.sharded.modules import (
    experts_sharded_on_load,
    shard_embedding,
    shard_experts,
    shard_norms,
)
from psych_ray.scoring.engines.sharded.process_group import Rank
from psych_ray.scoring.likelihood import Head
from psych_ray.scoring.models.load import load_model, loading_errors

_log = logging.getLogger(__name__)
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def load_tensor_parallel(
    card: CheckpointCard, directory: Path, scoring: ScoringConfig, rank: Rank, *, allow_pickle: bool
) -> tuple[TensorParallelEngine, PreTrainedConfig]:
    """Load this rank's shard of a checkpoint, and its configuration; all ranks call it together, in a process group.

    CheckpointError where it cannot be sharded over these ranks, or cannot be loaded whole.
    """
    stored = read_json(directory / CONFIG)
    if card.quantization:
        stored["quantization_config"] = card.quantization
    require_divisible(stored, rank.world_size, card.id)
    if card.trust_remote_code:
        raise CheckpointError(
            f"{card.id}: it runs modelling code of its own, which scoring.engine=deepspeed_tp cannot shard; score it "
            "with scoring.engine=transformers, or exclude it with checkpoints.only"
        )
    files = weight_files(directory, allow_pickle=allow_pickle)
    stored_dtype: Any = _dtype_to_map(files) or scoring.dtype
    on_host = replace(scoring, device="cpu", dtype=stored_dtype)
    with experts_sharded_on_load(rank):
        model, config = load_model(card, directory, on_host, allow_pickle=allow_pickle)
    require_divisible(model.config.get_text_config(decoder=True).to_dict(), rank.world_size, card.id)
    with loading_errors(card, directory):
        body, head = shard(model, rank, getattr(torch, scoring.dtype))
    return TensorParallelEngine(body, head, rank), config


class TensorParallelEngine:
    """This rank's shard of a checkpoint. All ranks must score the same batches, or they wait for each other.

    Where `attend` is given, as by default on a GPU in half precision, sequences are packed as in `PackedEngine`; else
    each runs alone. A pack that does not fit in memory raises: one rank alone cannot run a smaller one.
    """

    def __init__(
        self,
        body: PreTrainedModel,
        head: ShardedHead,
        rank: Rank,
        *,
        attend: VarlenAttention | None = None,
        pass_tokens: int = PASS_TOKENS,
    ) -> None:
        attend = attend or (varlen_attention_for(body.device, body.dtype) if body.device.type == "cuda" else None)
        if attend is not None:
            enable_varlen_attention(body)
        self.name = f"deepspeed_tp, {rank.world_size} ranks"
        self.pass_tokens = 1 if attend is None else pass_tokens
        self.body = body.eval()
        self.head = head
        self._attend = attend

    @property
    def module(self) -> nn.Module:
        """This rank's shard of the body."""
        module: nn.Module = self.body
        return module

    @property
    def batch_tokens(self) -> int:
        """The tokens of one pass."""
        return self.pass_tokens

    @torch.inference_mode()
    def score(self, batch: Sequence[Query]) -> list[TokenScores]:
        """Run packs of queries, or one after the other; every rank gets all results."""
        return score_in_packs(batch, self.pass_tokens, self._score)

    def _score(self, queries: Sequence[Query]) -> list[DeviceScores]:
        return run_pack(queries, partial(body_and_head, self.body, self.head.token_nll), self._attend, self.body.device)


def shard(model: PreTrainedModel, rank: Rank, dtype: torch.dtype) -> tuple[PreTrainedModel, ShardedHead]:
    """Shard a whole model on the host, which is modified, to this rank's body and head, on its device, in `dtype`.

    The weights of the model may be views of mapped files: only this rank's shards are copied, a matrix at a time.
    """
    body: Any = text_decoder(model)
    head = Head.of(model)
    is_tied = any(weight is head.weight_VD for weight in body.parameters())
    buffers = [
        (module, name, buffer) for module in body.modules() for name, buffer in module.named_buffers(recurse=False)
    ]
    own = ShardedHead.of(head, rank)
    device = _auto_tp(body, rank)
    shard_norms(body, rank)
    shard_experts(body, rank)
    embedding = shard_embedding(body, rank)
    _move_to_device(body, device, dtype)
    for module, name, buffer in buffers:  # DeepSpeed casts them, and bfloat16 is too coarse for rotary frequencies
        setattr(module, name, buffer.to(device))
    _restore_scales(body, dtype)
    return body, own.copied_to(device, dtype, tied=embedding.weight if is_tied else None)


class _AllRanks:
    """Has DeepSpeed use the existing process group: one that it creates would not have its timeout."""

    def get_model_parallel_group(self) -> ProcessGroup | None:
        return distributed.group.WORLD


def _auto_tp(body: PreTrainedModel, rank: Rank) -> torch.device:
    """Have DeepSpeed shard the matrices of the body, as views of the whole ones; returns the device that it uses."""
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    disable_shared_memory_all_reduce()
    with redirect_stdout(io.StringIO()) as output:
        deepspeed.init_distributed()
        deepspeed.init_inference(
            body,
            tensor_parallel={
                "tp_size": rank.world_size,
                "tp_grain_size": 1,  # with the default of 64 hidden units the ranks' shards may differ, or be empty
                "mpu": _AllRanks(),
                "tp_group": distributed.group.WORLD,
            },
            dtype=body.dtype,
            replace_with_kernel_inject=False,
            keep_module_on_host=True,
        )
    _log.debug("DeepSpeed: %s", output.getvalue().strip())
    whole = [name for name, module in body.named_modules() if rank.world_size > 1 and isinstance(module, nn.Linear)]
    assert not whole, f"{type(body).__name__}: not sharded: {whole[:3]}"
    return torch.device(get_accelerator().current_device_name())


def _move_to_device(body: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> None:
    """Move the weights to the device in `dtype`, one at a time, and free the matrices that they are views of."""
    for module in body.modules():
        is_view = is_tensor_parallel(module)
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(device, dtype, copy=is_view)


def _restore_scales(body: PreTrainedModel, dtype: torch.dtype) -> None:
    """Set the buffers whose values were rounded to the dtype in which the weights are stored; Gemma has one."""
    for module in body.modules():
        restore_embedding_scale(module, dtype, body.device)
    kept = {buffer.dtype for buffer in body.buffers() if buffer.is_floating_point()}
    assert kept <= {dtype, torch.float32}, (
        f"{type(body).__name__}: a buffer was rounded to the dtype in which the weights are stored"
    )


def _dtype_to_map(files: Sequence[Path]) -> str | None:
    """Name of the dtype in which all weights are stored, with which their files can be mapped without a copy.

    None where they differ, or DeepSpeed does not support the dtype on this device: then all are cast, and each rank
    holds the whole checkpoint in memory while it loads.
    """
    from deepspeed.accelerator import get_accelerator

    if any(file.suffix != ".safetensors" for file in files):
        return None
    stored = {tensor["dtype"] for file in files for tensor in safetensors_header(file).values()}
    name = _DTYPES.get(stored.pop()) if len(stored) == 1 else None
    return name if name and getattr(torch, name) in get_accelerator().supported_dtypes() else None
