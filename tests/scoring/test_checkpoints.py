"""Checkpoints are found, told apart, and refused with one line where they would score garbage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from psych_ray.config import CheckpointCard, CheckpointsConfig, CheckpointSource, ScoringConfig, Stage
from psych_ray.errors import CheckpointError, UnsupportedError
from psych_ray.scoring.checkpoints import find_checkpoints, slug_of, write_card
from psych_ray.scoring.loading import load_scorer


@pytest.fixture(scope="module")
def original(tmp_path_factory, byte_tokenizer_directory, tiny_checkpoint) -> Path:
    return tiny_checkpoint("Llama", byte_tokenizer_directory)


@pytest.fixture
def directory(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "my model"))


def find(*paths: Path, **settings):
    config = CheckpointsConfig(source=CheckpointSource.local, paths=[str(path) for path in paths], **settings)
    return find_checkpoints(config)


def test_slugs_mind_neither_paths_nor_partitions():
    assert slug_of("Qwen/Qwen3-8B-Base") == "Qwen--Qwen3-8B-Base"
    assert slug_of("my model=3%") == "my-model-3-"


def test_a_directory_is_known_by_its_name_its_card_or_its_place_in_the_hubs_cache(directory, tmp_path):
    (found,) = find(directory)
    assert (found.card.id, found.slug, found.card.stage) == ("my model", "my-model", None)
    assert found.n_parameters == pytest.approx(
        sum(t.numel() for t in load_file(directory / "model.safetensors").values()), rel=0.05
    )
    snapshot = tmp_path / "models--Qwen--Qwen3-0.6B/snapshots/abc123"
    shutil.copytree(directory, snapshot)
    (found,) = find(snapshot)
    assert (found.card.id, found.card.revision) == ("Qwen/Qwen3-0.6B", "abc123")
    write_card(CheckpointCard(id="lab/b", stage=Stage.instruct, base="lab/a", size_b=0.5), directory)
    (found,) = find(directory)
    assert (found.card.id, found.card.stage, found.base_slug) == ("lab/b", Stage.instruct, "lab--a")
    assert found.card.path == str(directory.resolve())


def test_the_fingerprint_follows_weights_configuration_and_tokenizer(directory, tmp_path):
    before = find(directory)[0].fingerprint
    assert find(Path(shutil.copytree(directory, tmp_path / "copy")))[0].fingerprint == before
    weights = load_file(directory / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    after = find(directory)[0].fingerprint
    assert after != before
    (directory / "tokenizer_config.json").write_text("{}")
    assert find(directory)[0].fingerprint not in {before, after}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "config.json").unlink(), "no config.json there"),
        (lambda d: (d / "model.safetensors").unlink(), r"no \*\.safetensors there"),
        (lambda d: (d / "tokenizer.json").unlink(), "no tokenizer.json there"),
        (lambda d: (d / "psych_ray.json").write_text("{"), "not a checkpoint's card"),
        (lambda d: (d / "psych_ray.json").write_text('{"id": "x", "stagge": 1}'), "not a checkpoint's card"),
        (lambda d: (d / "psych_ray.json").write_text('{"id": "x", "stage": "wild"}'), "not a checkpoint's card"),
    ],
)
def test_what_is_no_checkpoint_is_refused_before_anything_is_loaded(directory, damage, message):
    damage(directory)
    with pytest.raises(CheckpointError, match=message):
        find(directory)


def test_two_of_one_name_and_globs_that_keep_none_are_refused(directory, tmp_path):
    other = Path(shutil.copytree(directory, tmp_path / "elsewhere/my model"))
    with pytest.raises(CheckpointError, match="two checkpoints are called my-model"):
        find(directory, other)
    with pytest.raises(CheckpointError, match="matches no checkpoint"):
        find(directory, only=["Qwen*"])
    assert len(find(directory, only=["my*"])) == 1


def test_adapters_and_quantized_checkpoints_are_told_apart_and_not_attempted(directory):
    for extra in ({"adapter": True}, {"quantization": "bnb-4bit"}):
        write_card(CheckpointCard(id="x", **extra), directory)
        with pytest.raises(UnsupportedError, match="leave it out"):
            find(directory)


def lose_a_weight(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def truncate(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def forget_the_vocabulary(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))
    weights = load_file(directory / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:100].clone()
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_a_weight, r"do not hold all weights.*model\.layers\.1\.mlp\.up_proj\.weight"),
        (truncate, "cannot be loaded"),
        (forget_the_vocabulary, "not a pair"),
    ],
)
def test_weights_that_would_score_garbage_are_refused(directory, damage, message):
    damage(directory)
    (found,) = find(directory)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_scorer(found, ScoringConfig())
    assert "\n" not in str(caught.value)


def test_pickled_weights_need_to_be_asked_for(directory):
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoints\.allow_pickle=true"):
        find(directory)
    (found,) = find(directory, allow_pickle=True)
    load_scorer(found, ScoringConfig(), allow_pickle=True)


@pytest.mark.parametrize("engine", ["deepspeed_tp", "deepspeed_zero"])
def test_engines_of_a_later_version_are_named(directory, engine):
    (found,) = find(directory)
    with pytest.raises(UnsupportedError, match=engine):
        load_scorer(found, ScoringConfig(engine=engine))


def test_a_hub_checkpoint_is_found_in_the_cache_when_there_is_no_network(directory, tmp_path, monkeypatch):
    import huggingface_hub

    sha = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub/models--lab--tiny"
    shutil.copytree(directory, repository / "snapshots" / sha)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(sha)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *a, **k: real(*a, **{"cache_dir": str(tmp_path / "hub"), **k})
    )
    cards = [CheckpointCard(id="lab/tiny", stage=Stage.base, size_b=0.1)]
    (found,) = find_checkpoints(CheckpointsConfig(source=CheckpointSource.hub, cards=cards))
    assert (found.slug, found.fingerprint, found.card.revision) == ("lab--tiny", sha, sha)
    load_scorer(found, ScoringConfig())
    with pytest.raises(CheckpointError, match=r"^lab/other: the hub cannot be reached .* its cache"):
        find_checkpoints(CheckpointsConfig(source=CheckpointSource.hub, cards=[CheckpointCard(id="lab/other")]))
