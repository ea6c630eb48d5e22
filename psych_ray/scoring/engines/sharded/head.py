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

from psych_ray.scoring.calibration import TEMPERATURES
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

    def token_nll(self, hidden_RD: Tensor, targets_R: Tensor, options_RK: Tensor | None = None) -> tuple[Tensor, ...]:
        """As `Head.token_nll`, the same on every rank; all ranks must call it with the same arguments.

        Where several tokens of the vocabulary share the largest logit, the first of them is the arg max.
        """
        n_rows = self.rows.weight_VD.shape[0]
        row_R = targets_R - self.first
        is_own_R = (row_R >= 0) & (row_R < n_rows)
        own = summarize(hidden_RD, self.rows, row_R.clamp(0, n_rows - 1), self._own_rows(options_RK))
        largest_R = self._reduced(own.largest.clone(), ReduceOp.MAX)
        own_R = (own.largest - largest_R).exp_()
        sums_2R = self._reduced(torch.stack([own.exp_sum * own_R, own.target.where(is_own_R, 0.0)]), ReduceOp.SUM)
        argmax_R = torch.where(own.largest == largest_R, own.argmax + self.first, self.vocabulary)
        summary = LogitSummary(largest_R, self._reduced(argmax_R, ReduceOp.MIN), *sums_2R)
        if own.exp_sums_RS is not None and own.options_RK is not None:
            below_R1 = (own.largest - largest_R)[:, None]
            exp_sums_RS = own.exp_sums_RS * (below_R1 / below_R1.new_tensor(TEMPERATURES)).exp_()
            summary = summary._replace(
                exp_sums_RS=self._reduced(exp_sums_RS, ReduceOp.SUM),
                options_RK=self._reduced(own.options_RK, ReduceOp.MAX),
            )
        return summary.scores(targets_R, options_RK)

    def _own_rows(self, options_RK: Tensor | None) -> Tensor | None:
        """Rows of this rank that compute the logits of the options; -1 for those of other ranks."""
        if options_RK is None:
            return None
        row_RK = options_RK - self.first
        is_own_RK = (options_RK >= 0) & (row_RK >= 0) & (row_RK < self.rows.weight_VD.shape[0])
        return row_RK.where(is_own_RK, -1)

    def _reduced(self, values: Tensor, operation: ReduceOp.RedOpType) -> Tensor:
        """The values of all ranks, reduced in place; separately for each kind, as round-off depends on the shape."""
        distributed.all_reduce(values, operation, self.group)
        return values
