"""oneDNN's products against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from support_packing import ARCHITECTURES, difference, queries, tiny
from torch.overrides import _get_current_function_mode_stack

from psych_ray.scoring.engines import onednn
from psych_ray.scoring.engines.base import TransformersEngine, WholeModelEngine
from psych_ray.scoring.engines.block_attention import attend
from psych_ray.scoring.engines.onednn import OneDnnEngine
from psych_ray.scoring.engines.packed import PackedEngine
from psych_ray.scoring.loading import candidate_engines

pytestmark = pytest.mark.skipif(not onednn.available(), reason="this build of PyTorch has no oneDNN for this CPU")


def test_only_float32_products_are_taken(monkeypatch):
    taken = []
    linear = onednn.linear
    monkeypatch.setattr(onednn, "linear", lambda *given: taken.append(given[0].dtype) or linear(*given))
    layer, half = torch.nn.Linear(8, 4), torch.nn.Linear(8, 4, dtype=torch.bfloat16)
    rows = torch.randn(3, 8)
    plain, plain_half = layer(rows), half(rows.bfloat16())
    with torch.inference_mode(), onednn._Linear():
        torch.testing.assert_close(layer(rows), plain)
        assert torch.equal(half(rows.bfloat16()), plain_half)
        assert layer(rows[:0]).shape == (0, 4)
    assert taken == [torch.float32]
    layer(rows)
    assert len(taken) == 1, "it ends with the block"


def test_the_mode_ends_with_the_call_also_when_nested_and_after_an_exception():
    class Raises:
        name, batch_tokens = "raises", 1

        def score(self, batch):
            assert len(_get_current_function_mode_stack()) == 2
            raise KeyError("no score")

    with pytest.raises(KeyError, match="no score"):
        OneDnnEngine(OneDnnEngine(Raises())).score([])
    assert not _get_current_function_mode_stack()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_are_those_of_the_model_itself(architecture):
    model = tiny(architecture, **ARCHITECTURES[architecture])
    expected = WholeModelEngine(model).score(queries())
    for engine in (TransformersEngine(model), PackedEngine(model, batch_tokens=150, attend=attend)):
        assert difference(OneDnnEngine(engine).score(queries()), expected) < 1e-4


def test_it_is_the_first_choice_for_float32_on_a_cpu():
    model = tiny("Llama")
    names = list(candidate_engines(model))
    assert names == ["transformers, packed, oneDNN", "transformers, oneDNN", "transformers"]
    assert names == [build().name for build in candidate_engines(model).values()]
    assert list(candidate_engines(model.bfloat16())) == ["transformers"]
