"""The engine `deepspeed_zero`: one checkpoint over all ranks, for weights that all GPUs together cannot hold.

DeepSpeed's ZeRO-Inference: every rank keeps its partition of each weight in CPU memory or on NVMe, and a layer is
gathered on all ranks, used, and dropped. Each forward pass transfers all weights once, so a pass has as many tokens as
fit; ranks run different sequences and exchange the scores. Shapes: P tokens of a pass, R scored tokens, D width.
"""

from __future__ import annotations

import gc
import heapq
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from transformers import PreTrainedConfig, PreTrainedModel

from psych_ray.checkpoints.cards import CONFIG, read_json
from psych_ray.compat.deepspeed import release_zero_engine, zero_partition_directories
from psych_ray.compat.transformers import text_decoder
from psych_ray.config import CheckpointCard, ScoringConfig
from psych_ray.errors import CheckpointError
from psych_ray.scoring.engines.base import NO_SCORES, Query, TokenScores, pass_memory_errors
from psych_ray.scoring.engines.packed import DeviceScores, body_and_head, run_pack, to_host
from psych_ray.scoring.engines.packed_attention import (
    VarlenAttention,
    enable_varlen_attention,
    require_packable,
    varlen_attention_for,
)
from psych_ray.scoring.engines.sharded.process_group import Rank
from psych_ray.scoring.engines.sharded.zero_partition import (
    deepspeed_config,
    partitioned_on_load,
    require_async_io,
    suppress_output,
)
from psych_ray.scoring.likelihood import Head
from psych_ray.scoring.models.load import load_model

_PASS_TOKENS = {"cpu": 2048, "cuda": 65_536}
"""Tokens of a rank in one forward pass, at most."""

_DUMMY = Query(np.zeros(2, np.int64), np.ones(1, np.int64))
"""Run by a rank without queries in a pass, because gathering weights is a collective of all ranks."""


def load_zero(
    card: CheckpointCard,
    directory: Path,
    scoring: ScoringConfig,
    rank: Rank,
    *,
    allow_pickle: bool,
    nvme: Path | None = None,
    packed: bool = True,
) -> tuple[ZeroEngine, PreTrainedConfig]:
    """Load a checkpoint partitioned over all ranks; all of them call this together, in a process group.

    `nvme`: directory in whose files the partitions are kept until the engine is closed, instead of in memory.
    `packed=False`: one sequence per pass and rank, for architectures whose layers would mix sequences. CheckpointError
    where it cannot be loaded whole, or not by this engine.
    """
    _require_supported(card, directory)
    if nvme is not None:
        require_async_io()
    with suppress_output():
        settings = deepspeed_config(directory, scoring, rank, nvme)
        with partitioned_on_load(settings):
            model, config = load_model(card, directory, scoring, allow_pickle=allow_pickle, partitioned=True)
        attend = _attention_of(model) if packed else None
        return ZeroEngine(model, settings, rank, attend=attend), config


class ZeroEngine:
    """One model over all ranks, each of which holds a partition of every weight and scores a part of every batch.

    Every rank calls `score` with the same queries in the same order, and gets all scores.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        settings: dict[str, Any],
        rank: Rank,
        *,
        attend: VarlenAttention | None,
        pass_tokens: int | None = None,
    ) -> None:
        import deepspeed

        if attend is not None:
            enable_varlen_attention(model)
        self.name = f"deepspeed_zero, {rank.world_size} rank{'s' if rank.world_size > 1 else ''}"
        nvme = settings["zero_optimization"]["offload_param"].get("nvme_path")
        self._nvme = Path(nvme) if nvme else None
        self._rank = rank
        self._attend = attend
        self._device = model.device
        self.pass_tokens = pass_tokens or _agreed_minimum(_pass_tokens(model))
        whole = _BodyAndHead(model).eval()
        self._engine, *_ = deepspeed.initialize(model=whole, config=settings, dist_init_required=False)

    @property
    def is_packed(self) -> bool:
        """Whether a rank runs several sequences in one pass."""
        return self._attend is not None

    @property
    def module(self) -> nn.Module:
        """Body and head as one module, whose weights are partitioned."""
        module: nn.Module = self._engine.module
        return module

    @property
    def batch_tokens(self) -> int:
        """The tokens of one pass, of all ranks together."""
        return self.pass_tokens * self._rank.world_size

    @torch.no_grad()
    def score(self, batch: Sequence[Query]) -> list[TokenScores]:
        """Run this rank's queries, in as many passes as every other rank, and exchange the scores."""
        scored = [index for index, query in enumerate(batch) if len(query.at_R)]
        lengths = [batch[index].length for index in scored]
        limit = self.pass_tokens if self._attend else None
        own: dict[int, DeviceScores] = {}
        for by_rank in passes(lengths, self._rank.world_size, limit):
            indices = [scored[k] for k in by_rank[self._rank.index]]
            queries = [batch[index] for index in indices] or [_DUMMY]
            with pass_memory_errors(sum(query.length for query in queries)):
                results = run_pack(queries, self._engine, self._attend, self._device)
            own.update(zip(indices, results, strict=bool(indices)))
        scores = [NO_SCORES] * len(batch)
        for of_rank in self._all_gather(to_host(own)) if scored else ():
            for index, of_query in of_rank.items():
                scores[index] = of_query
        return scores

    def close(self) -> None:
        """Free the weights, and delete their files."""
        release_zero_engine(self._engine)
        for directory in zero_partition_directories(self._nvme, self._rank.index) if self._nvme else ():
            shutil.rmtree(directory, ignore_errors=True)
        del self._engine
        gc.collect()

    def _all_gather(self, own: dict[int, TokenScores]) -> list[dict[int, TokenScores]]:
        by_rank: list[Any] = [None] * self._rank.world_size
        distributed.all_gather_object(by_rank, own)
        return by_rank


