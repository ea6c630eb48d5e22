"""Packing against the model's own forward, with the GPU kernel replaced by a slow, obvious attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support_packing import ARCHITECTURES, difference, queries, slow_attention, tiny

from psych_ray.errors import InsufficientMemoryError
from psych_ray.scoring.engines.base import Query, TransformersEngine, WholeModelEngine
from psych_ray.scoring.engines.packed import PackedEngine
from psych_ray.scoring.engines.packed_attention import Pack, enable_varlen_attention, packed_attention
from psych_ray.scoring.engines.packs import packs


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
