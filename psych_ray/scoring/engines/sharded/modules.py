"""Modules that DeepSpeed's AutoTP (0.19) leaves whole or computes wrongly, though it shards the matrices around them.

Norms of queries or keys that span all heads (OLMo 2 and 3) would use the mean square of one rank's heads only, with
the wrong part of their weight. Fused experts (3-D weights) and embeddings stay whole on each rank. What must be sharded
is found by its shape; does not depend on checkpoints or configurations.
Shapes: D width of all heads, d of one rank's, P tokens of a pack; in weights of experts E experts, I hidden units of
one, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup

from psych_ray.compat.torch import parameter_hook
from psych_ray.compat.transformers import copy_load_marks
from psych_ray.scoring.engines.sharded.process_group import Rank, shard_bounds


class ShardedRMSNorm(nn.Module):
    """An RMSNorm over a width that is sharded over ranks: they reduce the square sum, and each holds its own weight.

    As in transformers: variance and product in float32, the result in the dtype of the input.
    """

    def __init__(self, weight_d: Tensor, eps: float, width: int, group: ProcessGroup | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight_d, requires_grad=False)
        self.eps = eps
        self.width = width
        self.group = group

    @classmethod
    def of(cls, norm: nn.Module, rank: Rank) -> ShardedRMSNorm:
        """Make this rank's shard of a norm. ValueError where that norm does not compute what this one does."""
        weight_D: Any = norm.weight
        weight_D = weight_D.detach()
        width = len(weight_D)
        whole = cls(weight_D, getattr(norm, "variance_epsilon", 0.0), width)
        probe_2D = torch.linspace(-3, 5, 2 * width).view(2, width).to(weight_D.dtype)
        if not torch.equal(norm(probe_2D), whole(probe_2D)):
            raise ValueError(f"{type(norm).__name__} spans all heads, and is not an RMSNorm that can be sharded")
        return cls(weight_D.chunk(rank.world_size)[rank.index].clone(), whole.eps, width)

    def forward(self, states: Tensor) -> Tensor:
        """Normalise this rank's heads [..., d]; all ranks must call it together."""
        exact = states.to(torch.float32)
        square_sum = exact.pow(2).sum(-1, keepdim=True)
        if len(self.weight) < self.width:
            distributed.all_reduce(square_sum, group=self.group)
        exact = exact * torch.rsqrt(square_sum / self.width + self.eps)
        return (self.weight * exact).to(states.dtype)


def shard_norms(body: nn.Module, rank: Rank) -> list[str]:
    """Replace each norm `x_norm` as wide as `x_proj` on all ranks together; returns the names of the replaced ones.

    To be called after the projections are sharded. ValueError for a norm that spans all heads and cannot be replaced.
    """
    replaced = []
    for parent_name, parent in list(body.named_modules()):
        for name, norm in list(parent.named_children()):
            weight = getattr(norm, "weight", None)
            projection = getattr(parent, f"{name.removesuffix('_norm')}_proj", None)
            if projection is None or weight is None or weight.ndim != 1:
                continue
            if len(weight) == rank.world_size * len(projection.weight) > len(projection.weight):
                setattr(parent, name, ShardedRMSNorm.of(norm, rank))
                replaced.append(f"{parent_name}.{name}")
    return replaced


class ShardedEmbedding(nn.Module):
    """An embedding of which each rank holds some rows: the rank that has a token's row looks it up, the others add 0.

    Exact, including what the embedding's own forward does to its rows.
    """

    def __init__(self, rows: nn.Embedding, first: int, group: ProcessGroup | None = None) -> None:
        super().__init__()
        self.rows = rows
        self.first = first
        self.group = group

    def forward(self, ids_1P: Tensor) -> Tensor:
        """States [1, P, D]; all ranks must call it together."""
        row_1P = ids_1P - self.first
        elsewhere = (row_1P < 0) | (row_1P >= len(self.rows.weight))
        states_1PD: Tensor = self.rows(row_1P.masked_fill(elsewhere, 0)).masked_fill(elsewhere[..., None], 0.0)
        distributed.all_reduce(states_1PD, group=self.group)
        return states_1PD


def shard_embedding(body: Any, rank: Rank) -> nn.Embedding:
    """Replace the embedding by a sharded one; returns a copy of this rank's rows, as an embedding."""
    embedding: nn.Embedding = body.get_input_embeddings()
    if rank.world_size > 1:
        first, end = shard_bounds(len(embedding.weight), rank)
        embedding.weight = nn.Parameter(embedding.weight.detach()[first:end].clone(), requires_grad=False)
        body.set_input_embeddings(ShardedEmbedding(embedding, first))
    return embedding


@contextmanager
def experts_sharded_on_load(rank: Rank) -> Iterator[None]:
    """Within the context, fused experts are sharded as soon as they are loaded into a module.

    Files hold experts one by one, and transformers fuses them in new memory: otherwise each rank would hold the experts
    of the whole checkpoint while it loads.
    """

    def shard(module: nn.Module, name: str, weight: nn.Parameter | None) -> Any:
        if rank.world_size == 1 or name not in _EXPERTS or weight is None or weight.ndim != 3 or weight.is_meta:
            return weight
        own = nn.Parameter(_EXPERTS[name](weight.detach(), rank), requires_grad=False)
        copy_load_marks(weight, own)
        return own

    with parameter_hook(shard):
        yield


def shard_experts(body: nn.Module, rank: Rank) -> list[str]:
    """Have each rank compute with some hidden units of every fused expert; returns the names of the modules.

    Shards those that are still whole. Routing is the same on all ranks; the output of the experts is the sum over the
    ranks. ValueError where weights do not have the expected layout.
    """
    sharded = []
    for name, module in body.named_modules():
        gate_up: Any = getattr(module, "gate_up_proj", None)
        if rank.world_size == 1 or not isinstance(gate_up, nn.Parameter) or gate_up.ndim != 3:
            continue
        experts: Any = module
        if experts.down_proj.shape[2] == experts.intermediate_dim:
            for weight, units_of in _EXPERTS.items():
                setattr(experts, weight, nn.Parameter(units_of(getattr(experts, weight).detach(), rank), False))
        n_units = experts.down_proj.shape[2]
        if experts.gate_up_proj.shape[1] != 2 * n_units or n_units * rank.world_size != experts.intermediate_dim:
            raise ValueError(f"{type(module).__name__}: its experts do not have a layout that can be sharded")
        experts.register_forward_hook(_sum_over_ranks)
        sharded.append(name)
    return sharded


def _units(weight_EDI: Tensor, rank: Rank, dim: int) -> Tensor:
    """Select this rank's hidden units."""
    return weight_EDI.chunk(rank.world_size, dim)[rank.index]


_EXPERTS: dict[str, Callable[[Tensor, Rank], Tensor]] = {
    "gate_up_proj": lambda weight, rank: torch.cat([_units(half, rank, 1) for half in weight.chunk(2, dim=1)], dim=1),
    "down_proj": lambda weight, rank: _units(weight, rank, 2).clone(),
}
"""How this rank's shard of a weight of experts is selected; the first holds the gate and then the up projection."""


def _sum_over_ranks(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    output = output.contiguous()
    distributed.all_reduce(output)
    return output
