"""The baseline: the loop that the study's published scripts run, written anew.

For each transcript a full forward pass with the logits of every token, cross-entropy over all of them in the dtype of
the weights, a Python loop over tokens to sum them up by response, and a clean-up after each of them. Accuracy takes a
second run.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from psych_ray.scoring.engines.base import Query


def loop_nll(model: PreTrainedModel, queries: Sequence[Query]) -> list[list[float]]:
    """NLL of every wanted token, nats."""
    answers = []
    for query in queries:
        with torch.inference_mode():
            ids = torch.from_numpy(query.token_ids_T)[None].to(model.device)
            logits = model(input_ids=ids).logits
            losses = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="none")
            wanted = set(query.at_R.tolist())
            answers.append([losses[t - 1].item() for t in range(1, ids.shape[1]) if t in wanted])
        del logits, losses
        _clean_up(model)
    return answers


def loop_top1(model: PreTrainedModel, queries: Sequence[Query]) -> list[list[bool]]:
    """Is every wanted token the arg max of the vocabulary."""
    answers = []
    for query in queries:
        with torch.inference_mode():
            ids = torch.from_numpy(query.token_ids_T)[None].to(model.device)
            logits = model(input_ids=ids).logits
            best = logits[0, :-1].argmax(-1)
            wanted = set(query.at_R.tolist())
            right = best == ids[0, 1:]
            answers.append([bool(right[t - 1].item()) for t in range(1, ids.shape[1]) if t in wanted])
        del logits, best
        _clean_up(model)
    return answers


def _clean_up(model: PreTrainedModel) -> None:
    gc.collect()
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
