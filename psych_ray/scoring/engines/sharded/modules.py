"""What DeepSpeed's AutoTP (0.19) leaves whole or gets wrong, though it cuts the matrices around it.

Norms of queries or keys that span all heads (OLMo 2 and 3) would take the mean square of one rank's heads only, with
the wrong slice of their weight; AutoTP's `_replace` could make them `ShardedRMSNorm` beside the column it cuts. Fused
experts (3-D weights) and embeddings stay whole on each rank; `AutoTP._replace_module` passes them by. Knows no
checkpoint and no configuration: what must be cut is found by its shape.
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

from psych_ray.compat import copy_load_marks, parameter_hook
from psych_ray.scoring.engines.sharded.process_group import Rank, shard_bounds


class ShardedRMSNorm(nn.Module):
    """An RMSNorm over a width that is spread over ranks: the square sum is theirs together, the weight each one's.

    Computes as transformers' does: variance and product in float32, the answer in the type of the input.
    """

    def __init__(self, weight_d: Tensor, eps: float, width: int, group: ProcessGroup | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight_d, requires_grad=False)
        self.eps = eps
        self.width = width
        self.group = group

    @classmethod
    def of(cls, norm: nn.Module, rank: Rank) -> ShardedRMSNorm:
        """Take this rank's slice of a norm. ValueError where that norm computes in another way than this one."""
        weight_D: Any = norm.weight
        weight_D = weight_D.detach()
        width = len(weight_D)
        whole = cls(weight_D, getattr(norm, "variance_epsilon", 0.0), width)
        probe_2D = torch.linspace(-3, 5, 2 * width).view(2, width).to(weight_D.dtype)
        if not torch.equal(norm(probe_2D), whole(probe_2D)):
            raise ValueError(f"{type(norm).__name__} spans all heads, and is no RMSNorm that can be sharded")
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
    """Replace each norm `x_norm` whose width is that of `x_proj` on all ranks together; the names of those it was.

    To be called when the projections are cut. ValueError for a norm that spans all heads and cannot be replaced.
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
    """An embedding, with whatever it does to its rows, of which each rank holds some: one finds a token's, all add up.

    Exact: what the other ranks add is 0.
    """

    def __init__(self, rows: nn.Embedding, first: int, group: ProcessGroup | None = None) -> None:
        super().__init__()
        self.rows = rows
        self.first = first
        self.group = group

    def forward(self, ids_1P: Tensor) -> Tensor:
        """States [1, P, D]; all ranks must call it together."""
        at = ids_1P - self.first
        elsewhere = (at < 0) | (at >= len(self.rows.weight))
        states_1PD: Tensor = self.rows(at.masked_fill(elsewhere, 0)).masked_fill(elsewhere[..., None], 0.0)
        distributed.all_reduce(states_1PD, group=self.group)
        return states_1PD


def shard_embedding(body: Any, rank: Rank) -> nn.Embedding:
    """Keep this rank's rows of the embedding, a copy of them, and have the ranks look up together; the rows."""
    embedding: nn.Embedding = body.get_input_embeddings()
    if rank.world_size > 1:
        first, end = shard_bounds(len(embedding.weight), rank)
        embedding.weight = nn.Parameter(embedding.weight.detach()[first:end].clone(), requires_grad=False)
        body.set_input_embeddings(ShardedEmbedding(embedding, first))
    return embedding


@contextmanager
def experts_sharded_on_load(rank: Rank) -> Iterator[None]:
    """While it lasts, fused experts that are loaded into a module are cut at once.

    Files hold experts one by one, and transformers joins them in new memory, so that without this each rank would hold
    the experts of the whole checkpoint for a while.
    """

    def cut(module: nn.Module, name: str, weight: nn.Parameter | None) -> Any:
        if rank.world_size == 1 or name not in _EXPERTS or weight is None or weight.ndim != 3 or weight.is_meta:
            return weight
        own = nn.Parameter(_EXPERTS[name](weight.detach(), rank), requires_grad=False)
        copy_load_marks(weight, own)
        return own

    with parameter_hook(cut):
        yield


def shard_experts(body: nn.Module, rank: Rank) -> list[str]:
    """Have each rank compute with some hidden units of every fused expert; the names of the modules that hold them.

    Cuts those that are still whole. Routing is the same on all ranks, and what the experts answer is the sum of what
    the ranks come to. ValueError where they are not laid out as expected.
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
            raise ValueError(f"{type(module).__name__}: its experts are not laid out in a way that could be sharded")
        experts.register_forward_hook(_sum_over_ranks)
        sharded.append(name)
    return sharded


def _units(weight_EDI: Tensor, rank: Rank, dim: int) -> Tensor:
    """Take this rank's hidden units."""
    return weight_EDI.chunk(rank.world_size, dim)[rank.index]


_EXPERTS: dict[str, Callable[[Tensor, Rank], Tensor]] = {
    "gate_up_proj": lambda weight, rank: torch.cat([_units(half, rank, 1) for half in weight.chunk(2, dim=1)], dim=1),
    "down_proj": lambda weight, rank: _units(weight, rank, 2).clone(),
}
"""How this rank's part of an expert's weight is cut out; of the first, gate and up lie one after the other."""


def _sum_over_ranks(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    output = output.contiguous()
    distributed.all_reduce(output)
    return output
