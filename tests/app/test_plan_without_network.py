"""Plans of the study where the hub cannot be reached: listed sizes, published counts, and what is told of both."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from psych_ray.app.assumed_transcripts import _TOKENS_AND_RESPONSES, assumed_transcripts
from psych_ray.cli.compose import load_config
from psych_ray.cli.plan import plan as show_plan
from psych_ray.config import Config, DataSet, EngineName, TranscriptsConfig, TranscriptSource
from psych_ray.errors import TranscriptError, UnreachableError

CLUSTER = [
    *("cluster.nodes=4", "cluster.gpus=8", "cluster.cpus=96", "cluster.gpu_memory_gb=80", "cluster.memory_gb=1000"),
    "cluster.price_per_gpu_hour=2",
]


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path) -> None:
    import huggingface_hub

    def no_route(*_: object, **__: object) -> None:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", no_route)
    monkeypatch.setattr("datasets.load_dataset", no_route)
    monkeypatch.setenv("COLUMNS", "200")


def composed(tmp_path: Path, *overrides: str) -> Config:
    return load_config([*overrides, *CLUSTER, f"results.root={tmp_path}/root"])


def test_the_study_is_planned_by_one_word(tmp_path, capsys):
    config = composed(tmp_path, "experiment=paper", "transcripts.limit=3", "plan.all=true")
    assert show_plan(config) == 0
    out, err = capsys.readouterr()
    for task in ("Qwen--Qwen3.5-27B", "marcelbinz--Llama-3.1-Centaur-70B-adapter", "allenai--Olmo-3-1125-32B"):
        assert out.count(f"│ {task} ") >= 4, "under each of four conditions"
    assert "GPU-hours, " in out
    assert "rates are assumed, not measured" in out
    first, second = err.splitlines()
    assert first.startswith(
        "sizes of 103 checkpoints are assumed (17 of them estimated), as the hub does not give them"
    )
    assert "no route to the hub" in first
    assert second.startswith("transcripts=psych201 are assumed, as the hub cannot be reached: 151 studies of 3 part")
    assert not (tmp_path / "root").exists()


def test_many_checkpoints_are_shown_by_generation_on_one_screen(tmp_path, capsys):
    config = composed(tmp_path, "checkpoints=paper", "transcripts=demo", "scoring.dtype=bfloat16")
    assert show_plan(config) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) < 40
    assert "105 checkpoints, 105 tasks under plain, 0 of them complete; each task has 96 transcripts" in out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert sum(int(row[1]) for row in rows) == 105
    assert sum(int(row[3].replace(",", "")) for row in rows) == 105 * 3_053
    assert [row[:3] for row in rows if row[0] == "qwen3.5"] == [["qwen3.5", "9", "0.8 to 27"]]
    assert len({(row[0], row[4], row[5]) for row in rows}) == len(rows)
    show_plan(replace(config, plan=replace(config.plan, all=True)))
    every = capsys.readouterr().out
    hours = [float(line.split("│")[6].replace(",", "")) for line in every.splitlines() if line.endswith(" assumed │")]
    assert sum(float(row[8].replace(",", "")) for row in rows) == pytest.approx(sum(hours), abs=0.01 * len(hours))


def test_listed_sizes_decide_where_weights_go(tmp_path):
    from psych_ray.app.plan import plan

    config = composed(
        tmp_path,
        "checkpoints=paper",
        "transcripts=demo",
        "scoring.dtype=bfloat16",
        "checkpoints.only=[*70B*,*32B,*-8B]",
    )
    placements = plan(config, say=lambda _: None).prepared.placements
    assert (placements["meta-llama--Llama-3.1-70B"].engine, placements["meta-llama--Llama-3.1-70B"].ranks) == (
        EngineName.deepspeed_tp, 2,
    )  # fmt: skip
    assert placements["Qwen--Qwen3-8B"].ranks == placements["Qwen--Qwen3-32B"].ranks == 1
    quantized = placements["unsloth--Meta-Llama-3.1-70B-bnb-4bit"]
    assert (quantized.engine, quantized.ranks) == (EngineName.transformers, 1)
    assert "42.3 GB of weights" in quantized.reason or "42.4 GB of weights" in quantized.reason


def test_transcripts_on_this_machine_are_read(tmp_path, capsys):
    study = tmp_path / "studies/mine"
    study.mkdir(parents=True)
    record = {"text": "Left or right? <<L>>", "experiment": "e", "participant": "1"}
    (study / "prompts.jsonl").write_text(json.dumps(record) + "\n")
    overrides = ["experiment=persona", "checkpoints.only=[Qwen/Qwen3-0.6B]", f"transcripts.path={tmp_path}/studies"]
    assert show_plan(composed(tmp_path, *overrides)) == 0
    out, err = capsys.readouterr()
    assert "transcripts=" not in err
    assert out.count("│           1 │         1 │") == 4, "one response: two conditions, two references"


def test_transcripts_are_assumed_where_only_they_cannot_be_read(tmp_path, capsys):
    overrides = ["checkpoints=demo", "transcripts=psych201", "transcripts.studies=[haridi*]", "checkpoints.only=[none]"]
    config = composed(tmp_path, *overrides)
    config = replace(config, checkpoints=load_config(["checkpoints=qwen3"]).checkpoints)
    assert show_plan(config) == 0
    assert "3 studies of 100 participants" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "settings", "n_studies", "participants"),
    [
        ("psych201", {}, 151, 100),
        ("psych201", {"dataset": DataSet.full}, 151, 208_021 // 151),
        ("psych201", {"collection": "psych201"}, 105, 100),
        ("psych201", {"collection": "psych101"}, 46, 100),
        ("psych101", {}, 46, 100),
        ("psych201", {"limit": 7, "sample": 20}, 151, 7),
        ("psych201", {"sample_fraction": 0.25}, 151, 25),
        ("psych201", {"studies": ["guenther*", "dezfouli2019"]}, 10, 100),
    ],
)
def test_as_many_transcripts_are_assumed_as_a_data_set_has(source, settings, n_studies, participants):
    said: list[str] = []
    config = TranscriptsConfig(source=TranscriptSource(source), **settings)
    refs = assumed_transcripts(config, say=said.append)
    assert len({ref.id for ref in refs}) == len(refs) == n_studies * participants
    assert len({ref.study for ref in refs}) == n_studies
    assert max(ref.n_characters for ref in refs) > 3 * 41_004
    assert f"{n_studies} studies of {participants:,} participants" in said[0]
    mean = sum(ref.n_responses for ref in refs) / len(refs)
    assert min(r for _, r in _TOKENS_AND_RESPONSES) < mean < max(r for _, r in _TOKENS_AND_RESPONSES)


def test_a_data_set_of_unknown_size_is_not_assumed(tmp_path):
    config = composed(tmp_path, "checkpoints=qwen3", "transcripts=psych101", "transcripts.dataset=full")
    with pytest.raises(UnreachableError, match="Psych-101"):
        show_plan(config)
    with pytest.raises(TranscriptError, match="matches no study"):
        show_plan(composed(tmp_path, "checkpoints=qwen3", "transcripts=psych201", "transcripts.studies=[none]"))
