"""The metric. A response's negative log-likelihood is the sum, over its tokens, of -log p(token | everything before).

Teacher-forced: the participant's own earlier responses are part of what comes before. In nats. Always computed from
float32 logits, whatever the weights are held in. Shapes: R scored tokens, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

_CHUNK_BYTES = {"cpu": 64 * 2**20, "cuda": 1024 * 2**20}


@dataclass(frozen=True, slots=True)
class Head:
    """From hidden states to logits, as the architectures do it: a matrix, then for some a scale or a soft cap."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    soft_cap: float | None = None

    @classmethod
    def of(cls, model: PreTrainedModel) -> Head:
        """Take the head out of a model. The self-check compares it with what the model itself would say."""
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


def token_nll(hidden_RD: Tensor, head: Head, targets_R: Tensor) -> tuple[Tensor, Tensor]:
    """NLL of each target, nats, float32 [R], and whether it is the arg max of the vocabulary, bool [R].

    `hidden_RD` are the states from which the targets are predicted, those of the tokens before them. Works in chunks:
    the logits of all wanted tokens together never stand in memory.
    """
    n_targets, vocabulary = len(targets_R), head.weight_VD.shape[0]
    rows = rows_at_a_time(vocabulary, hidden_RD.device)
    nll_R = torch.empty(n_targets, dtype=torch.float32, device=hidden_RD.device)
    top1_R = torch.empty(n_targets, dtype=torch.bool, device=hidden_RD.device)
    for at in range(0, n_targets, rows):
        here = slice(at, at + rows)
        logits_RV = head.logits(hidden_RD[here])
        picked = logits_RV.gather(-1, targets_R[here, None])[:, 0]
        top, place = logits_RV.max(dim=-1)
        # log sum exp, in place: the logits are not needed any more
        nll_R[here] = logits_RV.sub_(top[:, None]).exp_().sum(-1).log_() + top - picked
        top1_R[here] = place == targets_R[here]
    return nll_R, top1_R


def rows_at_a_time(vocabulary: int, device: torch.device) -> int:
    """How many tokens' float32 logits may stand in memory together."""
    return max(1, _CHUNK_BYTES[device.type] // (4 * vocabulary))
