"""Files that come with a checkpoint cannot decide which code runs or which weights are read, whatever they say."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from psych_ray.checkpoints.find import find_checkpoints
from psych_ray.checkpoints.hub import Pinned
from psych_ray.checkpoints.trust import Trust
from psych_ray.config import CheckpointCard, CheckpointsConfig, CheckpointSource, ScoringConfig
from psych_ray.errors import CheckpointError
from psych_ray.scoring.engines.lora import require_adapter
from psych_ray.scoring.loading import load_scorer
from psych_ray.scoring.models.load import load_model

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
Path(MARK).touch()
class StrangeConfig(LlamaConfig):
    model_type = "strange"
class StrangeForCausalLM(LlamaForCausalLM):
    config_class = StrangeConfig
class StrangeTokenizer(PreTrainedTokenizerFast):
    pass
"""
AUTO_MAP = {"AutoConfig": "strange.StrangeConfig", "AutoModelForCausalLM": "strange.StrangeForCausalLM"}


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))


def find(*paths: Path, **settings: Any):
    config = CheckpointsConfig(source=CheckpointSource.local, paths=[str(path) for path in paths], **settings)
    return find_checkpoints(config)


@pytest.fixture
def strange(directory, tmp_path, monkeypatch) -> SimpleNamespace:
    """A checkpoint with modelling code of its own, and the file that this code makes when it is run."""
    mark = tmp_path / "its code was run"
    (directory / "strange.py").write_text(CODE.replace("MARK", repr(str(mark))))
    rewrite(directory / "config.json", model_type="strange", auto_map=AUTO_MAP)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])

    def ask(*_: object) -> str:
        raise AssertionError("it asked on stdin")

    monkeypatch.setattr("builtins.input", ask)
    return SimpleNamespace(directory=directory, mark=mark)


def test_code_of_a_checkpoint_is_not_run_by_default(strange):
    (found,) = find(strange.directory)
    with pytest.raises(
        CheckpointError, match=r"^my model: .* modelling code of its own .* checkpoints\.trust"
    ) as caught:
        load_scorer(found)
    assert "\n" not in str(caught.value)
    assert not strange.mark.exists()
    rewrite(strange.directory / "config.json", model_type="llama")  # transformers knows this one: its own code is used
    load_scorer(find(strange.directory)[0])
    assert not strange.mark.exists()


def test_a_card_in_the_directory_cannot_allow_its_code(strange):
    rewrite(strange.directory / "psych_ray.json", id="trusted/name", trust_remote_code=True)
    for globs in ([], ["trusted/*"], ["my model"]):
        with pytest.raises(CheckpointError, match=r"psych_ray\.json: asks for .* checkpoints\.trust_remote_code=\["):
            find(strange.directory, trust_remote_code=globs)
    rewrite(strange.directory / "psych_ray.json", trust_remote_code=False)
    (found,) = find(strange.directory, trust_remote_code=["trusted/*"])
    assert not found.card.trust_remote_code
    assert not strange.mark.exists()


@pytest.mark.parametrize("glob", ["{}", "*/my model", "*"])
def test_the_configuration_allows_the_code_of_a_directory(strange, glob, model_of):
    (found,) = find(strange.directory, trust_remote_code=[glob.format(strange.directory)])
    scorer = load_scorer(found)
    assert type(model_of(scorer)).__name__ == "StrangeForCausalLM"
    assert strange.mark.exists()


def test_a_notebook_allows_the_code_of_a_directory(strange, model_of):
    scorer = load_scorer(strange.directory, trust_remote_code=True)
    assert type(model_of(scorer)).__name__ == "StrangeForCausalLM"


def test_cards_of_the_configuration_allow_code_by_id(monkeypatch):
    monkeypatch.setattr("psych_ray.checkpoints.find.pin", lambda *_: Pinned("0" * 40, 1))
    cards = [CheckpointCard(id="lab/a"), CheckpointCard(id="lab/b", trust_remote_code=True), CheckpointCard(id="x/c")]
    config = CheckpointsConfig(source=CheckpointSource.hub, cards=cards, trust_remote_code=["x/*"])
    assert [found.card.trust_remote_code for found in find_checkpoints(config)] == [False, True, True]


def test_code_that_is_run_is_part_of_the_fingerprint(strange):
    before, trusted = find(strange.directory)[0], find(strange.directory, trust_remote_code=["*"])[0]
    with (strange.directory / "strange.py").open("a") as file:
        file.write("\nX = 1\n")
    assert find(strange.directory)[0].fingerprint == before.fingerprint
    assert find(strange.directory, trust_remote_code=["*"])[0].fingerprint != trusted.fingerprint


@pytest.mark.parametrize("auto_map", [{"AutoTokenizer": [None, "strange.StrangeTokenizer"]}, [None, "strange.S"]])
def test_code_of_a_tokenizer_is_not_run_by_default(strange, auto_map):
    rewrite(strange.directory / "config.json", model_type="llama", auto_map={})
    for name in ("StrangeTokenizer", "PreTrainedTokenizerFast"):
        rewrite(strange.directory / "tokenizer_config.json", tokenizer_class=name, auto_map=auto_map)
        try:
            load_scorer(strange.directory)
        except CheckpointError as error:
            assert "\n" not in str(error)  # noqa: PT017  it may load as a tokenizer of transformers or be refused
        assert not strange.mark.exists()


