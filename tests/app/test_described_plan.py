"""Plans for clusters that are not there, from a machine without GPUs: what runs on what, and what fits nowhere."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from support_table import commit

from psych_ray.app.cluster import cluster_to_plan_for, cluster_to_run_on
from psych_ray.app.plan import SweepPlan, plan
from psych_ray.app.prepare import Prepared, checkpoint_facts, find, prepare, scoring_identity
from psych_ray.cli.plan import plan as show_plan
from psych_ray.config import (
    CheckpointsConfig,
    CheckpointSource,
    ClusterConfig,
    Config,
    Dtype,
    EngineName,
    PlanConfig,
    ResultsConfig,
    ScoringConfig,
    TranscriptsConfig,
)
from psych_ray.errors import CheckpointError, ConfigError, ResultsError
from psych_ray.results.catalogue import catalogue
from psych_ray.results.schema import Footer
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import open_store
from psych_ray.scoring.scored import SimulatorScorer
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.sources import read_transcripts

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


def config_of(*directories: Path, root: Path, cluster: ClusterConfig, participants: int = 5, **scoring) -> Config:
    return Config(
        checkpoints=CheckpointsConfig(source=CheckpointSource.local, paths=[str(one) for one in directories]),
        transcripts=TranscriptsConfig(participants=participants),
        conditions=["plain", "chat"] if len(directories) > 1 else ["plain"],
        scoring=ScoringConfig(dtype=Dtype.bfloat16, **scoring),
        cluster=cluster,
        results=ResultsConfig(root=str(root)),
    )


def planned(directory: Path, root: Path, cluster: ClusterConfig, *, refuse: bool = True, **scoring) -> Prepared:
    participants = 1000 if refuse else 5
    config = config_of(directory, root=root, cluster=cluster, participants=participants, **scoring)
    with cluster_to_plan_for(config.cluster) as shape:
        store = open_store(config.results.root)
        return prepare(config, find(config, say=print), Snapshot.read(store), store, shape, write=False, refuse=refuse)


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


def says(line: str) -> None:
    raise AssertionError(f"unexpected: {line}")


def test_a_plan_is_simulated_and_priced(checkpoints, tmp_path):
    cluster = four_nodes()
    cluster.price_per_gpu_hour = 3.0
    found = plan(config_of(*checkpoints.values(), root=tmp_path / "root", cluster=cluster), say=says)
    assert [(one.weights, one.ranks) for one in found.weights] == [("8B", 1), ("70B", 2)]
    assert sum(one.units for one in found.weights) == sum(len(task.missing) for task in found.prepared.tasks)
    assert found.timeline.makespan >= found.timeline.bound > 0
    assert found.timeline.committed == 4 * 20
    assert found.gpu_hours_paid == pytest.approx(32 * found.timeline.makespan / 3600)
    assert 0 < found.gpu_hours_busy < found.gpu_hours_paid
    assert found.price == pytest.approx(3 * found.gpu_hours_paid)
    loading = {one.weights: one.load_seconds for one in found.weights}
    assert loading["70B"] > loading["8B"] > 0
    assert f"{found.price:,.2f} at the given price" in found.lines[1]
    assert found.lines[-1] == "rates are assumed, not measured; times to load are assumed"
    assert not (tmp_path / "root").exists()


def test_what_does_not_fit_is_listed_and_the_others_are_planned(checkpoints, tmp_path, capsys):
    config = config_of(*checkpoints.values(), root=tmp_path, cluster=four_nodes(gpu_memory_gb=16, memory_gb=128))
    found = plan(config, say=says)
    assert list(found.prepared.unfit) == ["70B"]
    assert [one.weights for one in found.weights] == ["8B"]
    assert found.timeline.committed == 2 * 20
    assert found.lines[-1].startswith(
        "does not fit: 70B: its 141.1 GB of weights fit nowhere on this cluster (4 nodes "
    )
    assert found.lines[-1].endswith("only; 8 GPUs of 22 GB, or 149 GB of host memory would do")
    for gpu_memory_gb, memory_gb, unfit in [(22, 128, 0), (21, 128, 1), (16, 149, 0), (16, 148, 1)]:
        cluster = four_nodes(gpu_memory_gb=gpu_memory_gb, memory_gb=memory_gb)
        assert len(planned(checkpoints["70B"], tmp_path, cluster, refuse=False).unfit) == unfit
    assert show_plan(config) == 3
    assert capsys.readouterr().out.count("does not") == 3, "a line, and a cell for each of its two tasks"


def test_what_does_not_fit_for_one_reason_is_one_line_with_sizes_and_names_below(checkpoints, tmp_path):
    cluster = ClusterConfig(nodes=1, cpus=8, memory_gb=10)
    config = config_of(*checkpoints.values(), root=tmp_path / "root", cluster=cluster)
    found = plan(config, say=says)
    assert found.lines == (
        "nothing that is missing fits",
        "does not fit: 2 checkpoints: the weights fit nowhere on this cluster (1 node of 8 CPU cores, 10 GB of host "
        "memory); more or larger GPUs, scoring.nvme=DIR with scoring.engine=deepspeed_zero, or exclude it with "
        "checkpoints.only",
        "  16.1 GB of weights, 17 GB of host memory would do: 8B",
        "  141.1 GB of weights, 149 GB of host memory would do: 70B",
    )
    cluster.memory_gb = 149
    assert not plan(config, say=says).prepared.unfit
    cluster.memory_gb = 148
    assert list(plan(config, say=says).prepared.unfit) == ["70B"]


def test_gangs_that_no_node_holds_are_listed_too(checkpoints, tmp_path):
    cluster = ClusterConfig(nodes=1, gpus=8, cpus=96, gpu_memory_gb=80, ranks=16)
    config = config_of(checkpoints["8B"], root=tmp_path, cluster=cluster, engine=EngineName.deepspeed_zero)
    found = plan(config, say=says)
    assert found.timeline is None
    assert found.lines == (
        "nothing that is missing fits",
        "does not fit: 8B: a checkpoint needs 16 ranks of a GPU and 4 CPU cores each together, no node holds more than "
        "8 (1 node of 8 GPUs of 80 GB and 96 CPU cores); see cluster.ranks, or cluster.across_nodes=true",
    )


def sweep_some(config: Config, *, tokens: int, seconds: float, device: str | None) -> None:
    """Commit half of the transcripts of 8B under `plain`, as if a sweep had measured this in all."""
    store = open_store(config.results.root)
    (checkpoint, *_) = find(config, say=says)
    transcripts = list(read_transcripts(config.transcripts, on_skipped=says))
    catalogue(store, transcripts)
    half = transcripts[: len(transcripts) // 2]
    footer = Footer(
        unit="u",
        condition="plain",
        checkpoint=checkpoint_facts(checkpoint),
        scoring=scoring_identity(config),
        engine="transformers",
        tokens=tokens,
        seconds=seconds,
        device=device,
    )
    commit(store, (list(SimulatorScorer().score(half, condition_named("plain"))), footer))


def minutes(found: SweepPlan) -> dict[tuple[str, str], float]:
    return {(task.checkpoint, task.condition): task.seconds_missing / 60 for task in found.prepared.tasks}


def test_measured_rates_replace_assumed_ones_in_later_plans(checkpoints, tmp_path):
    config = config_of(*checkpoints.values(), root=tmp_path, cluster=four_nodes())
    assumed = minutes(plan(config, say=says))
    n_characters = sum(len(one.text) for one in list(read_transcripts(config.transcripts, on_skipped=says))[:10])
    sweep_some(config, tokens=n_characters // 2, seconds=n_characters / 2 / 1_000, device="GPU")
    found = plan(config, say=says)
    task = next(task for task in found.prepared.tasks if (task.checkpoint, task.condition) == ("8B", "plain"))
    assert task.seconds_missing == pytest.approx(task.n_characters_missing / 2 / 1_000, rel=1e-3)
    slowdown = found.prepared.devices["8B"].tokens_per_s(found.prepared.checkpoints["8B"].n_parameters) / 1_000
    assert minutes(found)["70B", "plain"] == pytest.approx(slowdown * assumed["70B", "plain"], rel=1e-3)
    assert all(rate.is_measured for rate in found.prepared.rates.values())
    assert found.lines[-1] == "rates are measured; times to load are assumed"


@pytest.mark.parametrize(("tokens", "seconds"), [(10_000, 0.0), (0, 10.0)])
def test_footers_that_measured_nothing_change_nothing(checkpoints, tmp_path, tokens, seconds):
    config = config_of(*checkpoints.values(), root=tmp_path / "a", cluster=four_nodes())
    assumed = minutes(plan(config, say=says))
    sweep_some(config, tokens=tokens, seconds=seconds, device="GPU")
    found = plan(config, say=says)
    assert not any(rate.is_measured for rate in found.prepared.rates.values())
    assert minutes(found)["70B", "plain"] == pytest.approx(assumed["70B", "plain"])
    assert minutes(found)["8B", "chat"] == pytest.approx(assumed["8B", "chat"], rel=0.5)


@pytest.mark.parametrize("kind", ["html", "png"])
def test_the_picture_is_written_where_it_is_asked_for(checkpoints, tmp_path, capsys, kind):
    config = config_of(checkpoints["8B"], root=tmp_path / "root", cluster=four_nodes())
    config.plan.picture = str(tmp_path / "new" / f"plan.{kind}")
    assert show_plan(config) == 0
    assert f"picture: {config.plan.picture}" in capsys.readouterr().out
    content = Path(config.plan.picture).read_bytes()
    assert content.startswith(b"<!DOCTYPE html>" if kind == "html" else b"\x89PNG")
    assert [path.name for path in (tmp_path / "new").iterdir()] == [f"plan.{kind}"]
    (tmp_path / "file").write_text("")
    config.plan.picture = str(tmp_path / "file" / f"plan.{kind}")
    with pytest.raises(ResultsError, match=r"plan\.picture=.*cannot be written"):
        show_plan(config)


def test_settings_of_a_plan_that_make_no_sense_are_refused():
    for wrong, line in [
        ({"picture": "plan.gif"}, r"plan\.picture=plan\.gif: must end with"),
        ({"preempted_every_hours": 0.0}, "preempted_every_hours"),
        ({"preempted_every_hours": float("nan")}, "preempted_every_hours"),
    ]:
        with pytest.raises(ValueError, match=line):
            PlanConfig(**wrong)
    with pytest.raises(ValueError, match="price_per_gpu_hour"):
        ClusterConfig(price_per_gpu_hour=0.0)
