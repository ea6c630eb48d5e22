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
from psych_ray.config import CheckpointCard, ScoringConfig
from psych_ray.errors import CheckpointError
from psych_ray.scoring.engines.base import NOTHING, Query, TokenScores, to_scores
from psych_ray.scoring.engines.packed import Pack, VarlenAttention, kept_apart, require_packable, use_varlen, varlen_for
from psych_ray.scoring.engines.sharded.process_group import Ranks
from psych_ray.scoring.engines.sharded.zero_partition import kept_in_shares, quietly, require_async_io, settings_of
from psych_ray.scoring.likelihood import Head, token_nll
from psych_ray.scoring.models.load import load_model

_PASS_TOKENS = {"cpu": 2048, "cuda": 65_536}
"""Tokens a rank reads in one forward pass, at most."""

_NOTHING_TO_DO = Query(np.zeros(2, np.int64), np.ones(1, np.int64))
"""What a rank reads that has run out of queries, because gathering weights takes all ranks."""


def load_zero(
    card: CheckpointCard,
    directory: Path,
    scoring: ScoringConfig,
    ranks: Ranks,
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
    with quietly():
        settings = settings_of(directory, scoring, ranks, nvme)
        with kept_in_shares(settings):
            model, config = load_model(card, directory, scoring, allow_pickle=allow_pickle)
        attend = _attention_of(model) if packed else None
        return ZeroEngine(model, settings, ranks, attend=attend), config


class ZeroEngine:
    """One model over all ranks, each holding a share of every weight and scoring a share of every batch.

    Every rank calls `score` with the same queries in the same order, and gets all answers.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        settings: dict[str, Any],
        ranks: Ranks,
        *,
        attend: VarlenAttention | None,
        pass_tokens: int | None = None,
    ) -> None:
        import deepspeed

        if attend is not None:
            use_varlen(model)
        self.name = f"deepspeed_zero, {ranks.size} rank{'s' if ranks.size > 1 else ''}"
        nvme = settings["zero_optimization"]["offload_param"].get("nvme_path")
        self._nvme = Path(nvme) if nvme else None
        self._ranks = ranks
        self._attend = attend
        self._device = model.device
        self.pass_tokens = pass_tokens or _agreed_minimum(_pass_tokens(model))
        whole = _BodyAndHead(model).eval()
        self._engine, *_ = deepspeed.initialize(model=whole, config=settings, dist_init_required=False)

    @property
    def batch_tokens(self) -> int:
        """One pass of all ranks."""
        return self.pass_tokens * self._ranks.size

    @torch.no_grad()
    def score(self, batch: Sequence[Query]) -> list[TokenScores]:
        """Run this rank's share, as many passes as any other rank does, and exchange the answers."""
        asked = [place for place, query in enumerate(batch) if len(query.at_R)]
        lengths = [batch[place].length for place in asked]
        limit = self.pass_tokens if self._attend else None
        own: dict[int, TokenScores] = {}
        for at_once in passes(lengths, self._ranks.size, limit):
            places = [asked[k] for k in at_once[self._ranks.rank]]
            scored = self._pass([batch[place] for place in places] or [_NOTHING_TO_DO])
            own.update(zip(places, scored, strict=bool(places)))
        answers = [NOTHING] * len(batch)
        for theirs in self._exchanged(own) if asked else ():
            for place, scores in theirs.items():
                answers[place] = scores
        return answers

    def close(self) -> None:
        """Let go of the weights, here and in DeepSpeed, which keeps every model that it has seen."""
        from deepspeed.runtime.zero import parameter_offload

        whole = self._engine.module
        self._engine.optimizer.partition_all_parameters()
        self._engine.destroy()
        own = set(whole.modules())
        stack = parameter_offload.FWD_MODULE_STACK
        stack[:] = [module for module in stack if module not in own]
        for parameter in whole.parameters():
            parameter.ds_tensor = None
        for files in self._nvme.glob(f"zero_stage_3/*/rank{self._ranks.rank}") if self._nvme else ():
            shutil.rmtree(files, ignore_errors=True)
        del self._engine, whole, own
        gc.collect()

    def _exchanged(self, own: dict[int, TokenScores]) -> list[dict[int, TokenScores]]:
        answers: list[Any] = [None] * self._ranks.size
        distributed.all_gather_object(answers, own)
        return answers

    def _pass(self, queries: Sequence[Query]) -> list[TokenScores]:
        pack = Pack.of(queries, self._device)
        with kept_apart(pack, self._attend):
            nll_R, top1_R = self._engine(pack.ids_1P, pack.positions_1P, pack.from_R, pack.targets_R)
        nll_R, top1_R = nll_R.cpu(), top1_R.cpu()
        return [to_scores(*both) for both in zip(nll_R.split(pack.counts), top1_R.split(pack.counts), strict=True)]


class _BodyAndHead(nn.Module):
    """What one forward pass runs, as one module: weights are gathered by hooks around the forwards of modules."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.body: Any = model.get_decoder()
        if self.body is model:  # Llama 4's text class does not find its own
            self.body = model.model
        self.head = _ShardedHead(Head.of(model))

    def forward(self, ids_1P: Tensor, positions_1P: Tensor | None, from_R: Tensor, targets_R: Tensor) -> Any:
        """NLL and arg max of the targets, each read off the state before it."""
        hidden_1PD = self.body(input_ids=ids_1P, position_ids=positions_1P, use_cache=False).last_hidden_state
        return self.head(hidden_1PD[0, from_R], targets_R)


class _ShardedHead(nn.Module):
    """A head that owns its weight, the embedding's where they are tied, so that it is gathered once for all chunks."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.weight, self.bias = head.weight_VD, head.bias_V
        self._scale, self._soft_cap = head.scale, head.soft_cap

    def forward(self, hidden_RD: Tensor, targets_R: Tensor) -> tuple[Tensor, Tensor]:
        """As `token_nll`."""
        return token_nll(hidden_RD, Head(self.weight, self.bias, self._scale, self._soft_cap), targets_R)


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
    return varlen_for(model.device, model.dtype)
