"""Sizes that planning reads from a checkpoint's config.json, card and base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from psych_ray.checkpoints import shape
from psych_ray.checkpoints.find import Checkpoint, simulator_checkpoint
from psych_ray.checkpoints.shape import CheckpointShape, shape_of
from psych_ray.checkpoints.tensor_parallel_sizes import require_divisible
from psych_ray.config import CheckpointCard
from psych_ray.errors import CheckpointError

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
}
EXPERTS = LLAMA | {"model_type": "qwen3_moe", "moe_intermediate_size": 2048, "num_experts_per_tok": 8}


def of_config(config: dict, **more) -> CheckpointShape:
    return CheckpointShape.of_config(config, n_parameters=8_000_000_000, **more)


@pytest.fixture
def checkpoint(tmp_path: Path):
    def make(name: str, config: dict | None, *, base: Checkpoint | None = None, **card) -> Checkpoint:
        if config is not None:
            (tmp_path / name).mkdir()
            (tmp_path / name / "config.json").write_text(json.dumps(config))
        path = str(tmp_path / name) if base is None else None
        return Checkpoint(
            card=CheckpointCard(id=name, path=path, **card),
            slug=name,
            fingerprint="f",
            n_parameters=8_000_000_000,
            base_of_adapter=base,
        )

    return make


def test_sizes_are_those_of_config_json(checkpoint):
    found = shape_of(checkpoint("whole", LLAMA))
    assert found == of_config(LLAMA)
    assert (found.n_parameters, found.bits, found.only_transformers) == (8_000_000_000, None, None)
    assert (found.hidden_size, found.intermediate_size, found.context) == (4096, 14336, 131_072)
    nested = of_config({"model_type": "mistral3", "text_config": LLAMA | {"model_type": "mistral"}})
    assert (nested.hidden_size, nested.intermediate_size, nested.context) == (4096, 14336, 131_072)
    assert nested.rank_counts(4) == [1, 2, 4]


def test_the_widest_mlp_counts_all_experts_of_a_token():
    assert of_config(EXPERTS).intermediate_size == 8 * 2048
    assert of_config(EXPERTS | {"num_experts_per_tok": 2}).intermediate_size == 14336


@pytest.mark.parametrize(
    ("stored", "card", "bits"),
    [
        (None, None, None),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, None, 4),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, None, 8),
        ({"quant_method": "gptq", "bits": 4}, None, 4),
        ({"quant_method": "awq", "w_bit": 4}, None, 4),
        ({"quant_method": "gptq", "bits": 3}, None, 8),
        ({"quant_method": "fp8"}, None, 8),
        (None, "bnb-4bit", 4),
        (None, "bnb-8bit", 8),
    ],
)
def test_bits_come_from_config_json_or_from_the_card(stored, card, bits):
    found = of_config(LLAMA | {"quantization_config": stored}, quantization=card)
    assert found.bits == bits
    assert found.only_transformers == (None if bits is None else "it is quantized")


def test_adapters_quantized_weights_and_own_code_need_transformers(checkpoint):
    base = checkpoint("base", LLAMA, quantization="bnb-4bit")
    assert shape_of(base).only_transformers == "it is quantized"
    adapter = shape_of(checkpoint("adapter", None, base=base, adapter=True))
    assert (adapter.only_transformers, adapter.bits, adapter.hidden_size) == ("it is an adapter", 4, 4096)
    own_code = shape_of(checkpoint("own-code", LLAMA, trust_remote_code=True))
    assert own_code.only_transformers == "it comes with modelling code of its own"


@pytest.mark.parametrize("config", [LLAMA, EXPERTS, LLAMA | {"model_type": "other"}])
@pytest.mark.parametrize("n_ranks", [1, 2, 3, 8, 16])
def test_obstacles_are_what_require_divisible_raises(config, n_ranks):
    found = of_config(config)
    obstacle = found.tensor_parallel_obstacle(n_ranks)
    assert (n_ranks in found.rank_counts(16)) == (obstacle is None)
    if obstacle is not None:
        with pytest.raises(CheckpointError) as caught:
            require_divisible(config, n_ranks, "x")
        assert str(caught.value) == f"x: {obstacle}"


def test_without_config_json_sizes_are_none(checkpoint, monkeypatch):
    monkeypatch.setattr(shape, "config_of", lambda card: {})
    on_hub = Checkpoint(card=CheckpointCard(id="lab/a"), slug="lab--a", fingerprint="f", n_parameters=7)
    for found in (shape_of(on_hub), shape_of(simulator_checkpoint())):
        assert found.hidden_size is found.intermediate_size is found.context is found.bits is None
        assert found.rank_counts(8) == [1, 2, 4, 8]
        assert found.rank_counts(100) == [1, 2, 4, 8, 16]
        assert found.tensor_parallel_obstacle(3) is None
    monkeypatch.setattr(shape, "config_of", lambda card: LLAMA)
    assert shape_of(on_hub) == CheckpointShape.of_config(LLAMA, n_parameters=7)
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        shape_of(checkpoint("missing", None))
    assert len({found, shape_of(on_hub)}) == 2
