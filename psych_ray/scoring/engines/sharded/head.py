"""The vocabulary-parallel head: each rank holds some rows of it, and communicates a few numbers per token.

DeepSpeed shards the head along the width and sums whole logits over the ranks, V numbers per token. Here a rank
computes the logits of its own rows at the scored tokens only, and the ranks reduce the largest logit, its index, the
sums of exponentials, and the logits of the target and the options. Shapes: R scored tokens, D width, V vocabulary, v
rows of this rank, K options, S temperatures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup, ReduceOp

from psych_ray.scoring.engines.sharded.process_group import Rank, shard_bounds
from psych_ray.scoring.likelihood import Head, summarize


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
        return cls(head.slice(first, end), first, vocabulary)

    def copied_to(self, device: torch.device, dtype: torch.dtype, *, tied: Tensor | None = None) -> ShardedHead:
        """Copy the rows, so that the whole head can be freed; `tied`: the embedding's rows, used instead."""
        weight_vD, bias_v = tied, self.rows.bias_V
        if weight_vD is None:
            weight_vD = self.rows.weight_VD.detach().to(device, dtype, copy=True)
        if bias_v is not None:
            bias_v = bias_v.detach().to(device, dtype, copy=True)
        return replace(self, rows=replace(self.rows, weight_VD=weight_vD, bias_V=bias_v))

    def token_nll(self, hidden_RD: Tensor, targets_R: Tensor, options_RK: Tensor | None = None) -> tuple[Tensor, ...]:
        """As `Head.token_nll`, the same on every rank; all ranks must call it with the same arguments.

        Where several tokens of the vocabulary share the largest logit, the first of them is the arg max.
        """
        rows_RK = None if options_RK is None else options_RK - self.first
        own = summarize(hidden_RD, self.rows, targets_R - self.first, rows_RK)
        largest_R = self._reduced(own.largest.clone(), ReduceOp.MAX)
        argmax_R = self._reduced(
            torch.where(own.largest == largest_R, own.argmax + self.first, self.vocabulary), ReduceOp.MIN
        )
        rescaled = own.rescaled(largest_R)
        summary = rescaled._replace(
            argmax=argmax_R,
            exp_sum=self._reduced(rescaled.exp_sum, ReduceOp.SUM),
            target=self._reduced(rescaled.target, ReduceOp.MAX),
        )
        if rescaled.exp_sums_RS is not None and rescaled.options_RK is not None:
            summary = summary._replace(
                exp_sums_RS=self._reduced(rescaled.exp_sums_RS, ReduceOp.SUM),
                options_RK=self._reduced(rescaled.options_RK, ReduceOp.MAX),
            )
        return summary.scores(targets_R, options_RK)

    def _reduced(self, values: Tensor, operation: ReduceOp.RedOpType) -> Tensor:
        """The values of all ranks, reduced in place; separately for each kind, as round-off depends on the shape."""
        distributed.all_reduce(values, operation, self.group)
        return values
