"""Half precision: logits are float32 all the same; and its attention kernel, as torch 2.11 and later have it."""

from __future__ import annotations

import pytest
import torch
from support_packing import difference, queries, slow_attention, tiny
from torch import nn

from psych_ray.compat import torch as compat
from psych_ray.scoring.engines.base import TransformersEngine, WholeModelEngine
from psych_ray.scoring.engines.packed import PackedEngine


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("n_rows", [0, 1, 7])
def test_a_product_is_not_rounded_to_half_precision(dtype, has_bias, n_rows, monkeypatch):
    monkeypatch.setattr(compat, "_CONVERTED_ROWS", 64)
    torch.manual_seed(0)
    rows, weight = 4 * torch.randn(n_rows, 32, dtype=dtype), torch.randn(150, 32, dtype=dtype)
    bias = torch.randn(150, dtype=dtype) if has_bias else None
    exact = rows.double() @ weight.double().t() + (0.0 if bias is None else bias.double())
    found = compat.float32_linear(rows, weight, bias)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=0)
    if n_rows:
        rounded = nn.functional.linear(rows, weight, bias)
        assert (rounded.double() - exact).abs().max() > 1e-2


@pytest.mark.parametrize("architecture", ["Qwen3", "Cohere", "Granite"])
def test_the_reference_has_float32_logits_too(architecture):
    more = {"Cohere": {"logit_scale": 0.25}, "Granite": {"logits_scaling": 4.0}}.get(architecture, {})
    model = tiny(architecture, **more).bfloat16()
    expected = WholeModelEngine(model).score(queries())
    assert difference(TransformersEngine(model).score(queries()), expected) < 1e-4
    logits = model(input_ids=torch.arange(9)[None]).logits
    assert logits.dtype == torch.bfloat16, "outside of the reference the model is unchanged"


def test_heads_are_repeated_where_the_kernel_does_not_group_them(monkeypatch):
    def ungrouped(query, key, value, *more, scale, window_size):
        assert query.shape[1] == key.shape[1] == value.shape[1]
        return slow_attention(query, key, value, *more, scale=scale, window_size=window_size, enable_gqa=False)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", ungrouped)
    model = tiny("Qwen3")
    expected = WholeModelEngine(model).score(queries())
    found = PackedEngine(model, batch_tokens=120, attend=compat.varlen_attention()).score(queries())
    assert difference(found, expected) < 1e-4


def test_a_kernel_that_groups_heads_is_used_as_it_is(monkeypatch):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", slow_attention)
    assert compat.varlen_attention() is slow_attention
