"""Causal attention on a CPU in blocks of keys, float32: products by oneDNN, softmax with a running maximum and sum.

Scores of all keys at once would need a matrix of another size for every block of queries, which the allocator keeps;
here they have one size, whatever the length of a sequence. Blocks that causality or a window hides are left out. Does
not depend on models or on how sequences are packed.
Shapes: Q query tokens of a pack, P key tokens, H heads, K heads of keys and values, G heads that share one, D width;
within one sequence I query tokens, L of G heads together, and J key tokens.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from psych_ray.scoring.engines.onednn import linear

QUERIES = 256
"""Query tokens per product: with more of them, more of the product is discarded by the causal mask."""
_KEYS = 2048
"""Key tokens per product, at least `QUERIES`: with fewer, threads wait for each other more often."""


def attend(
    query_QHD: Tensor,
    key_PKD: Tensor,
    value_PKD: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """Causal attention within the sequences of a pack, float32 [Q, H, D]; called as `varlen_attn` is.

    A sequence may have more keys than queries: its last query is the token of its last key.
    """
    del max_seqlen_q, max_seqlen_k, enable_gqa
    scale = query_QHD.shape[-1] ** -0.5 if scale is None else scale
    query_HQD = (query_QHD * scale).transpose(0, 1)
    # oneDNN has no fast product with rows that are apart.
    keys, values = ([head_PD.contiguous() for head_PD in states.unbind(1)] for states in (key_PKD, value_PKD))
    output_QHD = query_QHD.new_empty(*query_QHD.shape[:2], value_PKD.shape[-1])
    output_HQD = output_QHD.transpose(0, 1)
    group = query_QHD.shape[1] // len(keys)
    bounds = zip(*(itertools.pairwise(cu_seqlens.tolist()) for cu_seqlens in (cu_seqlens_q, cu_seqlens_k)), strict=True)
    for (first, last), (first_key, last_key) in bounds:
        for index, (key_PD, value_PD) in enumerate(zip(keys, values, strict=True)):
            heads = slice(index * group, (index + 1) * group)
            _attend_one(
                query_HQD[heads, first:last],
                key_PD[first_key:last_key],
                value_PD[first_key:last_key],
                window_size[0],
                output_HQD[heads, first:last],
            )
    return output_QHD


def _attend_one(query_GID: Tensor, key_JD: Tensor, value_JD: Tensor, window: int, output_GID: Tensor) -> None:
    """Attention of the heads that share keys over one sequence, `window` tokens back (-1: all of them)."""
    earlier = len(key_JD) - query_GID.shape[1]
    for first in range(0, query_GID.shape[1], QUERIES):
        rows = slice(first, first + QUERIES)
        _attend_rows(query_GID[:, rows], first + earlier, key_JD, value_JD, window, output_GID[:, rows])


def _attend_rows(query_GID: Tensor, at: int, key_JD: Tensor, value_JD: Tensor, window: int, output_GID: Tensor) -> None:
    """Attention of a block of queries, of which the first is the token of key `at`."""
    heads_and_rows = query_GID.shape[:2]
    blocks = list(_key_blocks(at, at + heads_and_rows[1], window))
    query_LD = query_GID.flatten(0, 1)
    if len(blocks) > 1:
        query_LD = query_LD * math.log2(math.e)

    def scores(block: slice) -> Tensor:
        scores_LJ = linear(query_LD, key_JD[block])
        _hide(scores_LJ.unflatten(0, heads_and_rows), at - block.start, window)
        return scores_LJ

    if len(blocks) > 1:
        output_LD = _mix_blocks((scores(block), value_JD[block]) for block in blocks)
    else:
        output_LD = linear(scores(blocks[0]).softmax(-1), value_JD[blocks[0]].t())
    output_GID.copy_(output_LD.unflatten(0, heads_and_rows))


def _mix_blocks(blocks: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Values [L, D] mixed by the softmax over the scores of all blocks, which are binary logarithms and are changed.

    Powers of 2 take a fifth of the time of powers of e, which PyTorch computes with MKL.
    """
    output_LD = sum_L1 = largest_L1 = torch.tensor(-torch.inf)
    for number, (scores_LJ, value_JD) in enumerate(blocks):
        new_L1 = torch.maximum(scores_LJ.amax(-1, keepdim=True), largest_L1)
        weights_LJ = scores_LJ.sub_(new_L1).exp2_()
        part_LD, part_L1 = linear(weights_LJ, value_JD.t()), weights_LJ.sum(-1, keepdim=True)
        if number:
            shrink_L1 = largest_L1.sub_(new_L1).exp2_()
            part_LD += output_LD.mul_(shrink_L1)
            part_L1 += sum_L1.mul_(shrink_L1)
        output_LD, sum_L1, largest_L1 = part_LD, part_L1, new_L1
    return output_LD.mul_(sum_L1.reciprocal_())


def _key_blocks(first: int, last: int, window: int) -> Iterator[slice]:
    """Blocks of the keys that queries `first` to `last` attend to.

    The latest comes first: each query attends to a key of it, its own, so that there is a finite maximum from then on.
    """
    oldest = max(0, first - window) if window >= 0 else 0
    for stop in range(last, oldest, -_KEYS):
        yield slice(max(oldest, stop - _KEYS), stop)


def _hide(scores_GIJ: Tensor, offset: int, window: int) -> None:
    """Set scores to -inf where key j is after query i, which is key `offset` + i, or more than `window` before it."""
    n_queries, n_keys = scores_GIJ.shape[1:]
    # Adding -inf takes an eighth of the time of filling by a mask.
    if n_keys > offset + 1:
        scores_GIJ[..., offset:] += torch.full((n_queries, n_keys - offset), -torch.inf).triu_(1)
    if window >= 0 and offset + n_queries - 1 > window:
        scores_GIJ += torch.full((n_queries, n_keys), -torch.inf).tril_(offset - window - 1)
