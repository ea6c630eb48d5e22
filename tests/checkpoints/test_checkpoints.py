"""Checkpoints are found, told apart, and refused with one line where they would score garbage."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from psych_ray.checkpoints import quantization
from psych_ray.checkpoints.cards import write_card
from psych_ray.checkpoints.find import find_checkpoints, load_group, slug_of
from psych_ray.config import CheckpointCard, CheckpointsConfig, CheckpointSource, ScoringConfig, Stage
from psych_ray.errors import CheckpointError, UnsupportedError
from psych_ray.scoring.loading import load_scorer, load_scorers
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.simulated import simulated_transcripts


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def nll(found, **settings: Any) -> np.ndarray:
    transcripts = simulated_transcripts(participants=1, seed=2)
    scored = load_scorer(found, ScoringConfig(**settings)).score(transcripts, condition_named("plain"))
    return np.concatenate([one.nll_R for one in scored])


def find(*paths: Path, **settings):
    config = CheckpointsConfig(source=CheckpointSource.local, paths=[str(path) for path in paths], **settings)
    return find_checkpoints(config)


def test_slugs_mind_neither_paths_nor_partitions():
    assert slug_of("Qwen/Qwen3-8B-Base") == "Qwen--Qwen3-8B-Base"
    assert slug_of("my model=3%") == "my-model-3-"


def test_a_directory_is_known_by_its_name_its_card_or_its_place_in_the_hubs_cache(directory, tmp_path):
    (found,) = find(directory)
    assert (found.card.id, found.slug, found.card.stage) == ("my model", "my-model", None)
    assert found.n_parameters == sum(t.numel() for t in load_file(directory / "model.safetensors").values())
    assert load_group(found) == "my-model"
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


def with_header(directory: Path, header: str) -> None:
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode() + b"0" * 4)


def with_index(directory: Path, index: str) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(index)


def truncate(path: Path, n_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:-n_bytes])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "config.json").unlink(), "no config.json there"),
        (lambda d: (d / "model.safetensors").unlink(), r"no \*\.safetensors there"),
        (lambda d: (d / "model.safetensors").rename(d / "weights.safetensors"), "only weights.safetensors"),
        (lambda d: truncate(d / "model.safetensors", 1000), "has .* bytes, its header gives .*; fetch it again"),
        (lambda d: truncate(d / "model.safetensors", 143_000), "not a safetensors file, or damaged"),
        (lambda d: (d / "tokenizer.json").unlink(), "no tokenizer.json there"),
        (lambda d: (d / "config.json").write_text("[1]"), "not a JSON object"),
        (lambda d: write_card(CheckpointCard(id="x", quantization="q2"), d), "^x: .* quantization: q2, .* bnb-4bit"),
        *(
            (lambda d, name=name, value=value: rewrite(d / "config.json", **{name: value}), f"{name} must be")
            for name, value in (
                ("text_config", [1]),
                ("quantization_config", "x"),
                ("model_type", {}),
                ("hidden_size", "x"),
                ("intermediate_size", -1),
                ("num_attention_heads", 0.5),
                ("max_position_embeddings", True),
                ("intermediate_size", [1, "x"]),
            )
        ),
        *(
            (lambda d, header=header: with_header(d, header), "not a safetensors file, or damaged")
            for header in (
                "null",
                "[]",
                '{"a": null}',
                '{"a": {"dtype": "F32", "shape": [1], "data_offsets": []}}',
                '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, "x"]}}',
                '{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
                '{"a": {"dtype": "F32", "shape": [0.5], "data_offsets": [0, 4]}}',
                '{"a": {"dtype": 7, "shape": [1], "data_offsets": [0, 4]}}',
                "[" * 100_000,
            )
        ),
        *(
            (lambda d, index=index: with_index(d, index), "not an index of shards")
            for index in (
                *(
                    "null",
                    "[]",
                    "7",
                    '{"weight_map": null}',
                    '{"weight_map": {"a": null}}',
                    '{"weight_map": {"a": ""}}',
                ),
                *('{"weight_map": {"a": "../x.safetensors"}}', '{"weight_map": {"a": "a\\u0000"}}', "[" * 100_000),
            )
        ),
        (lambda d: (d / "psych_ray.json").write_text("{"), "psych_ray.json: cannot be read as JSON"),
        *(
            (lambda d, card=card: (d / "psych_ray.json").write_text(card), message)
            for card, message in (
                ('{"id": 7}', "not a checkpoint's card: id must be str"),
                ('{"id": true}', "not a checkpoint's card: id must be str"),
                ('{"id": null}', "not a checkpoint's card: id must be str"),
                ('{"id": ""}', "not a checkpoint's card: a card's id is ''"),
                ('{"id": "  "}', "not a checkpoint's card: a card's id is '  '"),
                ('{"id": "a\\nb"}', "not a checkpoint's card: a card's id is"),
                (json.dumps({"id": "a" * 201}), "has 201 characters: at most 200"),
                ("{}", "not a checkpoint's card"),
                ("[]", "not a JSON object"),
                ('{"id": "x", "size_b": NaN}', "size_b=nan"),
                ('{"id": "x", "size_b": -1}', "size_b=-1"),
                ('{"id": "x", "size_b": 1e999}', "size_b=inf"),
                ('{"id": "x", "family": ["y"]}', "family must be str"),
                ('{"id": "x", "adapter": "yes"}', "adapter must be bool"),
                ('{"id": "x", "base": "x"}', "x has the base x: correct the base"),
            )
        ),
        (lambda d: (d / "psych_ray.json").write_text('{"id": "x", "stagge": 1}'), "not a checkpoint's card"),
        (lambda d: (d / "psych_ray.json").write_text('{"id": "x", "stage": "wild"}'), "not a checkpoint's card"),
    ],
)
def test_what_is_no_checkpoint_is_refused_before_anything_is_loaded(directory, damage, message):
    damage(directory)
    with pytest.raises(CheckpointError, match=message) as caught:
        find(directory)
    assert "\n" not in str(caught.value)


def test_checkpoints_that_are_each_others_base_are_refused(directory, tmp_path):
    others = [Path(shutil.copytree(directory, tmp_path / name)) for name in "ab"]
    for own, base, path in zip(("lab/a", "b", "c"), ("b", "c", "lab/a"), (directory, *others), strict=True):
        write_card(CheckpointCard(id=own, base=base), path)
    with pytest.raises(CheckpointError, match=r"^lab--a has the base b has the base c has the base lab--a: correct"):
        find(directory, *others)
    write_card(CheckpointCard(id="c", base="elsewhere"), others[1])
    assert len(find(directory, *others)) == 3


def test_two_of_one_name_and_globs_that_keep_none_are_refused(directory, tmp_path):
    other = Path(shutil.copytree(directory, tmp_path / "elsewhere/my model"))
    with pytest.raises(CheckpointError, match="two checkpoints have the name my-model"):
        find(directory, other)
    with pytest.raises(CheckpointError, match="matches no checkpoint"):
        find(directory, only=["Qwen*"])
    assert len(find(directory, only=["my*"])) == 1


def lose_a_weight(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def add_a_bias(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.bias"] = torch.ones(32)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


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
        (add_a_bias, r"no parameter for some of its weights \(model\.layers\.0\.self_attn\.q_proj\.bias\)"),
        (lambda d: rewrite(d / "config.json", rms_norm_eps="small"), "cannot be loaded"),
        (lambda d: rewrite(d / "config.json", hidden_size=64), "cannot be loaded|do not hold all"),
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


def test_safetensors_are_taken_where_pickles_are_allowed_too(directory, model_of):
    torch.save({"model.norm.weight": torch.full((32,), 7.0)}, directory / "pytorch_model.bin")
    (found,) = find(directory, allow_pickle=True)
    scorer = load_scorers([found], allow_pickle=True)["my-model"]
    assert (model_of(scorer).get_parameter("model.norm.weight") == 1).all()


def test_shards_are_one_checkpoint_and_a_missing_one_is_reported_before_loading(directory, shard):
    (whole,) = find(directory)
    expected = nll(whole)
    shards = shard(directory)
    assert len(shards) > 2
    (found,) = find(directory)
    assert found.n_parameters == whole.n_parameters
    np.testing.assert_array_equal(nll(found), expected)
    shards[1].unlink()
    with pytest.raises(CheckpointError, match=rf"1 of {len(shards)} shards are missing \({shards[1].name}\)"):
        find(directory)
    with pytest.raises(CheckpointError, match="shards are missing"):
        load_scorer(found)
    (directory / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not an index of shards"):
        find(directory)


def test_parameters_are_counted_however_they_are_stored(directory):
    expected = find(directory)[0].n_parameters
    AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).save_pretrained(directory)
    assert find(directory)[0].n_parameters == expected
    weights = load_file(directory / "model.safetensors")
    packed = {}
    for name, weight in weights.items():  # as bitsandbytes saves 4 bits: two values a byte, and what scales them
        if "proj" in name:
            packed[name] = torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8)
            packed[f"{name}.absmax"] = torch.zeros(weight.numel() // 64)
            packed[f"{name}.quant_state.bitsandbytes__nf4"] = torch.zeros(80, dtype=torch.uint8)
        else:
            packed[name] = weight
    save_file(packed, directory / "model.safetensors", metadata={"format": "pt"})
    rewrite(directory / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert find(directory)[0].n_parameters == expected


@pytest.mark.parametrize(
    ("settings", "library"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        (None, "bitsandbytes"),
    ],
)
def test_quantized_checkpoints_say_which_library_they_lack(directory, monkeypatch, settings, library):
    before = find(directory)[0].fingerprint
    if settings is None:
        write_card(CheckpointCard(id="my model", quantization="bnb-4bit"), directory)
    else:
        rewrite(directory / "config.json", quantization_config=settings)
    (found,) = find(directory)
    assert found.fingerprint != before
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(
        CheckpointError, match=rf"^my model: .* {library} is not installed here; pip install {library},"
    ):
        load_scorer(found)


@pytest.fixture
def wide(byte_tokenizer_directory, tmp_path) -> Path:
    """A model with rows of 64 numbers and more: bitsandbytes scales that many at a time."""
    config = transformers.LlamaConfig(
        vocab_size=264, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path / "wide")
    AutoTokenizer.from_pretrained(byte_tokenizer_directory).save_pretrained(tmp_path / "wide")
    return tmp_path / "wide"


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_quantized_files_score_as_what_is_quantized_on_the_way(wide, tmp_path, dtype, model_of):
    (plain,) = find(wide)
    exact = nll(plain, dtype=dtype)
    options = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    model = AutoModelForCausalLM.from_pretrained(
        wide, dtype=getattr(torch, dtype), quantization_config=options, device_map={"": "cpu"}
    )
    model.save_pretrained(tmp_path / "stored")
    AutoTokenizer.from_pretrained(wide).save_pretrained(tmp_path / "stored")
    write_card(CheckpointCard(id="on the way", quantization="bnb-4bit"), wide)
    stored, on_the_way = find(tmp_path / "stored", wide)
    assert stored.n_parameters == plain.n_parameters
    kept = model_of(load_scorer(stored, ScoringConfig(dtype=dtype)))
    assert {p.dtype for p in kept.parameters()} == {torch.uint8, getattr(torch, dtype)}
    np.testing.assert_allclose(nll(stored, dtype=dtype), nll(on_the_way, dtype=dtype), atol=1e-4)
    assert np.abs(nll(stored, dtype=dtype) - exact).max() > 0.01


@pytest.mark.parametrize(
    ("file", "changes", "reason"),
    [
        ("tokenizer.json", {"version": None}, "invalid type: null"),
        ("tokenizer_config.json", {"model_max_length": ""}, "'>' not supported between"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_refused(directory, file, changes, reason):
    rewrite(directory / file, **changes)
    with pytest.raises(CheckpointError, match=rf"^my model: cannot be loaded from .*: {reason}") as caught:
        load_scorer(directory)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_offsets_is_refused(directory):
    (found,) = find(directory)
    for file in directory.glob("token*"):
        file.unlink()
    transformers.ByT5Tokenizer(extra_ids=0).save_pretrained(directory)
    assert not (directory / "tokenizer.json").exists()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json there; .* a slow tokenizer has none"):
        find(directory)
    with pytest.raises(CheckpointError, match=r"^my model: .* offsets"):  # on a replica, fetched from the hub
        load_scorer(found)


def test_finding_checkpoints_needs_no_torch(directory):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from psych_ray.config import CheckpointsConfig\n"
        "from psych_ray.checkpoints.find import find_checkpoints\n"
        f"print(find_checkpoints(CheckpointsConfig(source='local', paths=[{str(directory)!r}]))[0].slug)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "my-model"
