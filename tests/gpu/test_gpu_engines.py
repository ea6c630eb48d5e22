"""Packs on a GPU against the model's own forward, on every architecture of the tests, and where memory runs out."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from support_packing import ARCHITECTURES, queries, tiny

from psych_ray.errors import InsufficientMemoryError
from psych_ray.scoring.engines.base import Query, TransformersEngine, WholeModelEngine
from psych_ray.scoring.engines.packed import PackedEngine

WIDTHS = {
    f"Qwen3, {heads} heads of {width}, {keys} of keys": {
        "hidden_size": 64, "num_attention_heads": heads, "num_key_value_heads": keys, "head_dim": width,
    }
    for width, heads, keys in [(64, 4, 4), (64, 8, 2), (96, 4, 2), (128, 4, 1), (256, 2, 1)]
}  # fmt: skip


def on_gpu(architecture: str, gpu: torch.device, dtype: torch.dtype = torch.bfloat16, **more):
    return tiny(architecture, **ARCHITECTURES[architecture] | more).to(gpu, dtype)


def nll(scores) -> np.ndarray:
    return np.concatenate([one.nll_R for one in scores])


@pytest.mark.parametrize("case", [*ARCHITECTURES, *WIDTHS])
def test_packs_are_as_near_to_float32_as_the_model_itself(case, gpu):
    architecture, more = case.split(",")[0], WIDTHS.get(case, {})
    model = on_gpu(architecture, gpu, **more)
    exact = nll(WholeModelEngine(copy.deepcopy(model).float()).score(queries()))
    own = np.abs(nll(WholeModelEngine(model).score(queries())) - exact)
    alone = np.abs(nll(TransformersEngine(model).score(queries())) - exact)
    packed = np.abs(nll(PackedEngine(model, batch_tokens=120).score(queries())) - exact)
    assert own.mean() < 0.2, "the tiny model is not one whose bfloat16 scores mean anything"
    assert packed.mean() < 1.5 * own.mean() + 1e-3
    assert alone.mean() < 1.5 * own.mean() + 1e-3


@pytest.mark.parametrize("architecture", ["Qwen3", "Olmo3", "Gemma3Text"])
def test_a_sequence_does_not_see_the_one_before_it(architecture, gpu):
    engine = PackedEngine(on_gpu(architecture, gpu))
    before, text = queries((100, 64))[:2]
    other = Query(before.token_ids_T[::-1].copy(), before.at_R)
    (_, one), (_, two) = engine.score([before, text]), engine.score([other, text])
    assert one.nll_R.tolist() == two.nll_R.tolist()


@pytest.mark.parametrize("architecture", ["Llama", "Qwen3", "Olmo3"])
def test_float32_on_a_gpu_is_float32_on_a_cpu(architecture, gpu):
    model = tiny(architecture, **ARCHITECTURES[architecture])
    expected = nll(WholeModelEngine(model).score(queries()))
    found = nll(TransformersEngine(copy.deepcopy(model).to(gpu)).score(queries()))
    assert np.abs(found - expected).max() < 1e-4


def test_a_pass_that_does_not_fit_is_halved_and_nothing_is_lost(gpu, caplog):
    model = on_gpu("Qwen3", gpu)
    asked = queries((900, 1000, 1100, 1200) * 16)
    engine = PackedEngine(model, batch_tokens=64 * 1050)
    expected = engine.score(asked)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    engine.score(asked)
    needed = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
    total = torch.cuda.get_device_properties(gpu).total_memory
    torch.cuda.empty_cache()
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + needed / 2) / total)
        found = engine.score(asked)
        assert "out of memory with" in caplog.text
        assert engine.batch_tokens < 64 * 1050
        assert np.abs(nll(found) - nll(expected)).mean() < 0.02
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**20) / total)
        with pytest.raises(InsufficientMemoryError):
            engine.score(queries((4000,))[:1] * 40)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_a_transcript_of_30_000_tokens_between_short_ones(gpu):
    model = on_gpu("Qwen3", gpu, max_position_embeddings=32_768)
    asked = queries((30, 30_000, 500))
    found = PackedEngine(model).score(asked)
    alone = [TransformersEngine(model).score([query])[0] for query in asked]
    assert [len(one.nll_R) for one in found] == [len(one.nll_R) for one in alone]
    assert np.abs(nll(found) - nll(alone)).mean() < 0.02
