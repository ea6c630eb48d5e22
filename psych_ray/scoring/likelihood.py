"""The metric. A response's negative log-likelihood is the sum, over its tokens, of -log p(token | all tokens before).

Teacher-forced: the participant's own earlier responses are among the tokens before. In nats. Always computed from
float32 logits, whatever the dtype of the weights. Shapes: R scored tokens, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

_CHUNK_BYTES = {"cpu": 64 * 2**20, "cuda": 1024 * 2**20}
"""Size of the float32 logits that are in memory together."""


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

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Float32 logits [R, V]."""
        logits_RV = nn.functional.linear(hidden_RD, self.weight_VD, self.bias_V).float()
        if self.scale != 1.0:
            logits_RV *= self.scale
        if self.soft_cap is not None:
            logits_RV = self.soft_cap * torch.tanh(logits_RV / self.soft_cap)
        return logits_RV

    def token_nll(self, hidden_RD: Tensor, targets_R: Tensor) -> tuple[Tensor, Tensor]:
        """NLL of each target, nats, float32 [R], and whether it is the arg max of the vocabulary, bool [R].

        `hidden_RD` are the states from which the targets are predicted: those of the tokens before them.
        """
        chunks = summarize(hidden_RD, self, targets_R)
        argmax_R = torch.cat([chunk.argmax for chunk in chunks])
        return torch.cat([chunk.nll() for chunk in chunks]), argmax_R == targets_R


@dataclass(frozen=True, slots=True)
class LogitSummary:
    """What is needed of the logits of R tokens, [R] each: float32 but for the arg max, which is int64."""

    largest: Tensor
    argmax: Tensor
    exp_sum: Tensor
    """Sum over the vocabulary of exp(logit - largest)."""
    target: Tensor
    """Logit of the target."""

    def nll(self) -> Tensor:
        """Negative log-likelihood of the targets, nats."""
        return self.exp_sum.log() + self.largest - self.target


def summarize(hidden_RD: Tensor, head: Head, targets_R: Tensor) -> list[LogitSummary]:
    """Summarize the logits of R tokens in chunks: the logits of all of them together may not fit in memory."""
    rows = max(1, _CHUNK_BYTES[hidden_RD.device.type] // (4 * head.weight_VD.shape[0]))
    return [
        _summarize(head.logits(hidden), targets)
        for hidden, targets in zip(hidden_RD.split(rows), targets_R.split(rows), strict=True)
    ]


def _summarize(logits_RV: Tensor, targets_R: Tensor) -> LogitSummary:
    target = logits_RV.gather(-1, targets_R[:, None])[:, 0]
    largest, argmax = logits_RV.max(dim=-1)
    # in place: the logits are not used again
    return LogitSummary(largest, argmax, logits_RV.sub_(largest[:, None]).exp_().sum(-1), target)
