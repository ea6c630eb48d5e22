"""Engines and ranks chosen from sizes alone, for the shapes of checkpoints that people sweep."""

from __future__ import annotations

import pytest

from psych_ray.checkpoints.shape import CheckpointShape
from psych_ray.config import CutBy, Dtype, EngineName, ScoringConfig
from psych_ray.errors import CheckpointError
from psych_ray.sweep.cluster_shape import ClusterShape, NodeShape
from psych_ray.sweep.placement import Placement, Placer

LLAMA_70B = {
    "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64,
    "num_key_value_heads": 8, "vocab_size": 128_256,
}  # fmt: skip


def gpus(per_node: int, memory_bytes: float, *, memory: float = 0.0) -> ClusterShape:
    return ClusterShape((NodeShape(96, per_node, memory_bytes, memory),))


NODE = gpus(8, 85e9)
NO_GPUS = ClusterShape((NodeShape(cpus=16),))


def shape(billions: float, config: dict = LLAMA_70B, **more) -> CheckpointShape:
    return CheckpointShape.of_config(config, n_parameters=int(billions * 1e9), **more)


def choose(
    checkpoint: CheckpointShape,
    cluster: ClusterShape = NODE,
    *,
    engine: EngineName = EngineName.auto,
    dtype: Dtype = Dtype.bfloat16,
    ranks: int | None = None,
    longest: int = 0,
    across_nodes: bool = False,
    **scoring,
) -> Placement:
    configured = ScoringConfig(engine=engine, dtype=dtype, **scoring)
    placer = Placer(cluster, configured, ranks=ranks, across_nodes=across_nodes, longest=longest)
    return placer.choose_placement("it", checkpoint)


ONE_GPU = "16.0 GB of weights, 16,384 tokens per pass, fit one GPU of 85 GB"


@pytest.mark.parametrize(
    ("billions", "dtype", "cluster", "engine", "ranks", "reason"),
    [
        (8.0, Dtype.bfloat16, NODE, "transformers", 1, ONE_GPU),
        (70.6, Dtype.bfloat16, NODE, "deepspeed_tp", 2, "16,384 tokens per pass, fit 2 GPUs of 85 GB together"),
        (70.6, Dtype.float32, NODE, "deepspeed_tp", 4, "282.4 GB"),
        (70.6, Dtype.bfloat16, gpus(4, 24e9), "deepspeed_zero", 4, "no number of GPUs of 24 GB"),
        (70.6, Dtype.bfloat16, gpus(1, 85e9), "deepspeed_zero", 1, "no number of GPUs"),
        (70.6, Dtype.bfloat16, NO_GPUS, "transformers", 1, "no GPUs"),
        (70.6, Dtype.bfloat16, gpus(8, 0), "transformers", 1, "cluster.gpu_memory_gb"),
        (8.0, Dtype.bfloat16, gpus(4, 12e9), "deepspeed_tp", 4, "4 GPUs of 12 GB"),
    ],
)
def test_auto_takes_the_first_that_fits(billions, dtype, cluster, engine, ranks, reason):
    found = choose(shape(billions), cluster, dtype=dtype)
    assert (found.engine, found.ranks) == (EngineName[engine], ranks)
    assert reason in found.reason


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
def test_long_transcripts_need_room_unless_they_are_cut(scoring, longest, tokens, ranks):
    found = choose(shape(70.6, LLAMA_70B | {"max_position_embeddings": 131_072}), longest=longest, **scoring)
    assert f"{tokens:,} tokens per pass" in found.reason
    assert (found.engine, found.ranks) == (EngineName.deepspeed_tp, ranks)


def test_only_counts_that_divide_are_taken():
    three = LLAMA_70B | {"num_attention_heads": 48, "num_key_value_heads": 6, "intermediate_size": 24_576}
    found = choose(shape(100.0, three))
    assert (found.engine, found.ranks) == (EngineName.deepspeed_tp, 3)
    asked = choose(shape(100.0), ranks=3)
    assert (asked.engine, asked.ranks) == (EngineName.deepspeed_zero, 3)
    assert "fit no GPU of 85 GB, and 3 ranks cannot shard them" in asked.reason
    unknown = choose(shape(100.0, LLAMA_70B | {"model_type": "qwen3_5_text"}))
    assert (unknown.engine, unknown.ranks) == (EngineName.deepspeed_zero, 8)
    assert "and 2 to 8 ranks cannot shard them" in unknown.reason


