"""Engines: how a replica holds the weights. One seam for all of them: token ids in, likelihoods of chosen tokens out.

An engine knows nothing of transcripts, responses or files; whoever packs sequences or shards weights does it behind
`Engine.score`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from psych_ray.scoring.likelihood import token_nll


@dataclass(frozen=True, slots=True)
class Query:
    """One sequence of tokens [T] and the places [R] of those whose likelihood is wanted, ascending, none of them 0."""

    token_ids_T: NDArray[np.int64]
    at_R: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TokenScores:
    """For the wanted tokens of one query: NLL in nats, float32 [R]; is it the arg max of the vocabulary, bool [R]."""

    nll_R: NDArray[np.float32]
    top1_R: NDArray[np.bool_]


class Engine(Protocol):
    """A loaded checkpoint."""

    name: str

    def score(self, batch: Sequence[Query]) -> list[TokenScores]:
        """Teacher-forced likelihoods of the wanted tokens. ValueError where token 0 is wanted: nothing predicts it."""


class TransformersEngine:
    """One transformers model in one process on one device; one sequence a forward pass."""

    name = "transformers"

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.eval()

    @torch.inference_mode()
    def score(self, batch: Sequence[Query]) -> list[TokenScores]:
        """Run the body over each sequence and the head only where a wanted token is predicted."""
        return [self._score(query) for query in batch]

    def _score(self, query: Query) -> TokenScores:
        if len(query.at_R) == 0:
            return TokenScores(np.empty(0, np.float32), np.empty(0, np.bool_))
        if query.at_R[0] < 1:
            raise ValueError("token 0 has no token before it that could predict it")
        # Nothing after the last wanted token can change its likelihood.
        length = int(query.at_R[-1])
        device = self.model.device
        ids_1T = torch.from_numpy(query.token_ids_T[:length]).to(device)[None]
        at_R = torch.from_numpy(query.at_R).to(device)
        targets_R = torch.from_numpy(query.token_ids_T[query.at_R]).to(device)
        logits_1RV = self.model(input_ids=ids_1T, logits_to_keep=at_R - 1, use_cache=False).logits
        if logits_1RV.shape[1] != len(at_R):  # some classes take no notice of logits_to_keep
            logits_1RV = logits_1RV[:, at_R - 1]
        nll_R, top1_R = token_nll(logits_1RV[0], targets_R)
        return TokenScores(nll_R.cpu().numpy(), top1_R.cpu().numpy())
