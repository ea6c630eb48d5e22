"""Engines and ranks chosen from sizes alone, for the shapes of checkpoints that people sweep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from psych_ray.checkpoints.find import Checkpoint, simulator_checkpoint
from psych_ray.config import CheckpointCard, ClusterConfig, ClusterKind, Config, CutBy, Dtype, EngineName, ScoringConfig
from psych_ray.errors import CheckpointError
from psych_ray.sweep import placement
from psych_ray.sweep.placement import Gpus, gpus_of, place

LLAMA_70B = {
    "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64,
    "num_key_value_heads": 8, "vocab_size": 128_256,
}  # fmt: skip
NODE = Gpus(per_node=8, memory_bytes=85e9)


@pytest.fixture
def checkpoint(tmp_path: Path):
    def make(billions: float, config: dict = LLAMA_70B, *, base: Checkpoint | None = None, **card) -> Checkpoint:
        directory = tmp_path / f"c{len(list(tmp_path.iterdir()))}"
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(config))
        return Checkpoint(
            card=CheckpointCard(id=f"{billions:g}B", path=str(directory), **card),
            slug=f"{billions:g}B",
            fingerprint="f",
            n_parameters=int(billions * 1e9),
            base_of_adapter=base,
        )

    return make


def wanted(engine: EngineName = EngineName.auto, dtype: Dtype = Dtype.bfloat16, ranks: int | None = None) -> Config:
    return Config(scoring=ScoringConfig(engine=engine, dtype=dtype), cluster=ClusterConfig(ranks=ranks))


@pytest.mark.parametrize(
    ("billions", "dtype", "gpus", "engine", "ranks", "why"),
    [
        (
            8.0,
            Dtype.bfloat16,
            NODE,
            EngineName.transformers,
            1,
            "16.0 GB of weights, 16,384 tokens at a time, fit one GPU of 85 GB",
        ),
        (
            70.6,
            Dtype.bfloat16,
            NODE,
            EngineName.deepspeed_tp,
            2,
            "16,384 tokens at a time, fit 2 GPUs of 85 GB together",
        ),
        (70.6, Dtype.float32, NODE, EngineName.deepspeed_tp, 4, "282.4 GB"),
        (70.6, Dtype.bfloat16, Gpus(4, 24e9), EngineName.deepspeed_zero, 4, "no number of GPUs of 24 GB"),
        (70.6, Dtype.bfloat16, Gpus(1, 85e9), EngineName.deepspeed_zero, 1, "no number of GPUs"),
        (70.6, Dtype.bfloat16, None, EngineName.transformers, 1, "no GPUs"),
        (8.0, Dtype.bfloat16, Gpus(4, 12e9), EngineName.deepspeed_tp, 4, "4 GPUs of 12 GB"),
    ],
)
def test_auto_takes_the_first_way_that_fits(checkpoint, billions, dtype, gpus, engine, ranks, why):
    found = place(checkpoint(billions), wanted(dtype=dtype), gpus)
    assert (found.engine, found.ranks) == (engine, ranks)
    assert why in found.why


@pytest.mark.parametrize(
    ("scoring", "longest", "tokens", "ranks"),
    [
        ({}, 30_000, 16_384, 2),
        ({}, 150_000, 50_000, 4),
        ({}, 10**6, 131_072, 4),
        ({"cut_at": 24_000}, 150_000, 24_000, 2),
        ({"cut": CutBy.characters}, 150_000, 16_384, 2),
        ({"cut": CutBy.characters, "cut_at": 150_000}, 10**6, 50_000, 4),
        ({"parity": True}, 150_000, 16_384, 2),
        ({"parity": True, "cut_at": 150_000}, 150_000, 16_384, 2),
    ],
)
def test_long_transcripts_want_room_unless_they_are_cut(checkpoint, scoring, longest, tokens, ranks):
    config = Config(scoring=ScoringConfig(dtype=Dtype.bfloat16, **scoring))
    llama = checkpoint(70.6, LLAMA_70B | {"max_position_embeddings": 131_072})
    found = place(llama, config, NODE, longest=longest)
    assert f"{tokens:,} tokens at a time" in found.why
    assert (found.engine, found.ranks) == (EngineName.deepspeed_tp, ranks)


def test_only_counts_that_divide_are_taken(checkpoint):
    three = LLAMA_70B | {"num_attention_heads": 48, "num_key_value_heads": 6, "intermediate_size": 24_576}
    found = place(checkpoint(100.0, three), wanted(), NODE)
    assert (found.engine, found.ranks) == (EngineName.deepspeed_tp, 3)
    asked = place(checkpoint(100.0, LLAMA_70B), wanted(ranks=3), NODE)
    assert (asked.engine, asked.ranks) == (EngineName.deepspeed_zero, 3)
    assert "fit no GPU of 85 GB, nor can 3 ranks share them" in asked.why
    unknown = place(checkpoint(100.0, LLAMA_70B | {"model_type": "qwen3_5_text"}), wanted(), NODE)
    assert (unknown.engine, unknown.ranks) == (EngineName.deepspeed_zero, 8)
    assert "nor can 2 to 8 ranks share them" in unknown.why


def test_quantized_weights_and_adapters_stay_with_transformers(checkpoint):
    quantized = place(checkpoint(70.6, quantization="bnb-4bit"), wanted(), NODE)
    assert (quantized.engine, quantized.ranks) == (EngineName.transformers, 1)
    assert "42.4 GB of weights, 16,384 tokens at a time, fit one GPU" in quantized.why
    base = checkpoint(70.6)
    adapter = place(checkpoint(70.7, base=base, adapter=True), wanted(), NODE)
    assert adapter.engine == EngineName.transformers
    assert "may not fit one GPU of 85 GB, but it is an adapter" in adapter.why
    with pytest.raises(CheckpointError, match=r"it is quantized, which scoring\.engine=deepspeed_zero cannot hold"):
        place(checkpoint(70.6, quantization="bnb-4bit"), wanted(EngineName.deepspeed_zero), NODE)


def test_what_is_asked_for_is_taken_or_refused(checkpoint):
    assert place(checkpoint(8.0), wanted(EngineName.transformers), NODE).ranks == 1
    assert place(checkpoint(8.0), wanted(EngineName.deepspeed_tp), NODE).ranks == 2
    assert place(checkpoint(70.6), wanted(EngineName.deepspeed_tp), Gpus(8, 48e9)).ranks == 4
    assert place(checkpoint(8.0), wanted(EngineName.deepspeed_tp), None).ranks == 2
    assert place(checkpoint(8.0), wanted(EngineName.deepspeed_tp, ranks=4), None).ranks == 4
    assert place(checkpoint(8.0), wanted(EngineName.deepspeed_zero), NODE).ranks == 8
    assert place(checkpoint(8.0), wanted(EngineName.deepspeed_zero), None).ranks == 1
    with pytest.raises(
        CheckpointError, match=r"8B: its 64 attention heads do not divide over 3 ranks; .*deepspeed_zero"
    ):
        place(checkpoint(8.0), wanted(EngineName.deepspeed_tp, ranks=3), NODE)
    assert place(simulator_checkpoint(), wanted(EngineName.deepspeed_tp), NODE).ranks == 1


def test_gpus_are_the_configurations_or_this_machines(monkeypatch):
    monkeypatch.setattr(placement, "_gpus_here", lambda: [80e9, 40e9])
    assert gpus_of(ClusterConfig()) == Gpus(2, 40e9)
    assert gpus_of(ClusterConfig(gpus=8, gpu_memory_gb=141)) == Gpus(8, 141e9)
    assert gpus_of(ClusterConfig(gpus=0)) is None
    monkeypatch.setattr(placement, "_gpus_here", list)
    assert gpus_of(ClusterConfig(gpus=8)) is None
    existing = Config(cluster=ClusterConfig(kind=ClusterKind.existing))
    base = CheckpointCard(id="8B", path="/nowhere")
    said = place(Checkpoint(card=base, slug="8B", fingerprint="f", n_parameters=8), existing, None).why
    assert "cluster.gpus and cluster.gpu_memory_gb" in said
