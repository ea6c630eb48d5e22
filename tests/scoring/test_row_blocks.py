"""Layers run block by block against layers run over whole packs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support_packing import ARCHITECTURES, difference, queries, tiny

from psych_ray.scoring.engines import block_attention, onednn, row_blocks
from psych_ray.scoring.engines.base import WholeModelEngine
from psych_ray.scoring.engines.block_attention import attend
from psych_ray.scoring.engines.packed import PackedEngine
from psych_ray.scoring.engines.packed_attention import Pack, packed_attention
from psych_ray.scoring.engines.row_blocks import layers_in_blocks

pytestmark = pytest.mark.skipif(not onednn.available(), reason="this build of PyTorch has no oneDNN for this CPU")
LENGTHS = (40, 7, 100, 2, 64, 33, 300)


def seen_rows(model):
    """Rows of each call of the first layer's attention, which is called once per block."""
    seen = []
    attention = model.model.layers[0].self_attn
    attention.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args[0] if args else kwargs["hidden_states"]).shape[1]), with_kwargs=True
    )
    return seen


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_are_those_of_the_model_itself(monkeypatch, architecture):
    monkeypatch.setattr(block_attention, "QUERIES", 16)
    monkeypatch.setattr(row_blocks, "QUERIES", 16)
    monkeypatch.setattr(block_attention, "_KEYS", 24)
    model = tiny(architecture, **ARCHITECTURES[architecture])
    seen = seen_rows(model)
    expected = WholeModelEngine(model).score(queries(LENGTHS))
    for rows in (9, 32, 50, 299):
        seen.clear()
        engine = PackedEngine(model, batch_tokens=350, attend=attend, layer_rows=rows)
        assert difference(engine.score(queries(LENGTHS)), expected) < 1e-4
        assert architecture == "Qwen3Moe" or 1 < max(seen) <= rows, "layers of experts run over whole packs"


@pytest.mark.parametrize("lengths", [(300, 500, 20, 90), (1300,), (700, 700)])
def test_scores_are_equal_to_the_last_bit(lengths):
    model = tiny("Qwen3")
    whole, blocks = (
        PackedEngine(model, batch_tokens=2048, attend=attend, layer_rows=rows).score(queries(lengths))
        for rows in (None, 512)
    )
    assert difference(whole, blocks) == 0


@pytest.mark.parametrize("rows", [1, 7, 255, 256, 300, 512, 5000])
@pytest.mark.parametrize("lengths", [(1,), (256, 256, 256), (300, 500, 20, 90), (2000,), (5,) * 100])
def test_blocks_are_all_rows_in_order(lengths, rows):
    bounds = np.cumsum([0, *lengths]).tolist()
    blocks = list(row_blocks._blocks(bounds, rows))
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(bounds[-1]))
    assert min(block.stop - block.start for block in blocks) > 0
    assert max(block.stop - block.start for block in blocks) <= rows
    assert len(blocks) <= 1 + 2 * bounds[-1] / rows
    if rows >= 256:
        starts = [max(bound for bound in bounds if bound <= block.start) for block in blocks]
        assert all((block.start - start) % 256 == 0 for block, start in zip(blocks, starts, strict=True))


def test_models_are_as_they_were_afterwards_also_after_an_exception():
    model = tiny("Llama")
    forward = model.model.layers[0].forward
    with pytest.raises(KeyError, match="stopped"):
        stopped_in(model, forward)
    assert model.model.layers[0].forward == forward
    assert "forward" not in vars(model.model.layers[0])


def stopped_in(model, forward):
    with layers_in_blocks(model.model, 8):
        assert model.model.layers[0].forward != forward
        raise KeyError("stopped")


class Layer(torch.nn.Module):
    def __init__(self, as_tuple=False):
        super().__init__()
        self.as_tuple, self.rows = as_tuple, []

    def forward(self, hidden, *, other=None):
        self.rows.append(hidden.shape[1])
        output = hidden * 2
        return (output,) if self.as_tuple else output


@pytest.mark.parametrize(
    ("other", "blocks"),
    [
        (None, True),
        (torch.ones(1, 10, 3), True),
        ((torch.ones(1, 10), (None, True)), True),
        (torch.ones(10, 3), False),
        (torch.ones(3, 1, 10), False),
        ({"state": 1}, False),
        ((None, [1]), False),
    ],
)
def test_a_layer_that_is_given_anything_else_runs_over_all_tokens_at_once(other, blocks):
    rows, output = run(Layer(), other=other)
    assert rows == ([4, 4, 2] if blocks else [10])
    assert torch.equal(output, torch.full((1, 10, 2), 2.0))


def test_a_layer_that_returns_anything_else_runs_over_all_tokens_at_once():
    rows, (output,) = run(Layer(as_tuple=True))
    assert rows == [4, 10]
    assert output.shape == (1, 10, 2)


def run(layer, **given):
    body = torch.nn.Module()
    body.layers = torch.nn.ModuleList([layer])
    pack = Pack.of(queries((11,))[:1], torch.device("cpu"))
    with packed_attention(pack, attend), layers_in_blocks(body, 4):
        output = layer(torch.ones(1, 10, 2), **given)
    return layer.rows, output


def test_bounds_of_the_sequences_in_some_rows():
    pack = Pack.of(queries((11, 4, 21))[:3], torch.device("cpu"))
    ends = pack.cu_seqlens_N1.tolist()
    tokens = [(number, place) for number, n in enumerate(pack.cu_seqlens_N1.diff().tolist()) for place in range(n)]
    for start in range(ends[-1]):
        for stop in range(start + 1, ends[-1] + 1):
            cu_seqlens_q, cu_seqlens_k = pack.bounds(slice(start, stop))
            within = tokens[start:stop]
            sequences = sorted({number for number, _ in within})
            assert cu_seqlens_q.diff().tolist() == [sum(n == number for n, _ in within) for number in sequences]
            last = dict(within)
            assert cu_seqlens_k.diff().tolist() == [last[number] + 1 for number in sequences]
            assert cu_seqlens_q[0] == cu_seqlens_k[0] == 0


def test_an_attention_that_is_used_twice_in_a_layer_is_refused():
    model = tiny("DiffLlama")
    with pytest.raises(ValueError, match="DiffLlamaAttention: its layer attends more than once"):
        PackedEngine(model, batch_tokens=2048, attend=attend, layer_rows=512).score(queries((700,)))
