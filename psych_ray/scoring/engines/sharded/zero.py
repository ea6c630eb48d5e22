"""One checkpoint over all ranks by DeepSpeed's ZeRO-Inference: for weights that no GPU, nor all of them, can hold.

Every rank keeps its share of each weight in CPU memory or on NVMe; a layer is put together on all ranks, used, and
dropped. That journey is paid once a forward pass, so a pass takes as many tokens as fit; ranks read different
sequences, and exchange the answers. Knows no tokenizer; adapters, quantized weights and foreign code are refused.
Shapes: P tokens of a pass, T of one sequence, R wanted tokens, D width, V vocabulary.
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
from psych_ray.compat import release_zero_engine, text_decoder, zero_partition_directories
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
"""Tokens a rank reads in one forward pass, at most."""

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
    """Load a checkpoint over all ranks, each a share; all of them call this, after `ranks.join`.

    `nvme`: keep the shares in files there, until the engine is closed, not in memory. `packed=False`: one sequence a
    pass, for architectures whose layers would mix sequences. CheckpointError where it cannot be loaded whole, or not
    in this way.
    """
    _refuse(card, directory)
    if nvme is not None:
        require_async_io()
    with suppress_output():
        settings = deepspeed_config(directory, scoring, rank, nvme)
        with partitioned_on_load(settings):
            model, config = load_model(card, directory, scoring, allow_pickle=allow_pickle)
        attend = _attention_of(model) if packed else None
        return ZeroEngine(model, settings, rank, attend=attend), config


class ZeroEngine:
    """One model over all ranks, each holding a share of every weight and scoring a share of every batch.

    Every rank calls `score` with the same queries in the same order, and gets all answers.
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
    def batch_tokens(self) -> int:
        """One pass of all ranks."""
        return self.pass_tokens * self._rank.world_size

    @torch.no_grad()
    def score(self, batch: Sequence[Query]) -> list[TokenScores]:
        """Run this rank's share, as many passes as any other rank does, and exchange the answers."""
        wanted = [index for index, query in enumerate(batch) if len(query.at_R)]
        lengths = [batch[index].length for index in wanted]
        limit = self.pass_tokens if self._attend else None
        own: dict[int, DeviceScores] = {}
        for by_rank in passes(lengths, self._rank.world_size, limit):
            indices = [wanted[k] for k in by_rank[self._rank.index]]
            queries = [batch[index] for index in indices] or [_DUMMY]
            with pass_memory_errors(sum(query.length for query in queries)):
                results = run_pack(queries, self._engine, self._attend, self._device)
            own.update(zip(indices, results, strict=bool(indices)))
        scores = [NO_SCORES] * len(batch)
        for of_rank in self._all_gather(to_host(own)) if wanted else ():
            for index, of_query in of_rank.items():
                scores[index] = of_query
        return scores

    def close(self) -> None:
        """Let go of the weights, here and in DeepSpeed, which keeps every model that it has seen."""
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
    """What one forward pass runs, as one module: weights are gathered by hooks around the forwards of modules."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.body = text_decoder(model)
        self.head = _ShardedHead(Head.of(model))

    def forward(self, ids_1P: Tensor, positions_1P: Tensor, from_R: Tensor, targets_R: Tensor) -> Any:
        """NLL and arg max of the targets, each read off the state before it."""
        return body_and_head(self.body, self.head, ids_1P, positions_1P, from_R, targets_R)


class _ShardedHead(nn.Module):
    """A head that owns its weight, the embedding's where they are tied, so that it is gathered once for all chunks."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.weight, self.bias = head.weight_VD, head.bias_V
        self._scale, self._soft_cap = head.scale, head.soft_cap

    def forward(self, hidden_RD: Tensor, targets_R: Tensor) -> tuple[Tensor, Tensor]:
        """As `Head.token_nll`."""
        return Head(self.weight, self.bias, self._scale, self._soft_cap).token_nll(hidden_RD, targets_R)


def _pass_tokens(model: PreTrainedModel) -> int:
    """How many tokens' states within one layer fill half of a GPU; one that does not fit ends the whole gang."""
    most = _PASS_TOKENS[model.device.type]
    if model.device.type == "cpu":
        return most
    config = model.config.get_text_config(decoder=True)
    width = config.hidden_size
    inner = [getattr(config, "moe_intermediate_size", None) or 0, getattr(config, "intermediate_size", None) or width]
    inner[0] *= getattr(config, "num_experts_per_tok", None) or 0
    bytes_a_token: int = model.dtype.itemsize * (16 * width + 4 * max(inner))
    memory: int = torch.cuda.get_device_properties(model.device).total_memory
    return max(1, min(most, memory // (2 * bytes_a_token)))


def _agreed_minimum(value: int) -> int:
    least_1 = torch.tensor([value])
    distributed.all_reduce(least_1, distributed.ReduceOp.MIN)
    return int(least_1.numpy()[0])


def passes(lengths: Sequence[int], n_ranks: int, most_tokens: int | None) -> list[list[list[int]]]:
    """Deal queries to forward passes: for each pass, for each rank, the places it reads; some may be empty.

    As few passes as `most_tokens` a rank and pass allow (None: one query at a time), each with ranks evenly loaded. A
    query beyond that is read alone.
    """
    if not lengths:
        return []
    n_passes = -(-len(lengths) // n_ranks)
    if most_tokens is not None:
        tokens = sum(min(length, most_tokens) for length in lengths)
        n_passes = min(n_passes, -(-tokens // (most_tokens * n_ranks)))
    while True:
        shares = _even_shares(lengths, n_passes * n_ranks)
        limit = most_tokens or 0
        if all(len(share) <= 1 or sum(lengths[place] for place in share) <= limit for share in shares):
            break
        n_passes += 1
    # the longest together: a pass takes as long as its longest share
    shares.sort(key=lambda share: -sum(lengths[place] for place in share))
    return [[sorted(share) for share in shares[at : at + n_ranks]] for at in range(0, len(shares), n_ranks)]


def _even_shares(lengths: Sequence[int], n: int) -> list[list[int]]:
    """Deal places to `n` shares, the longest first, always to the one that has least."""
    shares: list[list[int]] = [[] for _ in range(n)]
    loads = [(0, k) for k in range(n)]
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        load, k = heapq.heappop(loads)
        shares[k].append(place)
        heapq.heappush(loads, (load + lengths[place], k))
    return shares


def _refuse(card: CheckpointCard, directory: Path) -> None:
    """Raise CheckpointError for what cannot be cut into shares, or whose layers nobody here has seen."""
    if card.quantization or read_json(directory / CONFIG).get("quantization_config"):
        raise CheckpointError(
            f"{card.id}: its weights are quantized, which scoring.engine=deepspeed_zero cannot share among ranks; "
            "score it with scoring.engine=transformers, or leave it out with checkpoints.only"
        )
    if card.trust_remote_code:
        raise CheckpointError(
            f"{card.id}: it runs modelling code of its own, which scoring.engine=deepspeed_zero does not; score it "
            "with scoring.engine=transformers, or leave it out with checkpoints.only"
        )


def _attention_of(model: PreTrainedModel) -> VarlenAttention | None:
    """What attends within the sequences of a pack; None: its layers do not, or nothing here does in this dtype."""
    try:
        require_packable(model)
    except ValueError:
        return None
    return varlen_attention_for(model.device, model.dtype)
