"""The vocabulary-parallel head: each rank holds some rows of it, and what leaves a rank is four numbers a token.

DeepSpeed's own cuts the head along the width and sums whole logits over the ranks, V numbers a token. Here a rank
takes its own logits only, at the wanted tokens only, and the ranks agree on the largest one, the sum of exponentials
and the target's logit. Knows no body. Shapes: R scored tokens, D width, V vocabulary, v rows of this rank.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup, ReduceOp

from psych_ray.scoring.engines.sharded.process_group import Ranks, rows_of
from psych_ray.scoring.likelihood import Head, rows_at_a_time


@dataclass(frozen=True, slots=True)
class ShardedHead:
    """The rows of a head that this rank holds."""

    rows: Head
    """From hidden states to the logits of tokens `first` to `first` + v."""
    first: int
    vocabulary: int
    group: ProcessGroup | None = None
    """The ranks that hold the other rows; None: all there are."""

    @classmethod
    def of(cls, head: Head, ranks: Ranks) -> ShardedHead:
        """Cut out this rank's rows; views, so whoever moves or copies them decides what stays in memory."""
        vocabulary = head.weight_VD.shape[0]
        first, end = rows_of(vocabulary, ranks)
        bias_V = None if head.bias_V is None else head.bias_V[first:end]
        return cls(replace(head, weight_VD=head.weight_VD[first:end], bias_V=bias_V), first, vocabulary)

    def copied_to(self, device: torch.device, dtype: torch.dtype, *, tied: Tensor | None = None) -> ShardedHead:
        """Copy the rows, so that the whole head is not kept for them; `tied`: they are there, as the embedding's."""
        weight_vD, bias_v = tied, self.rows.bias_V
        if weight_vD is None:
            weight_vD = self.rows.weight_VD.detach().to(device, dtype, copy=True)
        if bias_v is not None:
            bias_v = bias_v.detach().to(device, dtype, copy=True)
        return replace(self, rows=replace(self.rows, weight_VD=weight_vD, bias_V=bias_v))

    def token_nll(self, hidden_RD: Tensor, targets_R: Tensor) -> tuple[Tensor, Tensor]:
        """As `likelihood.token_nll`, the same on every rank; all ranks must call it with the same arguments.

        Where several tokens of the vocabulary share the largest logit, the first of them is the arg max.
        """
        own_top_R, place_R, total_R, picked_R = self._own(hidden_RD, targets_R)
        top_R = own_top_R.clone()
        distributed.all_reduce(top_R, ReduceOp.MAX, self.group)
        sums_2R = torch.stack([total_R * (own_top_R - top_R).exp_(), picked_R])
        distributed.all_reduce(sums_2R, ReduceOp.SUM, self.group)
        first_R = torch.where(own_top_R == top_R, place_R, self.vocabulary)
        distributed.all_reduce(first_R, ReduceOp.MIN, self.group)
        return sums_2R[0].log() + top_R - sums_2R[1], first_R == targets_R

    def _own(self, hidden_RD: Tensor, targets_R: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What this rank's rows say of each target, float32 but for the second, [R] each.

        The largest logit, its place in the vocabulary, the sum of exponentials relative to it, and the target's logit
        or 0 where another rank has it. In chunks: the logits of all wanted tokens together never stand in memory.
        """
        n_rows = self.rows.weight_VD.shape[0]
        at_a_time = rows_at_a_time(n_rows, hidden_RD.device)
        parts = []
        for hidden, targets in zip(hidden_RD.split(at_a_time), targets_R.split(at_a_time), strict=True):
            logits_Rv = self.rows.logits(hidden)
            at = targets - self.first
            is_own = (at >= 0) & (at < n_rows)
            picked = logits_Rv.gather(-1, at.clamp(0, n_rows - 1)[:, None])[:, 0].where(is_own, 0.0)
            top, place = logits_Rv.max(dim=-1)
            # in place: the logits are not needed any more
            total = logits_Rv.sub_(top[:, None]).exp_().sum(-1)
            parts.append((top, place + self.first, total, picked))
        own_top, places, totals, picks = (torch.cat(column) for column in zip(*parts, strict=True))
        return own_top, places, totals, picks
