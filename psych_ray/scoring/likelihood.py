"""The metric. A response's negative log-likelihood is the sum, over its tokens, of -log p(token | everything before).

Teacher-forced: the participant's own earlier responses are part of what comes before. In nats. Always computed from
float32 logits, whatever the weights are held in. Shapes: R scored tokens, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK_BYTES = 256 * 2**20


def token_nll(logits_RV: Tensor, targets_R: Tensor) -> tuple[Tensor, Tensor]:
    """NLL of each target, nats, float32 [R], and whether it is the arg max of the vocabulary, bool [R].

    Works through the rows in chunks, so that no second copy of all logits in float32 is made.
    """
    rows = max(1, _CHUNK_BYTES // (4 * logits_RV.shape[-1]))
    nll_R = torch.empty(len(targets_R), dtype=torch.float32, device=logits_RV.device)
    top1_R = torch.empty(len(targets_R), dtype=torch.bool, device=logits_RV.device)
    for at in range(0, len(targets_R), rows):
        chunk, targets = logits_RV[at : at + rows].float(), targets_R[at : at + rows]
        picked = chunk.gather(-1, targets[:, None])[:, 0]
        nll_R[at : at + rows] = torch.logsumexp(chunk, dim=-1) - picked
        top1_R[at : at + rows] = chunk.argmax(dim=-1) == targets
    return nll_R, top1_R
