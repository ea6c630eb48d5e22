"""What tests of engines on several ranks share: tiny models of all families, queries, and how scores differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import transformers

from psych_ray.config import ScoringConfig
from psych_ray.scoring.engines.base import Query, TokenScores

LENGTHS = (150, 7, 101, 2, 64, 33, 5)
WINDOW = 64
WINDOWED = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"] * 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
LINEAR = {
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {"sliding_window": WINDOW}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"tie_word_embeddings": True}),
    "qwen3-moe": ("Qwen3Moe", EXPERTS),
    "qwen3.5, linear attention": ("Qwen3_5Text", LINEAR),
    "olmo2": ("Olmo2", {}),
    "olmo3": ("Olmo3", WINDOWED),
    "gemma3": ("Gemma3Text", WINDOWED | {"final_logit_softcapping": 30.0}),
    "gemma3, tied": ("Gemma3Text", WINDOWED | {"tie_word_embeddings": True}),
    "granite": ("Granite", {"logits_scaling": 4.0}),
}
NOT_PACKED = {"qwen3.5, linear attention"}
SCORING = ScoringConfig(device="cpu")


def tiny(architecture: str, **more: Any) -> transformers.PreTrainedModel:
    settings: dict[str, Any] = {
        "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 4096,
        "initializer_range": 0.3, "tie_word_embeddings": False, "pad_token_id": None, "bos_token_id": 0,
        "eos_token_id": None,
    }  # fmt: skip
    config = getattr(transformers, f"{architecture}Config")(**settings | more)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:  # norms start at 0 or 1, biases at 0, which would hide what they do
                weight += 0.2 * torch.randn_like(weight)
    return model


def queries(lengths=LENGTHS) -> list[Query]:
    """More than one batch of 2 or 4 ranks holds evenly, and two that want nothing."""
    rng = np.random.default_rng(0)
    asked = [
        Query(rng.integers(0, 300, n), np.sort(rng.choice(np.arange(1, n), min(n - 1, 40), replace=False)))
        for n in lengths
    ]
    nothing = Query(rng.integers(0, 300, 5), np.empty(0, np.int64))
    return [nothing, *asked, nothing]


def batches() -> list[list[Query]]:
    """Also one with fewer queries than ranks, one in which nothing is wanted, an empty one, and one with options."""
    with_options = [replace(query, options_K=np.unique(query.token_ids_T[query.at_R])[:3]) for query in queries()]
    return [queries(), queries()[1:2], queries()[:1], [], with_options]


def difference(found: list[TokenScores], expected: list[TokenScores]) -> float:
    """Of the NLL and of calibration, nats; infinite where the arg max is another."""
    assert [len(a.nll_R) for a in found] == [len(b.nll_R) for b in expected]
    same = all(a.top1_R.tolist() == b.top1_R.tolist() for a, b in zip(found, expected, strict=True))
    largest = max(
        (float(np.abs(a.nll_R - b.nll_R).max()) for a, b in zip(found, expected, strict=True) if len(a.nll_R)),
        default=0.0,
    )
    for a, b in zip(found, expected, strict=True):
        assert (a.calibration_RC is None) == (b.calibration_RC is None)
        if a.calibration_RC is not None and b.calibration_RC is not None:
            same &= bool((np.isnan(a.calibration_RC) == np.isnan(b.calibration_RC)).all())
            largest = max(largest, float(np.nanmax(np.abs(a.calibration_RC - b.calibration_RC))))
    return largest if same else float("inf")