@pytest.mark.parametrize("name", ["AutoModelForCausalLM", "LlamaForCausalLM", "Trainer", "pipeline", "os", ""])
def test_a_tokenizer_class_that_is_none_is_refused_or_not_used(directory, name):
    rewrite(directory / "tokenizer_config.json", tokenizer_class=name)
    rewrite(directory / "config.json", model_type="llama")
    try:
        load_scorer(directory)
    except CheckpointError as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "changes",
    [
        {"attn_implementation": "evil/kernel"},
        {"_attn_implementation": {"": "evil/kernel@main:f"}},
        {"text_config": {"experts_implementation": "evil/kernel"}},
        {"transformers_weights": "adapter_model.bin"},
        {"text_config": {"transformers_weights": "other.safetensors"}},
    ],
)
def test_a_configuration_that_names_other_code_or_weights_is_refused(directory, changes):
    rewrite(directory / "config.json", **changes)
    with pytest.raises(CheckpointError, match=r"config\.json: .*; remove that line") as caught:
        find(directory)
    assert "\n" not in str(caught.value)


def test_code_of_another_repository_is_not_run_even_where_that_of_the_directory_is(strange):
    rewrite(strange.directory / "config.json", auto_map=AUTO_MAP | {"AutoConfig": "evil/repo--strange.StrangeConfig"})
    with pytest.raises(CheckpointError, match="code of another repository"):
        find(strange.directory, trust_remote_code=["*"])


def test_files_of_the_hub_are_checked_once_they_are_there(directory, monkeypatch):
    rewrite(directory / "config.json", attn_implementation="evil/kernel")
    monkeypatch.setattr("psych_ray.scoring.loading.fetch", lambda card, **_: directory)
    monkeypatch.setattr("psych_ray.checkpoints.find.pin", lambda *_: Pinned("0" * 40, 1))
    config = CheckpointsConfig(source=CheckpointSource.hub, cards=[CheckpointCard(id="lab/a")])
    with pytest.raises(CheckpointError, match="names code of the hub"):
        load_scorer(find_checkpoints(config)[0])


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("allow", [False, True])
def test_pickles_beside_safetensors_are_never_opened_and_alone_run_no_code(directory, tmp_path, allow):
    import torch

    mark = tmp_path / "unpickled"
    for name in ("pytorch_model.bin", "training_args.bin", "model.pt", "adapter_model.bin"):
        torch.save({"a": Evil(mark)}, directory / name)
    load_scorer(directory, allow_pickle=allow)
    assert not mark.exists()
    (directory / "model.safetensors").unlink()
    with pytest.raises(CheckpointError):
        load_scorer(directory, allow_pickle=allow)
    assert not mark.exists()  # weights_only


def test_shards_that_an_index_names_must_be_safetensors(directory, tmp_path):
    import torch

    mark = tmp_path / "unpickled"
    torch.save({"a": Evil(mark)}, directory / "evil.bin")
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text('{"weight_map": {"a": "evil.bin"}}')
    with pytest.raises(CheckpointError, match=r"evil\.bin: not a safetensors file"):
        find(directory)
    assert not mark.exists()


def test_an_adapter_cannot_name_a_module_to_import(tmp_path, directory):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    shutil.copy(directory / "model.safetensors", adapter / "adapter_model.safetensors")
    rewrite(
        adapter / "adapter_config.json",
        peft_type="LORA",
        base_model_name_or_path=str(directory),
        megatron_config={"a": 1},
        megatron_core="this",
        auto_mapping={"base_model_class": "X", "parent_library": "this"},
    )
    with pytest.raises(CheckpointError, match="megatron_config"):
        require_adapter(CheckpointCard(id="a"), adapter, allow_pickle=False)
    assert "this" not in sys.modules


def test_the_base_that_an_adapter_names_gets_no_more_trust(tmp_path, strange):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    shutil.copy(strange.directory / "model.safetensors", adapter / "adapter_model.safetensors")
    rewrite(adapter / "adapter_config.json", peft_type="LORA", base_model_name_or_path=str(strange.directory))
    (found,) = find(adapter, trust_remote_code=[str(adapter)])
    assert found.base_of_adapter is not None
    assert not found.base_of_adapter.card.trust_remote_code
    rewrite(strange.directory / "psych_ray.json", id="base", trust_remote_code=True)
    with pytest.raises(CheckpointError, match="asks for trust_remote_code"):
        find(adapter, trust_remote_code=[str(adapter)])


def test_globs_are_compared_with_ids_of_the_hub_and_with_paths_of_directories(tmp_path, monkeypatch):
    trust = Trust(code=("lab/*", str(tmp_path / "[a]")))
    assert trust.runs_code_of("lab/a")
    assert not trust.runs_code_of("other/a")
    assert trust.runs_code_of(tmp_path / "[a]")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab/a").mkdir(parents=True)
    assert not Trust(code=("a",)).runs_code_of(Path("lab/a"))
    assert Trust(code=("lab/a",)).runs_code_of(Path("lab/a"))  # the path as it is written
    assert not Trust().runs_code_of("lab/a")


def test_a_quantization_method_cannot_name_a_module(directory):
    rewrite(directory / "config.json", quantization_config={"quant_method": "evil.module:Class"})
    with pytest.raises(CheckpointError, match="quant_method 'evil") as caught:
        load_model(CheckpointCard(id="a"), directory, ScoringConfig(), allow_pickle=False)
    assert "\n" not in str(caught.value)
