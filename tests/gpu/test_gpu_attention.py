"""PyTorch's variable-length kernel, and products with float32 results, against the slow and obvious on the same GPU."""

from __future__ import annotations

import pytest
import torch
from support_packing import slow_attention

from psych_ray.compat.torch import float32_linear
from psych_ray.scoring.engines.packed_attention import varlen_attention_for

LENGTHS = (1, 2, 63, 64, 65, 127, 128, 129, 300, 1000, 7)


@pytest.mark.parametrize("width", [8, 64, 80, 96, 128, 192, 256])
@pytest.mark.parametrize("group", [1, 2, 8])
@pytest.mark.parametrize("window", [-1, 0, 15, 511])
def test_the_kernel_attends_within_sequences(gpu, width, group, window):
    generator = torch.Generator(gpu).manual_seed(width + group)

    def states(heads):
        return torch.randn(sum(LENGTHS), heads, width, generator=generator, device=gpu, dtype=torch.bfloat16)

    query, key, value = states(8), states(8 // group), states(8 // group)
    cu_seqlens = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()], dtype=torch.int32, device=gpu)
    arguments = (cu_seqlens, cu_seqlens, max(LENGTHS), max(LENGTHS))
    options = {"scale": width**-0.5, "window_size": (window, 0), "enable_gqa": group > 1}
    attend = varlen_attention_for(gpu, torch.bfloat16)
    found = attend(query, key, value, *arguments, **options)
    host = [states.cpu().float() for states in (query, key, value)]
    expected = slow_attention(*host, cu_seqlens.cpu(), None, *arguments[2:], **options)
    # 2^-8 is the spacing of bfloat16 at 1
    torch.testing.assert_close(found.cpu().float(), expected, atol=0.03, rtol=2**-6)
    assert (found.cpu().float() - expected).abs().mean() < 2e-3


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("n_rows", [0, 1, 500])
def test_a_product_of_bfloat16_is_not_rounded(gpu, n_rows, has_bias):
    generator = torch.Generator(gpu).manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, device=gpu, dtype=torch.bfloat16)

    rows, weight, bias = random(n_rows, 1024), random(3000, 1024), random(3000) if has_bias else None
    found = float32_linear(rows, weight, bias)
    exact = rows.double() @ weight.double().t() + (0 if bias is None else bias.double())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, atol=1e-2, rtol=1e-4)


def test_products_of_float32_are_not_tf32(gpu):
    rows = torch.randn(256, 1024, generator=torch.Generator(gpu).manual_seed(0), device=gpu)
    exact = rows.double() @ rows.double().t()
    assert (float32_linear(rows, rows, None).double() - exact).abs().max() < 2e-3