def test_quantized_weights_and_adapters_stay_with_transformers():
    quantized = choose(shape(70.6, quantization="bnb-4bit"))
    assert (quantized.engine, quantized.ranks) == (EngineName.transformers, 1)
    assert "42.4 GB of weights, 16,384 tokens per pass, fit one GPU" in quantized.reason
    adapter = choose(shape(41.0, adapter=True))
    assert adapter.engine == EngineName.transformers
    assert "may not fit one GPU of 85 GB, but it is an adapter" in adapter.reason
    with pytest.raises(CheckpointError, match=r"it is quantized, which scoring\.engine=deepspeed_zero cannot hold"):
        choose(shape(70.6, quantization="bnb-4bit"), engine=EngineName.deepspeed_zero)


def test_a_configured_engine_is_taken_or_refused():
    assert choose(shape(8.0), engine=EngineName.transformers).ranks == 1
    assert choose(shape(8.0), engine=EngineName.deepspeed_tp).ranks == 2
    assert choose(shape(70.6), gpus(8, 48e9), engine=EngineName.deepspeed_tp).ranks == 4
    assert choose(shape(8.0), NO_GPUS, engine=EngineName.deepspeed_tp).ranks == 2
    assert choose(shape(8.0), NO_GPUS, engine=EngineName.deepspeed_tp, ranks=4).ranks == 4
    assert choose(shape(8.0), engine=EngineName.deepspeed_zero).ranks == 8
    assert choose(shape(8.0), NO_GPUS, engine=EngineName.deepspeed_zero).ranks == 1
    with pytest.raises(CheckpointError, match=r"it: its 64 attention heads do not divide over 3 ranks; .*_zero"):
        choose(shape(8.0), engine=EngineName.deepspeed_tp, ranks=3)
    assert choose(CheckpointShape(n_parameters=0), engine=EngineName.deepspeed_tp).ranks == 1


def test_a_number_of_ranks_that_is_not_used_is_said():
    assert choose(shape(8.0), ranks=4).reason.endswith("; cluster.ranks=4 is not used")
    assert choose(shape(8.0), NO_GPUS, ranks=4).reason == "no GPUs; cluster.ranks=4 is not used"


def test_weights_that_no_gpu_can_hold_where_one_must_are_refused():
    with pytest.raises(CheckpointError, match="fit nowhere"):
        choose(shape(140.0, adapter=True), gpus(8, 24e9))


def test_weights_in_host_memory_are_held_by_nodes_with_gpus_or_by_files():
    mixed = ClusterShape((*gpus(1, 24e9, memory=64e9).nodes, NodeShape(cpus=96, memory_bytes=2e12)))
    with pytest.raises(CheckpointError, match="fit nowhere"):
        choose(shape(70.6), mixed, engine=EngineName.deepspeed_zero)
    laptop = ClusterShape((NodeShape(cpus=8, memory_bytes=16e9),))
    assert choose(shape(70.6), laptop, engine=EngineName.deepspeed_zero, nvme="/nvme").ranks == 1
    with pytest.raises(CheckpointError, match="fit nowhere"):
        choose(shape(30.0), gpus(8, 85e9, memory=32e9), device="cpu")


def test_weights_that_no_node_can_hold_are_refused():
    small = gpus(2, 24e9, memory=64e9)
    line = r"its 141\.2 GB of weights fit nowhere on this cluster \(1 node of 2 GPUs of 24 GB and 96 CPU cores, 64 GB"
    with pytest.raises(CheckpointError, match=line):
        choose(shape(70.6), small)
    assert choose(shape(70.6), small, engine=EngineName.deepspeed_zero, nvme="/nvme").ranks == 2
    laptop = ClusterShape((NodeShape(cpus=8, memory_bytes=16e9),))
    with pytest.raises(CheckpointError, match="fit nowhere"):
        choose(shape(8.0), laptop, dtype=Dtype.float32)
    assert choose(shape(0.6), laptop, dtype=Dtype.float32).engine == EngineName.transformers
    two = ClusterShape(gpus(2, 24e9, memory=100e9).nodes * 2)
    assert choose(shape(70.6), two, across_nodes=True).engine == EngineName.deepspeed_zero
