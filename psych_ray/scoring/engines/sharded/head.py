"""The vocabulary-parallel head: each rank holds some rows of it, and communicates four numbers per token.

DeepSpeed shards the head along the width and sums whole logits over the ranks, V numbers per token. Here a rank
computes the logits of its own rows at the scored tokens only, and the ranks reduce the largest logit, its index, the
sum of exponentials and the target's logit. Shapes: R scored tokens, D width, V vocabulary, v rows of this rank.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup, ReduceOp

from psych_ray.scoring.engines.sharded.process_group import Rank, shard_bounds
from psych_ray.scoring.likelihood import Head, LogitSummary, summarize


@dataclass(frozen=True, slots=True)
class ShardedHead:
    """The rows of a head that this rank holds."""

    rows: Head
    """Computes the logits of tokens `first` to `first` + v."""
    first: int
    vocabulary: int
    group: ProcessGroup | None = None
    """The ranks that hold the other rows; None: all ranks."""

    @classmethod
    def of(cls, head: Head, rank: Rank) -> ShardedHead:
        """Select this rank's rows, as views of the whole head."""
        vocabulary = head.weight_VD.shape[0]
        first, end = shard_bounds(vocabulary, rank)
        bias_V = None if head.bias_V is None else head.bias_V[first:end]
        return cls(replace(head, weight_VD=head.weight_VD[first:end], bias_V=bias_V), first, vocabulary)

    def copied_to(self, device: torch.device, dtype: torch.dtype, *, tied: Tensor | None = None) -> ShardedHead:
        """Copy the rows, so that the whole head can be freed; `tied`: the embedding's rows, used instead."""
        weight_vD, bias_v = tied, self.rows.bias_V
        if weight_vD is None:
            weight_vD = self.rows.weight_VD.detach().to(device, dtype, copy=True)
        if bias_v is not None:
            bias_v = bias_v.detach().to(device, dtype, copy=True)
        return replace(self, rows=replace(self.rows, weight_VD=weight_vD, bias_V=bias_v))

    def token_nll(self, hidden_RD: Tensor, targets_R: Tensor) -> tuple[Tensor, Tensor]:
        """As `Head.token_nll`, the same on every rank; all ranks must call it with the same arguments.

        Where several tokens of the vocabulary share the largest logit, the first of them is the arg max.
        """
        n_rows = self.rows.weight_VD.shape[0]
        row_R = targets_R - self.first
        is_own_R = (row_R >= 0) & (row_R < n_rows)
        chunks = summarize(hidden_RD, self.rows, row_R.clamp(0, n_rows - 1))
        own_largest_R = torch.cat([chunk.largest for chunk in chunks])
        own_argmax_R = torch.cat([chunk.argmax for chunk in chunks]) + self.first
        exp_sum_R = torch.cat([chunk.exp_sum for chunk in chunks])
        target_R = torch.cat([chunk.target for chunk in chunks]).where(is_own_R, 0.0)

        largest_R = own_largest_R.clone()
        distributed.all_reduce(largest_R, ReduceOp.MAX, self.group)
        sums_2R = torch.stack([exp_sum_R * (own_largest_R - largest_R).exp_(), target_R])
        distributed.all_reduce(sums_2R, ReduceOp.SUM, self.group)
        argmax_R = torch.where(own_largest_R == largest_R, own_argmax_R, self.vocabulary)
        distributed.all_reduce(argmax_R, ReduceOp.MIN, self.group)
        return LogitSummary(largest_R, argmax_R, *sums_2R).nll(), argmax_R == targets_R
