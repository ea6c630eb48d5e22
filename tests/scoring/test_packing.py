"""Packing against the model's own forward, with the GPU kernel replaced by a slow, obvious attention."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from psych_ray.errors import InsufficientMemoryError
from psych_ray.scoring.engines.base import Query, TransformersEngine, WholeModelEngine
from psych_ray.scoring.engines.packed import PackedEngine
from psych_ray.scoring.engines.packed_attention import Pack, enable_varlen_attention, packed_attention
from psych_ray.scoring.engines.packs import packs


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
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=4096, initializer_range=0.3,
        tie_word_embeddings=False, pad_token_id=None, bos_token_id=None, eos_token_id=None, **more,
    )  # fmt: skip
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


@pytest.mark.filterwarnings("ignore::UserWarning:transformers")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_and_alone_are_what_the_model_itself_says(architecture):
    model = tiny(architecture, **ARCHITECTURES[architecture])
    expected = WholeModelEngine(model).score(queries())
    assert difference(TransformersEngine(model).score(queries()), expected) < 1e-4
    packed = PackedEngine(model, batch_tokens=120, attend=slow_attention)
    assert difference(packed.score(queries()), expected) < 1e-4
    # outside of a pack the model is unchanged
    assert difference(WholeModelEngine(model).score(queries()), expected) == 0.0


def test_scores_do_not_depend_on_what_else_is_in_the_batch():
    engine = PackedEngine(tiny("Qwen3"), batch_tokens=4096, attend=slow_attention)
    alone = [engine.score([query])[0] for query in queries()]
    together = engine.score(queries())
    backwards = engine.score(queries()[::-1])[::-1]
    assert difference(together, alone) < 1e-4
    assert difference(backwards, alone) < 1e-4


def test_out_of_memory_halves_the_budget_for_good_and_loses_nothing(caplog):
    calls = []

    def small_memory(query, *more, **options):
        calls.append(query.shape[0])
        if query.shape[0] > 110:
            raise torch.OutOfMemoryError
        return slow_attention(query, *more, **options)

    model = tiny("Qwen3")
    expected = WholeModelEngine(model).score(queries())
    engine = PackedEngine(model, batch_tokens=1000, attend=small_memory)
    assert difference(engine.score(queries()), expected) < 1e-4
    assert engine.batch_tokens < 120
    assert "out of memory with" in caplog.text
    calls.clear()
    engine.score(queries())
    assert max(calls) <= 110, "it did not remember"
    (long, _) = queries((300,))
    with pytest.raises(InsufficientMemoryError, match=f"forward pass of {long.length} tokens"):
        engine.score([long])


def test_packed_attention_ends_with_its_context_also_when_nested_and_after_an_exception():
    model = tiny("Qwen3")
    expected = WholeModelEngine(model).score(queries())
    enable_varlen_attention(model)
    asked = queries((9, 12))[:2]
    outer, inner = Pack.of(asked, model.device), Pack.of(asked[:1], model.device)

    def running(pack):
        return body(input_ids=pack.ids_1P, position_ids=pack.positions_1P, use_cache=False).last_hidden_state

    def fails(*_, **__):
        raise KeyError("no kernel")

    body = model.model
    with packed_attention(outer, slow_attention):
        before = running(outer)
        with pytest.raises(KeyError, match="no kernel"), packed_attention(inner, fails):
            running(inner)
        assert torch.equal(running(outer), before)
    assert difference(WholeModelEngine(model).score(queries()), expected) == 0.0


def test_token_zero_cannot_be_asked_for():
    with pytest.raises(ValueError, match="token 0"):
        Query(np.array([1, 2, 3]), np.array([0, 1]))


@pytest.mark.parametrize("seed", range(30))
def test_packs_hold_everything_once_and_fit(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 120, rng.integers(1, 40)).tolist()
    groups = packs(sizes, 100)
    assert sorted(index for group in groups for index in group) == list(range(len(sizes)))
    assert all(len(group) == 1 or sum(sizes[p] for p in group) <= 100 for group in groups)
    assert len(groups) <= 2 * sum(sizes) / 100 + 1
