"""Plans for clusters that are not there, from a machine without GPUs: what runs on what, and what fits nowhere."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from psych_ray.app.cluster import cluster_to_plan_for, cluster_to_run_on
from psych_ray.app.prepare import Prepared, find, prepare
from psych_ray.config import (
    CheckpointsConfig,
    CheckpointSource,
    ClusterConfig,
    Config,
    Dtype,
    EngineName,
    ResultsConfig,
    ScoringConfig,
    TranscriptsConfig,
)
from psych_ray.errors import CheckpointError, ConfigError
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import open_store

LLAMA = {"model_type": "llama", "vocab_size": 128_256, "max_position_embeddings": 131_072}
SHAPES = {
    "8B": (32, {"hidden_size": 4096, "intermediate_size": 14_336, "num_attention_heads": 32, "num_key_value_heads": 8}),
    "70B": (
        80,
        {"hidden_size": 8192, "intermediate_size": 28_672, "num_attention_heads": 64, "num_key_value_heads": 8},
    ),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """Directories with the headers of Llama's weights over a sparse file: the sizes are real, the weights are not."""
    made = {}
    for name, (n_layers, shape) in SHAPES.items():
        directory = tmp_path_factory.mktemp("checkpoints") / name
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(LLAMA | shape | {"num_hidden_layers": n_layers}))
        (directory / "tokenizer.json").write_text("{}")
        width, inner = shape["hidden_size"], shape["intermediate_size"]
        key_width = width * shape["num_key_value_heads"] // shape["num_attention_heads"]
        sizes = {"embed": 128_256 * width, "head": 128_256 * width}
        sizes |= {str(k): 2 * width * width + 2 * width * key_width + 3 * width * inner for k in range(n_layers)}
        header, at = {}, 0
        for key, n in sizes.items():
            header[key] = {"dtype": "BF16", "shape": [n], "data_offsets": [at, at + 2 * n]}
            at += 2 * n
        content = json.dumps(header).encode()
        with (directory / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(content)) + content)
            file.truncate(8 + len(content) + at)
        made[name] = directory
    return made


def planned(directory: Path, root: Path, cluster: ClusterConfig, **scoring) -> Prepared:
    config = Config(
        checkpoints=CheckpointsConfig(source=CheckpointSource.local, paths=[str(directory)]),
        transcripts=TranscriptsConfig(participants=1000),
        scoring=ScoringConfig(dtype=Dtype.bfloat16, **scoring),
        cluster=cluster,
        results=ResultsConfig(root=str(root)),
    )
    with cluster_to_plan_for(config.cluster) as shape:
        store = open_store(config.results.root)
        return prepare(config, find(config, say=print), Snapshot.read(store), store, shape, write=False)


def four_nodes(gpu_memory_gb: float = 80, memory_gb: float = 1000) -> ClusterConfig:
    return ClusterConfig(nodes=4, gpus=8, cpus=96, gpu_memory_gb=gpu_memory_gb, memory_gb=memory_gb)


def test_a_70b_takes_two_of_32_gpus_in_units_of_about_a_minute(checkpoints, tmp_path):
    prepared = planned(checkpoints["70B"], tmp_path / "root", four_nodes(), unit_seconds=10)
    (placement,) = prepared.placements.values()
    assert (placement.engine, placement.ranks) == (EngineName.deepspeed_tp, 2)
    assert "fit 2 GPUs of 80 GB together" in placement.reason
    assert str(prepared.cluster) == "4 nodes of 8 GPUs of 80 GB and 96 CPU cores"
    (task,) = prepared.tasks
    assert len(task.missing) > 10
    seconds = [unit.seconds for unit in task.missing]
    assert max(seconds) <= 10
    assert min(seconds[:-1]) > 9
    assert not (tmp_path / "root").exists(), "a plan writes nothing"


def test_a_unit_of_an_8b_is_as_large_as_the_gpus_that_score_it_not_as_the_machine_that_plans(checkpoints, tmp_path):
    on_gpus = planned(checkpoints["8B"], tmp_path, four_nodes())
    on_cores = planned(checkpoints["8B"], tmp_path, ClusterConfig(nodes=1, cpus=2, memory_gb=100))
    assert on_gpus.devices["8B"].name == "GPU"
    assert on_cores.devices["8B"].name == "2 CPU cores"
    (of_gpus,), (of_cores,) = on_gpus.tasks, on_cores.tasks
    assert sum(map(len, [unit.transcripts for unit in of_gpus.missing])) == len(of_gpus.transcripts) == 4000
    ratio = on_gpus.devices["8B"].operations_per_s / on_cores.devices["8B"].operations_per_s
    assert of_cores.seconds_missing == pytest.approx(ratio * of_gpus.seconds_missing)


def test_what_fits_nowhere_is_refused_in_one_line(checkpoints, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"70B: its 141.1 GB of weights fit nowhere on this cluster \(4 nodes of 8"
    ):
        planned(checkpoints["70B"], tmp_path, four_nodes(gpu_memory_gb=16, memory_gb=128))
    cluster = ClusterConfig(nodes=1, gpus=8, cpus=96, gpu_memory_gb=80, ranks=16)
    with pytest.raises(ConfigError, match="16 ranks of a GPU and 4 CPU cores each together, no node holds more than 8"):
        planned(checkpoints["8B"], tmp_path, cluster, engine=EngineName.deepspeed_zero)


def test_a_described_cluster_is_for_plans_only():
    with (
        pytest.raises(ConfigError, match=r"cluster.nodes=4 describes a cluster for psych-ray plan"),
        cluster_to_run_on(four_nodes()),
    ):
        pass
