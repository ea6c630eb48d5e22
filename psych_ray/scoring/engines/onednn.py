"""Float32 products on a CPU by oneDNN, which PyTorch includes but does not use for them.

PyTorch computes float32 products with MKL, which on CPUs that are not Intel's uses half of the vector units or less: on
a Zen 5, oneDNN is 2.3 times as fast, with the same round-off. Weights are neither copied nor repacked. Other dtypes and
devices are not affected. Attention with these products: `block_attention`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from psych_ray.compat.torch import has_onednn_linear, onednn_linear
from psych_ray.scoring.engines.base import Engine, Query, TokenScores


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
