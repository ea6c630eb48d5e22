"""Attention within the sequences of a pack: many sequences end to end in one forward pass, without padding.

An attention function registered with transformers passes the sequence boundaries of the pack to a variable-length
kernel. Layers that mix tokens otherwise (a recurrent state, a convolution) would mix sequences: those that declare it
raise here, the self-check finds the others. Shapes: P tokens of a pack, N sequences, R scored tokens, H heads, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from psych_ray.compat.torch import varlen_attention
from psych_ray.compat.transformers import sdpa_attention, sdpa_mask
from psych_ray.scoring.engines import onednn
from psych_ray.scoring.engines.base import Query, padded_options

ATTENTION = "psych_ray_varlen"
_PACKABLE_LAYERS = {"full_attention", "sliding_attention"}

VarlenAttention = Callable[..., Any]
"""As `compat.torch.varlen_attention`: query, key, value [P, H, D], then cu_seqlens [N + 1] and max_seqlen twice."""


@dataclass(frozen=True, slots=True)
class Pack:
    """Queries end to end, on a device."""

    ids_1P: Tensor
    positions_1P: Tensor
    """Position of each token in its own sequence."""
    from_R: Tensor
    """Indices in the pack of the tokens from whose states the scored ones are predicted."""
    targets_R: Tensor
    """Ids of the scored tokens."""
    options_RK: Tensor | None
    """As `padded_options`."""
    cu_seqlens_N1: Tensor
    max_seqlen: int
    counts: list[int]
    """Scored tokens of each query."""

    @classmethod
    def of(cls, queries: Sequence[Query], device: torch.device) -> Pack:
        """Concatenate queries, each up to the last token that is read."""
        lengths = [query.length for query in queries]
        starts_N1 = np.concatenate([[0], np.cumsum(lengths)])
        from_R = [query.at_R - 1 + start for query, start in zip(queries, starts_N1, strict=False)]
        return cls(
            ids_1P=_to_device(np.concatenate([q.token_ids_T[: q.length] for q in queries])[None], device),
            positions_1P=_to_device(np.concatenate([np.arange(length) for length in lengths])[None], device),
            from_R=_to_device(np.concatenate(from_R), device),
            targets_R=_to_device(np.concatenate([q.token_ids_T[q.at_R] for q in queries]), device),
            options_RK=padded_options(queries, device),
            cu_seqlens_N1=_to_device(starts_N1.astype(np.int32), device),
            max_seqlen=max(lengths),
            counts=[len(q.at_R) for q in queries],
        )


_running: ContextVar[tuple[Pack, VarlenAttention] | None] = ContextVar("_running", default=None)


@contextmanager
def packed_attention(pack: Pack, attend: VarlenAttention | None) -> Iterator[None]:
    """Within the context, models with varlen attention enabled attend within the sequences of the pack.

    With `attend=None` they attend as SDPA does, for a pack of one sequence.
    """
    token = _running.set(None if attend is None else (pack, attend))
    try:
        yield
    finally:
        _running.reset(token)


def enable_varlen_attention(model: PreTrainedModel) -> None:
    """Have the model's attention use the running pack; outside of `packed_attention` it attends as SDPA does."""
    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, _mask)
    model.set_attn_implementation(ATTENTION)


def varlen_attention_for(device: torch.device, dtype: torch.dtype) -> VarlenAttention | None:
    """Kernel that attends within the sequences of a pack on this device; None where there is none for the dtype."""
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):  # the dtypes of its kernels
        return varlen_attention()
    if device.type == "cpu" and dtype == torch.float32 and onednn.available():
        return onednn.attend
    return None


def require_packable(model: PreTrainedModel) -> None:
    """Raise ValueError for layers that declare to mix tokens by other means than attention."""
    kinds = set(getattr(model.config.get_text_config(decoder=True), "layer_types", None) or ())
    if other := sorted(kinds - _PACKABLE_LAYERS):
        raise ValueError(f"layers of {', '.join(other)} cannot be packed")


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attend within the sequences of the running pack; without one, as SDPA does.

    transformers passes [1, H, P, D] and expects [1, P, H, D].
    """
    running = _running.get()
    if running is None:
        output: tuple[Tensor, None] = sdpa_attention(module, query, key, value, attention_mask, scaling=scaling, **more)
        return output
    if more.get("softcap") is not None or more.get("s_aux") is not None:
        raise ValueError(
            f"{type(module).__name__}: its attention has a soft cap or sinks, which packing does not support"
        )
    pack, attend = running
    output_PHD = attend(
        *(states[0].transpose(0, 1).contiguous() for states in (query, key, value)),
        pack.cu_seqlens_N1,
        pack.cu_seqlens_N1,
        pack.max_seqlen,
        pack.max_seqlen,
        scale=scaling,
        # a window of w tokens holds the token itself and w - 1 before it
        window_size=(sliding_window - 1 if sliding_window else -1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output_PHD[None], None


def _mask(*args: Any, **kwargs: Any) -> Any:
    return sdpa_mask(*args, **kwargs) if _running.get() is None else None


def _to_device(values: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
