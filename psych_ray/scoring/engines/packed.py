"""Scores queries in packs: the steps common to all engines with several sequences per pass, and `PackedEngine`.

The steps do not depend on how weights are held: an engine provides the forward of a pack.
Shapes: P tokens of a pack, R scored tokens, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from psych_ray.compat.transformers import text_decoder
from psych_ray.errors import InsufficientMemoryError
from psych_ray.scoring.engines.base import NO_SCORES, Query, TokenScores, pass_memory_errors
from psych_ray.scoring.engines.packed_attention import (
    Pack,
    VarlenAttention,
    enable_varlen_attention,
    packed_attention,
    require_packable,
    varlen_attention_for,
)
from psych_ray.scoring.engines.packs import PASS_TOKENS, packs
from psych_ray.scoring.engines.row_blocks import layers_in_blocks
from psych_ray.scoring.likelihood import Head

_log = logging.getLogger(__name__)

DeviceScores = tuple[Tensor, ...]
"""The fields of `TokenScores` for one query, on the device."""
TokenNll = Callable[[Tensor, Tensor, Tensor | None], DeviceScores]
"""As `Head.token_nll`: hidden states [R, D], targets [R] and options [R, K] to scores."""


class PackedEngine:
    """One transformers model on one device; as many sequences per forward pass as fit in `batch_tokens`."""

    name = "transformers, packed"

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        batch_tokens: int = PASS_TOKENS,
        attend: VarlenAttention | None = None,
        layer_rows: int | None = None,
    ) -> None:
        attend = attend or varlen_attention_for(model.device, model.dtype)
        if attend is None:
            raise ValueError(f"there is no varlen attention in {model.dtype} on {model.device.type}")
        require_packable(model)
        enable_varlen_attention(model)
        self.model = model.eval()
        self.batch_tokens = batch_tokens
        self._attend = attend
        self._body = text_decoder(model)
        self._layer_rows = layer_rows
        self._forward = partial(body_and_head, self._body, Head.of(model).token_nll)

    @torch.inference_mode()
    def score(self, batch: Sequence[Query]) -> list[TokenScores]:
        """Run packs of queries; one synchronization with the GPU in all.

        A pack that does not fit in memory halves `batch_tokens`, permanently; InsufficientMemoryError where a single
        sequence does not fit.
        """
        return score_in_packs(batch, self.batch_tokens, self._score, halve=self._halve)

    def _score(self, queries: Sequence[Query]) -> list[DeviceScores]:
        blocks = layers_in_blocks(self._body, self._layer_rows) if self._layer_rows else nullcontext()
        with blocks:
            return run_pack(queries, self._forward, self._attend, self.model.device)

    def _halve(self, tokens: int) -> int:
        torch.cuda.empty_cache()
        self.batch_tokens = min(self.batch_tokens, tokens) // 2
        _log.warning("out of memory with %d tokens in a pass; passes now have %d", tokens, self.batch_tokens)
        return self.batch_tokens


def score_in_packs(
    batch: Sequence[Query],
    pass_tokens: int,
    score_pack: Callable[[Sequence[Query]], list[DeviceScores]],
    *,
    halve: Callable[[int], int] | None = None,
) -> list[TokenScores]:
    """Score the queries that have scored tokens in packs of at most `pass_tokens`; one result per query, in order.

    InsufficientMemoryError, with the number of tokens, where a pack does not fit and cannot be made smaller.
    `halve`: called with the tokens of a pack of several queries that ran out of memory; returns the new `pass_tokens`.
    """
    scored: dict[int, DeviceScores] = {}
    while waiting := [index for index, query in enumerate(batch) if len(query.at_R) and index not in scored]:
        for group in packs([batch[index].length for index in waiting], pass_tokens):
            indices = [waiting[k] for k in group]
            n_tokens = sum(batch[index].length for index in indices)
            try:
                with pass_memory_errors(n_tokens):
                    results = score_pack([batch[index] for index in indices])
            except InsufficientMemoryError:
                if halve is None or len(indices) == 1:
                    raise
            else:
                scored.update(zip(indices, results, strict=True))
                continue
            pass_tokens = halve(n_tokens)  # outside of the except block, which holds the tensors of the failed pass
            break
    on_host = to_host(scored)
    return [on_host.get(index, NO_SCORES) for index in range(len(batch))]


def run_pack(
    queries: Sequence[Query],
    forward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], DeviceScores],
    attend: VarlenAttention | None,
    device: torch.device,
) -> list[DeviceScores]:
    """Run queries in one forward pass, as a pack.

    `forward`: ids [1, P], positions [1, P], `from_R`, `targets_R` and `options_RK` of a `Pack` to scores [R].
    """
    pack = Pack.of(queries, device)
    with packed_attention(pack, attend):
        scores = forward(pack.ids_1P, pack.positions_1P, pack.from_R, pack.targets_R, pack.options_RK)
    return list(zip(*(values.split(pack.counts) for values in scores), strict=True))


def body_and_head(
    body: Any,
    token_nll: TokenNll,
    ids_1P: Tensor,
    positions_1P: Tensor,
    from_R: Tensor,
    targets_R: Tensor,
    options_RK: Tensor | None,
) -> DeviceScores:
    """Body over the whole pack, head at the scored tokens only."""
    hidden_1PD = body(input_ids=ids_1P, position_ids=positions_1P, use_cache=False).last_hidden_state
    return token_nll(hidden_1PD[0, from_R], targets_R, options_RK)


def to_host(scored: Mapping[int, DeviceScores]) -> dict[int, TokenScores]:
    """Bring the scores of queries to numpy, by index, in one copy of each kind."""
    if not scored:
        return {}
    ends = np.cumsum([len(scores[0]) for scores in scored.values()])[:-1]
    kinds = [torch.cat(values).cpu().numpy() for values in zip(*scored.values(), strict=True)]
    results = zip(*(np.split(values, ends) for values in kinds), strict=True)
    return {index: TokenScores(*result) for index, result in zip(scored, results, strict=True)}
