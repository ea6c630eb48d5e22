"""Many sequences in one forward pass on a GPU, end to end without padding, each attending to itself alone.

An attention function registered with transformers hands the pack's boundaries to `torch.nn.attention.varlen`. A model
whose layers mix tokens by any other way (a recurrent state, a convolution) would leak from one sequence into the next:
known kinds are refused, and the self-check does not use the engine where neighbours change a sequence's scores.
Shapes: P tokens of a pack, H heads, D their width, N sequences.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from psych_ray.scoring.batching import PASS_TOKENS, packs
from psych_ray.scoring.engines import onednn
from psych_ray.scoring.engines.base import NOTHING, Query, TokenScores
from psych_ray.scoring.likelihood import Head, token_nll

_log = logging.getLogger(__name__)
ATTENTION = "psych_ray_varlen"
_CAN_BE_PACKED = {"full_attention", "sliding_attention"}

VarlenAttention = Callable[..., Any]
"""As `torch.nn.attention.varlen.varlen_attn`: query, key, value [P, H, D], boundaries [N + 1] twice, longest twice."""


@dataclass(frozen=True, slots=True)
class Pack:
    """Queries end to end, on a device; where their tokens stand, and which states predict the wanted ones."""

    ids_1P: Tensor
    positions_1P: Tensor
    from_R: Tensor
    targets_R: Tensor
    boundaries_N1: Tensor
    longest: int
    counts: list[int]
    """Wanted tokens of each query."""

    @classmethod
    def of(cls, queries: Sequence[Query], device: torch.device) -> Pack:
        """Lay them end to end."""
        lengths = [query.length for query in queries]
        starts_N1 = np.concatenate([[0], np.cumsum(lengths)])
        from_R = [query.at_R - 1 + start for query, start in zip(queries, starts_N1, strict=False)]
        return cls(
            ids_1P=_to_device(np.concatenate([q.token_ids_T[: q.length] for q in queries])[None], device),
            positions_1P=_to_device(np.concatenate([np.arange(length) for length in lengths])[None], device),
            from_R=_to_device(np.concatenate(from_R), device),
            targets_R=_to_device(np.concatenate([q.token_ids_T[q.at_R] for q in queries]), device),
            boundaries_N1=_to_device(starts_N1.astype(np.int32), device),
            longest=max(lengths),
            counts=[len(q.at_R) for q in queries],
        )


_running: ContextVar[tuple[Pack, VarlenAttention] | None] = ContextVar("_running", default=None)


class PackedEngine:
    """One transformers model on one GPU; as many sequences a forward pass as `batch_tokens` holds."""

    name = "transformers, packed"

    def __init__(
        self, model: PreTrainedModel, *, batch_tokens: int = PASS_TOKENS, attend: VarlenAttention | None = None
    ) -> None:
        attend = attend or varlen_for(model.device, model.dtype)
        if attend is None:
            raise ValueError(f"nothing here attends within packs in {model.dtype} on {model.device.type}")
        require_packable(model)
        use_varlen(model)
        self.model = model.eval()
        self.batch_tokens = batch_tokens
        self._attend = attend
        self._body: Any = model.get_decoder()
        self._head = Head.of(model)

    @torch.inference_mode()
    def score(self, batch: Sequence[Query]) -> list[TokenScores]:
        """Run packs of queries; one wait for the GPU in all.

        A pack that does not fit in memory halves `batch_tokens`, for good; a single sequence that does not fit raises.
        """
        asked = [place for place, query in enumerate(batch) if len(query.at_R)]
        answers: dict[int, tuple[Tensor, Tensor]] = {}
        while waiting := [place for place in asked if place not in answers]:
            for group in packs([batch[place].length for place in waiting], self.batch_tokens):
                places = [waiting[k] for k in group]
                try:
                    scored = self._score([batch[place] for place in places])
                except torch.OutOfMemoryError:
                    if len(places) == 1:
                        raise
                    self._halve(sum(batch[place].length for place in places))
                    break
                answers.update(zip(places, scored, strict=True))
        return _to_host(answers, len(batch))

    def _halve(self, tokens: int) -> None:
        torch.cuda.empty_cache()
        self.batch_tokens = min(self.batch_tokens, tokens) // 2
        _log.warning("out of GPU memory with %d tokens at once; going on with %d", tokens, self.batch_tokens)

    def _score(self, queries: Sequence[Query]) -> list[tuple[Tensor, Tensor]]:
        pack = Pack.of(queries, self.model.device)
        with kept_apart(pack, self._attend):
            hidden_1PD = self._body(
                input_ids=pack.ids_1P, position_ids=pack.positions_1P, use_cache=False
            ).last_hidden_state
        nll_R, top1_R = token_nll(hidden_1PD[0, pack.from_R], self._head, pack.targets_R)
        return list(zip(nll_R.split(pack.counts), top1_R.split(pack.counts), strict=True))


def use_varlen(model: PreTrainedModel) -> None:
    """Have the model's attention ask for the running pack; where none runs, it attends as before."""
    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, _mask)
    model.set_attn_implementation(ATTENTION)


