"""Float32 products on a CPU by oneDNN, which PyTorch includes but does not use for them.

PyTorch computes float32 products with MKL, which on CPUs that are not Intel's uses half of the vector units or less: on
a Zen 5, oneDNN is 2.3 times as fast, with the same round-off. Attention is computed with it too, without most of the
products that a causal mask discards. Weights are neither copied nor repacked. Other dtypes and devices are
not affected.
Shapes: P tokens of a pack, T of one sequence, H heads, K heads of keys and values, G heads that share one, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from psych_ray.compat.torch import has_onednn_linear, onednn_linear
from psych_ray.scoring.engines.base import Engine, Query, TokenScores

_ROWS = 256
"""Query tokens per product of attention: with more of them, more of the product is discarded by the causal mask."""


def available() -> bool:
    """Whether this build of PyTorch has oneDNN for this CPU."""
    return has_onednn_linear()


class OneDnnEngine:
    """Another engine, its float32 products by oneDNN."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.name = f"{engine.name}, oneDNN"

    @property
    def batch_tokens(self) -> int:
        """As of the other engine."""
        return self.engine.batch_tokens

    def score(self, batch: Sequence[Query]) -> list[TokenScores]:
        """Score as the other engine does."""
        with _Linear():
            return self.engine.score(batch)


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` by oneDNN; float32 on a CPU, not empty."""
    return onednn_linear(rows, weight, bias)


class _Linear(TorchFunctionMode):
    """Within the context, `torch.nn.functional.linear` is computed by oneDNN, also inside modules."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.linear and not kwargs and _is_supported(*args[:2]):
            return linear(*args)
        return func(*args, **(kwargs or {}))


def _is_supported(rows: Tensor, weight: Tensor) -> bool:
    return all(
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.dtype == torch.float32
        and tensor.device.type == "cpu"
        and tensor.numel() > 0
        for tensor in (rows, weight)
    )


def attend(
    query_PHD: Tensor,
    key_PKD: Tensor,
    value_PKD: Tensor,
    cu_seqlens_N1: Tensor,
    _cu_seqlens_k: Tensor,
    max_seqlen: int,
    _max_seqlen_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """Causal attention within the sequences of a pack, float32 [P, H, D]; called as `varlen_attn` is."""
    del max_seqlen, enable_gqa
    scale = query_PHD.shape[-1] ** -0.5 if scale is None else scale
    query_HPD = (query_PHD * scale).transpose(0, 1)
    key_KPD, value_KPD = (states.transpose(0, 1).contiguous() for states in (key_PKD, value_PKD))
    output_HPD = torch.empty(*query_HPD.shape[:2], value_KPD.shape[-1])
    group = query_HPD.shape[0] // key_KPD.shape[0]
    for start, end in itertools.pairwise(cu_seqlens_N1.tolist()):
        for index, (key_PD, value_PD) in enumerate(zip(key_KPD, value_KPD, strict=True)):
            heads = slice(index * group, (index + 1) * group)
            _attend_one(
                query_HPD[heads, start:end],
                key_PD[start:end],
                value_PD[start:end],
                window_size[0],
                output_HPD[heads, start:end],
            )
    return output_HPD.transpose(0, 1)


def _attend_one(query_GTD: Tensor, key_TD: Tensor, value_TD: Tensor, window: int, output_GTD: Tensor) -> None:
    """Attention of the heads that share keys over one sequence, `window` tokens back (-1: all of them)."""
    for first in range(0, len(key_TD), _ROWS):
        last = min(first + _ROWS, len(key_TD))
        oldest = max(0, first - window) if window >= 0 else 0
        rows_GTD = query_GTD[:, first:last]
        scores = linear(rows_GTD.flatten(0, 1), key_TD[oldest:last]).unflatten(0, rows_GTD.shape[:2])
        n_rows = last - first
        square = torch.ones(n_rows, n_rows, dtype=torch.bool)
        scores[..., first - oldest :].masked_fill_(square.triu(1), -torch.inf)
        if window >= 0 and last - oldest > window + 1:
            # row k attends from token first + k - window on; column c is token oldest + c
            reach = torch.arange(n_rows)[:, None] + (first - window - oldest)
            scores.masked_fill_(torch.arange(last - oldest) < reach, -torch.inf)
        mixed = linear(scores.softmax(-1).flatten(0, 1), value_TD[oldest:last].t())
        output_GTD[:, first:last] = mixed.unflatten(0, rows_GTD.shape[:2])
