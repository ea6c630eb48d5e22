"""What tests of engines in one process share: tiny models, queries, and a slow, obvious attention within packs."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM

from psych_ray.scoring.engines.base import Query


def slow_attention(query, key, value, cu_seqlens, _, max_seqlen, __, *, scale, window_size, enable_gqa):
    """Each sequence alone, with an explicit mask: what `varlen_attn` computes."""
    output = torch.empty_like(query)
    ends = cu_seqlens.tolist()
    assert max(b - a for a, b in itertools.pairwise(ends)) == max_seqlen
    for start, end in itertools.pairwise(ends):
        i = torch.arange(end - start)
        mask = i[:, None] >= i[None]
        if window_size[0] >= 0:
            mask &= i[:, None] - i[None] <= window_size[0]
        q, k, v = (states[start:end].transpose(0, 1)[None] for states in (query, key, value))
        attended = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=scale, enable_gqa=enable_gqa
        )
        output[start:end] = attended[0].transpose(0, 1)
    return output


def tiny(architecture: str, **more):
    settings = {
        "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 4096, "initializer_range": 0.3,
        "tie_word_embeddings": False, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    config = getattr(transformers, f"{architecture}Config")(**settings | more)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def queries(lengths=(40, 7, 100, 2, 64, 33)) -> list[Query]:
    rng = np.random.default_rng(0)
    asked = [
        Query(rng.integers(0, 300, n), np.sort(rng.choice(np.arange(1, n), min(n - 1, 9), replace=False)))
        for n in lengths
    ]
    return [*asked, Query(rng.integers(0, 300, 5), np.empty(0, np.int64))]


def difference(found, expected) -> float:
    assert [len(a.nll_R) for a in found] == [len(b.nll_R) for b in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.top1_R.tolist() == b.top1_R.tolist()
    return max(float(np.abs(a.nll_R - b.nll_R).max()) for a, b in zip(found, expected, strict=True) if len(a.nll_R))


ARCHITECTURES = {
    "Llama": {},
    "Mistral": {"sliding_window": 16},
    "Qwen2": {},
    "Qwen3": {},
    "Qwen3Moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "Olmo2": {},
    "Olmo3": {"sliding_window": 16},
    "Gemma3Text": {"sliding_window": 16},
    "Cohere": {"logit_scale": 0.25},
    "Granite": {"logits_scaling": 4.0},
}
