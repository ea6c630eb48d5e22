"""Adapters are scored as their merged weights would be, on a base that is loaded once and stays exactly what it was."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from psych_ray.checkpoints.cards import write_card
from psych_ray.checkpoints.find import Checkpoint, find_checkpoints, load_group
from psych_ray.config import CheckpointCard, CheckpointsConfig, CheckpointSource, ScoringConfig, Stage
from psych_ray.errors import CheckpointError
from psych_ray.scoring.engines import lora
from psych_ray.scoring.engines.base import WholeModelEngine
from psych_ray.scoring.loading import load_scorer, load_scorers
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.simulated import simulated_transcripts

# what peft and transformers say to each other
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

ATTENTION = ["q_proj", "v_proj"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small are slower with more threads, and much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def transcripts():
    return list(simulated_transcripts(participants=1, seed=5))


@pytest.fixture(scope="module")
def base(tiny_checkpoint, byte_tokenizer_directory, tmp_path_factory) -> Path:
    made = tiny_checkpoint("Llama", byte_tokenizer_directory)
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("bases") / "base"))


@pytest.fixture(scope="module")
def make(base, tmp_path_factory) -> Callable[..., Path]:
    """Train an adapter, as far as random numbers are training, and save it as peft does."""

    def save(name: str, *, seed: int = 0, **settings: Any) -> Path:
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        config = peft.LoraConfig(
            **{"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, "task_type": "CAUSAL_LM"} | settings
        )
        adapted = peft.get_peft_model(model, config)
        for parameter_name, parameter in adapted.named_parameters():
            if "lora_" in parameter_name or "modules_to_save" in parameter_name:
                torch.nn.init.normal_(parameter, std=0.2)
        directory = tmp_path_factory.mktemp("adapters") / name
        adapted.save_pretrained(directory)
        return directory

    return save


@pytest.fixture(scope="module")
def first(make) -> Path:
    return make("first", seed=1)


@pytest.fixture(scope="module")
def second(make) -> Path:
    return make("second", seed=2, target_modules=[*ATTENTION, "up_proj"], use_rslora=True, lora_dropout=0.1)


@pytest.fixture
def broken(first, tmp_path) -> Path:
    """A copy of an adapter, to be damaged."""
    return Path(shutil.copytree(first, tmp_path / "broken"))


def find(*paths: Path, **settings: Any) -> list[Checkpoint]:
    config = CheckpointsConfig(source=CheckpointSource.local, paths=[str(path) for path in paths], **settings)
    return find_checkpoints(config)


def nll(scorer, transcripts) -> np.ndarray:
    scorer.clear_cache()
    return np.concatenate([one.nll_R for one in scorer.score(transcripts, condition_named("plain"))])


def merged(base: Path, adapter: Path, directory: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    peft.PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(directory)
    AutoTokenizer.from_pretrained(base).save_pretrained(directory)
    return directory


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_base_and_its_adapters_are_one_group_and_know_each_other(base, first, second):
    whole, one, two = find(base, first, second)
    assert (one.card.adapter, one.base_of_adapter, one.base_slug) == (True, whole, "base")
    assert {load_group(c) for c in (whole, one, two)} == {"base"}
    assert len({c.fingerprint for c in (whole, one, two)}) == 3
    assert one.n_parameters == whole.n_parameters + sum(
        t.numel() for t in load_file(first / "adapter_model.safetensors").values()
    )
    assert pickle.loads(pickle.dumps(one)) == one  # it travels to replicas


def test_the_fingerprint_follows_adapter_and_base(base, first, tmp_path):
    (before,) = find(base, first, only=["first"])
    assert before.base_of_adapter.card.id == "base"
    moved = Path(shutil.copytree(base, tmp_path / "base"))
    assert find(moved, first, only=["first"])[0].fingerprint == before.fingerprint
    rewrite(moved / "config.json", rms_norm_eps=0.1)
    rewrite(first / "adapter_config.json", base_model_name_or_path="base")
    assert find(moved, first, only=["first"])[0].fingerprint != before.fingerprint
    rewrite(first / "adapter_config.json", base_model_name_or_path=str(base))
    copy = Path(shutil.copytree(first, tmp_path / "first"))
    rewrite(copy / "adapter_config.json", lora_alpha=9)
    assert find(base, copy, only=["first"])[0].fingerprint != before.fingerprint


@pytest.mark.parametrize("names_base", ["card", "path", "relative path", "id"])
def test_a_base_is_found_by_the_card_a_path_or_an_id(base, first, tmp_path, names_base):
    adapter = Path(shutil.copytree(first, tmp_path / "adapter"))
    shutil.copytree(base, tmp_path / "beside")
    others = [base]
    if names_base == "card":
        rewrite(adapter / "adapter_config.json", base_model_name_or_path="/nowhere/any more")
        write_card(CheckpointCard(id="lab/adapted", base="base", stage=Stage.behavioural), adapter)
    elif names_base == "path":
        others = []
    elif names_base == "relative path":
        rewrite(adapter / "adapter_config.json", base_model_name_or_path="../beside")
        others = []
    else:
        rewrite(adapter / "adapter_config.json", base_model_name_or_path="base")
    found = find(*others, adapter)[-1]
    assert found.base_of_adapter.slug == ("beside" if names_base == "relative path" else "base")
    assert found.card.adapter
    load_scorer(found)


def test_adapters_equal_their_merged_weights_and_leave_the_base_as_it_was(base, first, second, transcripts, tmp_path):
    checkpoints = find(second, base, first)
    alone = nll(load_scorer(checkpoints[1]), transcripts)
    scorers = load_scorers(checkpoints)
    assert list(scorers) == ["second", "base", "first"]
    assert scorers["first"].engine.model is scorers["base"].engine.model
    for _ in range(2):
        np.testing.assert_array_equal(nll(scorers["base"], transcripts), alone)
        for name, adapter in (("first", first), ("second", second)):
            (whole,) = find(merged(base, adapter, tmp_path / f"merged-{name}"))
            scored = nll(scorers[name], transcripts)
            assert np.abs(scored - nll(load_scorer(whole), transcripts)).max() < 1e-4
            assert np.abs(scored - alone).max() > 0.1
    np.testing.assert_array_equal(nll(load_scorer(checkpoints[2]), transcripts), nll(scorers["first"], transcripts))


def test_transcripts_of_base_and_adapter_may_alternate(base, first, transcripts):
    scorers = load_scorers(find(base, first))
    expected = {name: nll(scorer, transcripts) for name, scorer in scorers.items()}
    for scorer in scorers.values():
        scorer.clear_cache()
    streams = {name: scorer.score(transcripts, condition_named("plain")) for name, scorer in scorers.items()}
    found = {name: [] for name in streams}
    for _ in transcripts:
        for name, stream in streams.items():
            found[name].append(next(stream).nll_R)
    for name in streams:
        np.testing.assert_array_equal(np.concatenate(found[name]), expected[name])


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": [*ATTENTION, "lm_head"]},
        {"modules_to_save": ["lm_head", "embed_tokens"]},
        {"target_modules": [*ATTENTION, "embed_tokens"]},
        {"use_dora": True},
    ],
    ids=["LoRA on the head", "own head and embeddings", "LoRA on the embeddings", "DoRA"],
)
@pytest.mark.filterwarnings("ignore:.*embedding.*:UserWarning:peft.*")
def test_adapters_of_head_and_embeddings_are_scored_through_them(base, make, transcripts, tmp_path, settings):
    adapter = make("adapter", seed=3, **settings)
    checkpoints = find(base, adapter)
    alone = nll(load_scorer(checkpoints[0]), transcripts)
    scorers = load_scorers(checkpoints)
    (whole,) = find(merged(base, adapter, tmp_path / "merged"))
    scored = nll(scorers["adapter"], transcripts)
    assert np.abs(scored - nll(load_scorer(whole), transcripts)).max() < 1e-4
    assert np.abs(scored - alone).max() > 0.1
    np.testing.assert_array_equal(nll(scorers["base"], transcripts), alone)


def test_a_comparison_on_the_shared_weights_is_made_with_the_same_adapter(base, first, transcripts):
    scorers = load_scorers(find(base, first))
    expected = nll(scorers["first"], transcripts)
    engine = scorers["first"].engine
    scorers["first"].engine = engine.around(WholeModelEngine(engine.model))
    nll(scorers["base"], transcripts)
    assert np.abs(nll(scorers["first"], transcripts) - expected).max() < 1e-4


def test_the_adapter_that_was_active_is_so_again_also_when_nested_and_after_an_exception(base, first, second):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    shared = lora.SharedBase(model)
    one, other = (shared.add(CheckpointCard(id=path.name), path) for path in (first, second))

    @torch.no_grad()
    def logits():
        return model(input_ids=torch.arange(20)[None]).logits

    alone = logits()
    with shared.active(one):
        adapted = logits()
        with pytest.raises(KeyError), shared.active(other), shared.active(None):
            raise KeyError
        assert torch.equal(logits(), adapted)
        with shared.active(None):
            assert torch.equal(logits(), alone)
    assert not torch.equal(adapted, alone)
    assert torch.equal(logits(), alone)


def test_bfloat16_is_finite(base, first, transcripts):
    scorers = load_scorers(find(base, first), ScoringConfig(dtype="bfloat16"))
    assert all(np.isfinite(nll(scorer, transcripts)).all() for scorer in scorers.values())


def test_an_adapter_may_bring_its_own_tokenizer(base, first, tmp_path):
    adapter = Path(shutil.copytree(first, tmp_path / "adapter"))
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<pad>"])
    tokenizer.save_pretrained(adapter)
    scorers = load_scorers(find(base, adapter))
    assert len(scorers["adapter"].tokenizer) == len(scorers["base"].tokenizer) + 1
    tokenizer.add_tokens([f"<{k}>" for k in range(20)])
    tokenizer.save_pretrained(adapter)
    with pytest.raises(CheckpointError, match=r"^adapter: its tokenizer has .* not a pair"):
        load_scorers(find(base, adapter))


def test_without_peft_it_says_what_to_install(base, first, monkeypatch):
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"^first: .* peft is not installed here; pip install peft$"):
        load_scorers(find(base, first))


def test_pickled_adapters_need_to_be_asked_for(base, broken):
    torch.save(load_file(broken / "adapter_model.safetensors"), broken / "adapter_model.bin")
    (broken / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoints\.allow_pickle=true"):
        find(base, broken)
    checkpoints = find(base, broken, allow_pickle=True)
    with pytest.raises(CheckpointError, match=r"checkpoints\.allow_pickle=true"):
        load_scorers(checkpoints)
    load_scorers(checkpoints, allow_pickle=True)


def lose_a_weight(directory: Path) -> None:
    weights = load_file(directory / "adapter_model.safetensors")
    del weights[min(weights)]
    save_file(weights, directory / "adapter_model.safetensors", metadata={"format": "pt"})


def rename_a_weight(directory: Path) -> None:
    weights = load_file(directory / "adapter_model.safetensors")
    name = min(weights)
    weights[name.replace("layers.0", "layers.7")] = weights[name].clone()
    save_file(weights, directory / "adapter_model.safetensors", metadata={"format": "pt"})


def widen(directory: Path) -> None:
    weights = {k: torch.cat([t, t], dim=1) for k, t in load_file(directory / "adapter_model.safetensors").items()}
    save_file(weights, directory / "adapter_model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_a_weight, "lack weights that its configuration requires"),
        (rename_a_weight, "its base has no parameters for some of its weights"),
        (widen, "cannot be loaded .*size mismatch"),
        (lambda d: rewrite(d / "adapter_config.json", bias="all"), "with bias: all .* merge it into its base"),
        (lambda d: rewrite(d / "adapter_config.json", init_lora_weights="pissa"), "pissa .* merge it into its base"),
        (lambda d: rewrite(d / "adapter_config.json", peft_type="PROMPT_TUNING"), "only LORA adapters"),
        (lambda d: rewrite(d / "adapter_config.json", target_modules=["nowhere"]), "cannot be loaded .*nowhere"),
    ],
)
def test_adapters_that_would_score_garbage_are_refused(base, broken, damage, message):
    damage(broken)
    with pytest.raises(CheckpointError, match=rf"^broken: .*{message}") as caught:
        load_scorers(find(base, broken))
    assert "\n" not in str(caught.value)


def break_json(directory: Path) -> None:
    (directory / "adapter_config.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "adapter_model.safetensors").unlink(), "no .*safetensors there"),
        (lambda d: (d / "adapter_model.safetensors").write_bytes(b"12345678"), "not a safetensors file"),
        (break_json, "adapter_config.json: cannot be read as JSON"),
        (
            lambda d: rewrite(d / "adapter_config.json", base_model_name_or_path=None),
            "neither its card nor its files name its base",
        ),
        (
            lambda d: shutil.copy(d / "adapter_model.safetensors", d / "model.safetensors"),
            "both an adapter .* and complete weights",
        ),
    ],
)
def test_what_is_no_adapter_is_refused_before_anything_is_loaded(base, broken, damage, message):
    damage(broken)
    with pytest.raises(CheckpointError, match=message) as caught:
        find(base, broken)
    assert "\n" not in str(caught.value)


def test_a_base_that_is_nowhere_is_told(broken, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    rewrite(broken / "adapter_config.json", base_model_name_or_path="lab/lost")
    with pytest.raises(CheckpointError, match=r"^broken: it is an adapter on lab/lost, which is neither .* add it"):
        find(broken)


def test_an_adapter_on_an_adapter_is_refused(base, first, broken):
    write_card(CheckpointCard(id="broken", base="first"), broken)
    with pytest.raises(CheckpointError, match="its base first is an adapter too"):
        find(base, first, broken)


def test_two_bases_of_one_name_are_refused(base, first, broken, tmp_path):
    other = Path(shutil.copytree(base, tmp_path / "elsewhere/base"))
    rewrite(other / "config.json", rms_norm_eps=0.1)
    rewrite(broken / "adapter_config.json", base_model_name_or_path=str(other))
    with pytest.raises(CheckpointError, match="two checkpoints have the name base"):
        find(first, broken)


def test_adapters_from_the_hubs_cache(base, first, tmp_path, monkeypatch, transcripts):
    import huggingface_hub

    shas = {"lab/base": "a" * 40, "lab/adapter": "b" * 40}
    for (name, sha), directory in zip(shas.items(), (base, first), strict=True):
        repository = tmp_path / "hub" / re.sub("^|/", lambda m: "models--" if not m[0] else "--", name)
        shutil.copytree(directory, repository / "snapshots" / sha)
        (repository / "refs").mkdir()
        (repository / "refs/main").write_text(sha)
    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *a, **k: real(*a, **{"cache_dir": str(tmp_path / "hub"), **k})
    )
    cards = [CheckpointCard(id="lab/adapter", adapter=True, base="lab/base"), CheckpointCard(id="lab/base")]
    adapter, whole = find_checkpoints(CheckpointsConfig(source=CheckpointSource.hub, cards=cards))
    assert (adapter.fingerprint, adapter.base_of_adapter) == (f"{'b' * 40}+{'a' * 40}", whole)
    assert (adapter.card.revision, load_group(adapter), adapter.base_slug) == ("b" * 40, "lab--base", "lab--base")
    assert adapter.n_parameters > whole.n_parameters > 0
    scorers = load_scorers([whole, adapter])
    local = load_scorers(find(base, first))
    np.testing.assert_array_equal(nll(scorers["lab--adapter"], transcripts[:1]), nll(local["first"], transcripts[:1]))
    (alone,) = find_checkpoints(CheckpointsConfig(source=CheckpointSource.hub, cards=cards, only=["lab/a*"]))
    assert alone == adapter