class _BodyAndHead(nn.Module):
    """A whole forward pass as one module: weights are gathered by hooks around the forwards of modules."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.body = text_decoder(model)
        self.head = _HeadModule(Head.of(model))

    def forward(
        self, ids_1P: Tensor, positions_1P: Tensor, from_R: Tensor, targets_R: Tensor, options_RK: Tensor | None
    ) -> Any:
        """Scores of the targets, predicted from the states at `from_R`."""
        return body_and_head(self.body, self.head, ids_1P, positions_1P, from_R, targets_R, options_RK)


class _HeadModule(nn.Module):
    """A head as a module with its weight, the embedding's where tied, so that it is gathered once for all chunks."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.weight, self.bias = head.weight_VD, head.bias_V
        self._scale, self._soft_cap = head.scale, head.soft_cap

    def forward(self, hidden_RD: Tensor, targets_R: Tensor, options_RK: Tensor | None) -> tuple[Tensor, ...]:
        """As `Head.token_nll`."""
        return Head(self.weight, self.bias, self._scale, self._soft_cap).token_nll(hidden_RD, targets_R, options_RK)


def _pass_tokens(model: PreTrainedModel) -> int:
    """Tokens whose states within one layer fill half of a GPU: a pass that does not fit ends the whole gang."""
    most = _PASS_TOKENS[model.device.type]
    if model.device.type == "cpu":
        return most
    config = model.config.get_text_config(decoder=True)
    width = config.hidden_size
    inner = [getattr(config, "moe_intermediate_size", None) or 0, getattr(config, "intermediate_size", None) or width]
    inner[0] *= getattr(config, "num_experts_per_tok", None) or 0
    bytes_per_token: int = model.dtype.itemsize * (16 * width + 4 * max(inner))
    memory: int = torch.cuda.get_device_properties(model.device).total_memory
    return max(1, min(most, memory // (2 * bytes_per_token)))


def _agreed_minimum(value: int) -> int:
    least_1 = torch.tensor([value])
    distributed.all_reduce(least_1, distributed.ReduceOp.MIN)
    return int(least_1.numpy()[0])


def passes(lengths: Sequence[int], n_ranks: int, most_tokens: int | None) -> list[list[list[int]]]:
    """Distribute queries over forward passes: for each pass, for each rank, the indices that it runs, possibly none.

    As few passes as `most_tokens` per rank and pass allow (None: one query), each with ranks evenly loaded. A query
    with more tokens is run alone.
    """
    if not lengths:
        return []
    n_passes = -(-len(lengths) // n_ranks)
    if most_tokens is not None:
        tokens = sum(min(length, most_tokens) for length in lengths)
        n_passes = min(n_passes, -(-tokens // (most_tokens * n_ranks)))
    while True:
        groups = _even_groups(lengths, n_passes * n_ranks)
        limit = most_tokens or 0
        if all(len(group) <= 1 or sum(lengths[index] for index in group) <= limit for group in groups):
            break
        n_passes += 1
    # groups of similar length together: a pass takes as long as its longest group
    groups.sort(key=lambda group: -sum(lengths[index] for index in group))
    return [[sorted(group) for group in groups[at : at + n_ranks]] for at in range(0, len(groups), n_ranks)]


def _even_groups(lengths: Sequence[int], n: int) -> list[list[int]]:
    """Distribute indices over `n` groups, the longest first, always to the group with the fewest tokens."""
    groups: list[list[int]] = [[] for _ in range(n)]
    loads = [(0, k) for k in range(n)]
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        load, k = heapq.heappop(loads)
        groups[k].append(index)
        heapq.heappush(loads, (load + lengths[index], k))
    return groups


def _require_supported(card: CheckpointCard, directory: Path) -> None:
    """Raise CheckpointError for weights that cannot be partitioned, and for modelling code of the checkpoint's own."""
    if card.quantization or read_json(directory / CONFIG).get("quantization_config"):
        raise CheckpointError(
            f"{card.id}: its weights are quantized, which scoring.engine=deepspeed_zero cannot partition over ranks; "
            "score it with scoring.engine=transformers, or exclude it with checkpoints.only"
        )
    if card.trust_remote_code:
        raise CheckpointError(
            f"{card.id}: it runs modelling code of its own, which scoring.engine=deepspeed_zero does not; score it "
            "with scoring.engine=transformers, or exclude it with checkpoints.only"
        )


def _attention_of(model: PreTrainedModel) -> VarlenAttention | None:
    """Kernel that attends within the sequences of a pack; None where its layers cannot be packed or there is none."""
    try:
        require_packable(model)
    except ValueError:
        return None
    return varlen_attention_for(model.device, model.dtype)
