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
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from psych_ray.compat.torch import varlen_attention
from psych_ray.compat.transformers import sdpa_attention, sdpa_mask
from psych_ray.scoring.engines import block_attention, onednn
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

    def bounds(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Bounds, as `cu_seqlens_N1`, of the sequences that have tokens in these rows: of their queries and their keys.

        Queries are the tokens in the rows, keys also those before them in the same sequence.
        """
        starts_N, ends_N = self.cu_seqlens_N1[:-1], self.cu_seqlens_N1[1:]
        within_N = (ends_N > rows.start) & (starts_N < rows.stop)
        ends = ends_N[within_N].clamp(max=rows.stop)
        first_key = starts_N[within_N][:1]
        queries, keys = (torch.cat([first, ends]) - first for first in (first_key.clamp(min=rows.start), first_key))
        return queries, keys


@dataclass(slots=True)
class RunningPack:
    """The pack that a model runs, and which of its rows the layers are given."""

    pack: Pack
    attend: VarlenAttention
    rows: slice | None = None
    """None: all of them."""
    attention: nn.Module | None = None
    """The module whose keys and values are kept."""
    kept_to: int = 0
    """Row up to which they are."""
    key_KPD: Tensor | None = None
    value_KPD: Tensor | None = None

    @contextmanager
    def given(self, rows: slice) -> Iterator[None]:
        """Within the context, a layer is given these rows; those before them, from row 0 on, it was given before."""
        if rows.start == 0:
            self.attention, self.kept_to = None, 0
        self.rows = rows
        try:
            yield
        finally:
            self.rows = None

    def states(self, module: nn.Module, *states_PHD: Tensor) -> tuple[Any, ...]:
        """The positional arguments of `varlen_attn`: query, key and value of the rows, with keys and values before."""
        if self.rows is None:
            cu_seqlens, longest = self.pack.cu_seqlens_N1, self.pack.max_seqlen
            # the GPU's kernels need them so
            return *(states.contiguous() for states in states_PHD), cu_seqlens, cu_seqlens, longest, longest
        self._keep(module, self.rows, *states_PHD[1:])
        assert self.key_KPD is not None
        assert self.value_KPD is not None
        cu_seqlens_q, cu_seqlens_k = self.pack.bounds(self.rows)
        read = slice(self.rows.stop - int(cu_seqlens_k[-1]), self.rows.stop)
        kept = (states_KPD[:, read].transpose(0, 1) for states_KPD in (self.key_KPD, self.value_KPD))
        lengths = (int(cu_seqlens.diff().max()) for cu_seqlens in (cu_seqlens_q, cu_seqlens_k))
        return states_PHD[0], *kept, cu_seqlens_q, cu_seqlens_k, *lengths

    def _keep(self, module: nn.Module, rows: slice, key_PKD: Tensor, value_PKD: Tensor) -> None:
        if self.attention is None:
            n_tokens = self.pack.ids_1P.shape[1]
            self.key_KPD = _buffer(self.key_KPD, key_PKD, n_tokens)
            self.value_KPD = _buffer(self.value_KPD, value_PKD, n_tokens)
            self.attention = module
        if self.attention is not module or self.kept_to == rows.stop:
            raise ValueError(
                f"{type(module).__name__}: its layer attends more than once, which blocks of rows do not support"
            )
        self.kept_to = rows.stop
        assert self.key_KPD is not None
        assert self.value_KPD is not None
        self.key_KPD[:, rows] = key_PKD.transpose(0, 1)
        self.value_KPD[:, rows] = value_PKD.transpose(0, 1)


def _buffer(kept: Tensor | None, states_PKD: Tensor, n_tokens: int) -> Tensor:
    """Memory for the states of a whole pack [K, P, D]: what the layer before had, if it is alike."""
    _, n_heads, width = states_PKD.shape
    shape = (n_heads, n_tokens, width)
    return kept if kept is not None and kept.shape == shape else states_PKD.new_empty(shape)


_running: ContextVar[RunningPack | None] = ContextVar("_running", default=None)


def running_pack() -> RunningPack | None:
    """The pack within whose sequences models attend; None outside of `packed_attention`."""
    return _running.get()


@contextmanager
def packed_attention(pack: Pack, attend: VarlenAttention | None) -> Iterator[None]:
    """Within the context, models with varlen attention enabled attend within the sequences of the pack.

    With `attend=None` they attend as SDPA does, for a pack of one sequence.
    """
    token = _running.set(None if attend is None else RunningPack(pack, attend))
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
        return block_attention.attend
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
    output_PHD = running.attend(
        *running.states(module, *(states[0].transpose(0, 1) for states in (query, key, value))),
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
