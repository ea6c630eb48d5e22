"""The metric. A response's negative log-likelihood is the sum, over its tokens, of -log p(token | all tokens before).

Teacher-forced: the participant's own earlier responses are among the tokens before. In nats. Always computed from
float32 logits, which are not rounded to the dtype of the weights. Shapes: R scored tokens, D width, V vocabulary, K
options, S other temperatures, C columns of `calibration`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from psych_ray.compat.torch import float32_linear
from psych_ray.scoring.calibration import TEMPERATURES

_CHUNK_BYTES = {"cpu": 8 * 2**20, "cuda": 1024 * 2**20}
"""Size of the float32 logits that are in memory together: on a CPU, what caches hold."""
_SLICE_TOKENS = {"cpu": 4096, "cuda": 2**20}
"""Tokens of the vocabulary whose logits are computed together. On a CPU, products of few rows with all of it are
slower; on a GPU it is not divided."""
_PIECE_BYTES = {"cpu": 4 * 2**20, "cuda": 64 * 2**20}
"""Size of those that go through all temperatures together: about what caches hold."""
_HALVED = {8.0: (8.0, 4.0, 2.0, 1.0, 0.5), 5.6: (5.6, 2.8, 1.4, 0.7)}
"""Temperatures at which exponentials are computed, and those at which they are squares of the one before."""


@dataclass(frozen=True, slots=True)
class Head:
    """From hidden states to logits: a matrix, then in some architectures a scale or a soft cap."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    soft_cap: float | None = None

    @classmethod
    def of(cls, model: PreTrainedModel) -> Head:
        """Head of a model. The self-check compares its logits with those of the model's own forward."""
        module = model.get_output_embeddings()
        assert isinstance(module, nn.Linear | nn.Embedding)
        config = model.config.get_text_config()
        scale = getattr(config, "logit_scale", None) or 1.0
        divisor = getattr(config, "logits_scaling", None) or 1.0
        soft_cap = getattr(config, "final_logit_softcapping", None)
        return cls(module.weight, getattr(module, "bias", None), scale / divisor, soft_cap)

    def slice(self, first: int, end: int) -> Head:
        """The head of the tokens from `first` to `end`, as views of this one."""
        bias_V = None if self.bias_V is None else self.bias_V[first:end]
        return replace(self, weight_VD=self.weight_VD[first:end], bias_V=bias_V)

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Float32 logits [R, V]."""
        logits_RV = float32_linear(hidden_RD, self.weight_VD, self.bias_V)
        if self.scale != 1.0:
            logits_RV *= self.scale
        if self.soft_cap is not None:
            logits_RV = self.soft_cap * torch.tanh(logits_RV / self.soft_cap)
        return logits_RV

    def token_nll(self, hidden_RD: Tensor, targets_R: Tensor, options_RK: Tensor | None = None) -> tuple[Tensor, ...]:
        """NLL of each target, nats, float32 [R], and whether it is the arg max of the vocabulary, bool [R].

        `hidden_RD` are the states from which the targets are predicted: those of the tokens before them. `options_RK`:
        ids of tokens among which each target was chosen, -1 for none; then also `calibration.COLUMNS`, [R, C].
        """
        return summarize(hidden_RD, self, targets_R, options_RK).scores(targets_R, options_RK)


class LogitSummary(NamedTuple):
    """What is needed of the logits of R tokens, [R] each unless said: float32 but for the arg max, which is int64."""

    largest: Tensor
    argmax: Tensor
    exp_sum: Tensor
    """Sum over the vocabulary of exp(logit - largest)."""
    target: Tensor
    """Logit of the target."""
    exp_sums_RS: Tensor | None = None
    """Sums over the vocabulary of exp((logit - largest) / temperature), for each of `TEMPERATURES`."""
    options_RK: Tensor | None = None
    """Logits of the options; -inf where there is none."""

    def scores(self, targets_R: Tensor, options_RK: Tensor | None) -> tuple[Tensor, ...]:
        """As `Head.token_nll`."""
        nll_R, top1_R = self.exp_sum.log() + self.largest - self.target, self.argmax == targets_R
        if options_RK is None:
            return nll_R, top1_R
        assert self.exp_sums_RS is not None
        below_R1 = (self.largest - self.target)[:, None]
        nll_RS = self.exp_sums_RS.log() + below_R1 / below_R1.new_tensor(TEMPERATURES)
        return nll_R, top1_R, torch.cat([nll_RS, self._of_options(targets_R, options_RK)], dim=-1)

    def rescaled(self, largest_R: Tensor) -> LogitSummary:
        """The same with `largest_R`, which are at least as large, in place of the largest logits."""
        below_R = self.largest - largest_R
        exp_sums_RS = self.exp_sums_RS
        if exp_sums_RS is not None:
            exp_sums_RS = exp_sums_RS * (below_R[:, None] / below_R.new_tensor(TEMPERATURES)).exp_()
        return self._replace(largest=largest_R, exp_sum=self.exp_sum * below_R.exp_(), exp_sums_RS=exp_sums_RS)

    def _of_options(self, targets_R: Tensor, options_RK: Tensor) -> Tensor:
        """The columns `calibration.OF_OPTIONS`; NaN where there are no two options."""
        assert self.options_RK is not None
        logits_RK = self.options_RK - self.largest[:, None]
        nll_R = (self.exp_sum.log() - logits_RK.logsumexp(-1)).clamp(min=0)  # round-off may give less
        p_RK = logits_RK.softmax(-1)
        top_R, _ = p_RK.max(-1)
        brier_R = (p_RK - (options_RK == targets_R[:, None]).float()).square().sum(-1)
        no_token = torch.iinfo(options_RK.dtype).max
        best_R = options_RK.where(p_RK == top_R[:, None], no_token).amin(-1)
        columns_R4 = torch.stack([nll_R, brier_R, top_R, (best_R == targets_R).float()], dim=-1)
        return columns_R4.where(((options_RK >= 0).sum(-1) >= 2)[:, None], torch.nan)


def summarize(hidden_RD: Tensor, head: Head, targets_R: Tensor, options_RK: Tensor | None = None) -> LogitSummary:
    """Summarize the logits of R tokens in chunks: the logits of all of them together may not fit in memory.

    A target or an option that is none of the head's rows, below 0 or above, has the logit -inf. Without `options_RK`
    there are no sums at other temperatures either. Of equal logits, the first is the arg max.
    """
    device, vocabulary = hidden_RD.device.type, head.weight_VD.shape[0]
    width = min(vocabulary, _SLICE_TOKENS[device])
    firsts = range(0, vocabulary, width)
    rows = max(1, _CHUNK_BYTES[device] // (4 * width))
    chunks = []
    for start in range(0, max(1, len(hidden_RD)), rows):
        at = slice(start, start + rows)
        of_slices = [
            _summarize(
                head.slice(first, first + width).logits(hidden_RD[at]),
                targets_R[at] - first,
                None if options_RK is None else options_RK[at] - first,
            )
            for first in firsts
        ]
        chunks.append(_joined(of_slices, firsts) if len(of_slices) > 1 else of_slices[0])
    fields: list[Any] = [None if parts[0] is None else torch.cat(parts) for parts in zip(*chunks, strict=True)]
    return LogitSummary(*fields)


def _joined(of_slices: Sequence[LogitSummary], firsts: Sequence[int]) -> LogitSummary:
    """Summary of a vocabulary from those of its slices, whose first tokens are `firsts`."""
    largest_R, best_R = torch.stack([one.largest for one in of_slices]).max(dim=0)
    argmax_NR = torch.stack([one.argmax + first for one, first in zip(of_slices, firsts, strict=True)])
    rescaled = [one.rescaled(largest_R) for one in of_slices]
    exp_sums = [one.exp_sums_RS for one in rescaled if one.exp_sums_RS is not None]
    options = [one.options_RK for one in rescaled if one.options_RK is not None]
    return LogitSummary(
        largest_R,
        argmax_NR.gather(0, best_R[None])[0],
        torch.stack([one.exp_sum for one in rescaled]).sum(0),
        torch.stack([one.target for one in rescaled]).amax(0),
        torch.stack(exp_sums).sum(0) if exp_sums else None,
        torch.stack(options).amax(0) if options else None,
    )


def _summarize(logits_RV: Tensor, targets_R: Tensor, options_RK: Tensor | None) -> LogitSummary:
    target = _logits_of(logits_RV, targets_R[:, None])[:, 0]
    largest, argmax = logits_RV.max(dim=-1)
    options, exp_sums = None, None
    if options_RK is not None:
        options = _logits_of(logits_RV, options_RK)
    # in place: the logits are not used again
    below_RV = logits_RV.sub_(largest[:, None])
    if options_RK is not None:
        exp_sums = torch.cat([_exp_sums(below_rV) for below_rV in below_RV.split(_piece_rows(below_RV))])
    return LogitSummary(largest, argmax, below_RV.exp_().sum(-1), target, exp_sums, options)


def _logits_of(logits_RV: Tensor, tokens_RK: Tensor) -> Tensor:
    """Logits of tokens [R, K]; -inf for those that are not in the vocabulary."""
    last = logits_RV.shape[1] - 1
    return logits_RV.gather(-1, tokens_RK.clamp(0, last)).masked_fill((tokens_RK < 0) | (tokens_RK > last), -torch.inf)


def _exp_sums(below_RV: Tensor) -> Tensor:
    """Sums over the vocabulary of exp(x / temperature), [R, S]: few exponentials, as exp(x / T) = exp(x / 2T)²."""
    sums: dict[float, Tensor] = {}
    exp_RV = torch.empty_like(below_RV)
    for first, halves in _HALVED.items():
        torch.mul(below_RV, 1 / first, out=exp_RV).exp_()
        for temperature in halves:
            if temperature != first:
                exp_RV.mul_(exp_RV)
            if temperature in TEMPERATURES:
                sums[temperature] = exp_RV.sum(-1)
    return torch.stack([sums[temperature] for temperature in TEMPERATURES], dim=-1)


def _piece_rows(logits_RV: Tensor) -> int:
    return max(1, _PIECE_BYTES[logits_RV.device.type] // (4 * logits_RV.shape[1]))