def varlen_for(device: torch.device, dtype: torch.dtype) -> VarlenAttention | None:
    """What attends within the sequences of a pack on this device; None: nothing does, in this dtype."""
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):  # what its kernels can do
        from torch.nn.attention.varlen import varlen_attn

        return varlen_attn
    if device.type == "cpu" and dtype == torch.float32 and onednn.available():
        return onednn.attend
    return None


def require_packable(model: PreTrainedModel) -> None:
    """Raise ValueError for layers known to mix tokens by other ways; the self-check looks for the unknown ones."""
    kinds = set(getattr(model.config.get_text_config(decoder=True), "layer_types", None) or ())
    if other := sorted(kinds - _CAN_BE_PACKED):
        raise ValueError(f"layers of {', '.join(other)} cannot be packed")


@contextmanager
def kept_apart(pack: Pack, attend: VarlenAttention | None) -> Iterator[None]:
    """While it lasts, models that use varlen attend within the sequences of the pack; without `attend`, nothing."""
    token = _running.set(None if attend is None else (pack, attend))
    try:
        yield
    finally:
        _running.reset(token)


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
    """Attend within the sequences of the running pack; where none runs, as SDPA does.

    transformers hands over [1, H, P, D] and wants [1, P, H, D] back.
    """
    running = _running.get()
    if running is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    if more.get("softcap") is not None or more.get("s_aux") is not None:
        raise ValueError(f"{type(module).__name__}: its attention caps or sinks scores, which packing does not do")
    pack, attend = running
    output_PHD = attend(
        *(states[0].transpose(0, 1).contiguous() for states in (query, key, value)),
        pack.boundaries_N1,
        pack.boundaries_N1,
        pack.longest,
        pack.longest,
        scale=scaling,
        # a window of w tokens holds the token itself and w - 1 before it
        window_size=(sliding_window - 1 if sliding_window else -1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output_PHD[None], None


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    return sdpa_mask(*args, **kwargs) if _running.get() is None else None


def _to_device(values: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _to_host(answers: dict[int, tuple[Tensor, Tensor]], n: int) -> list[TokenScores]:
    """Bring all likelihoods over in one copy each."""
    scores = [NOTHING] * n
    if not answers:
        return scores
    counts = [len(nll_R) for nll_R, _ in answers.values()]
    ends = np.cumsum(counts)
    nll = torch.cat([nll_R for nll_R, _ in answers.values()]).cpu().numpy()
    top1 = torch.cat([top1_R for _, top1_R in answers.values()]).cpu().numpy()
    for place, count, end in zip(answers, counts, ends, strict=True):
        scores[place] = TokenScores(nll[end - count : end], top1[end - count : end])
    return scores
