"""Files of checkpoints, with random values and bytes in them: refused in one line, or another fingerprint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_fuzz import accepted, changed_bytes, changed_json, fuzz

from psych_ray.checkpoints.find import Checkpoint, find_checkpoints
from psych_ray.checkpoints.shape import shape_of
from psych_ray.config import CheckpointCard, CheckpointsConfig, CheckpointSource
from psych_ray.scoring.engines.lora import require_adapter
from psych_ray.scoring.loading import load_scorer

_CARD = {
    "id": "lab/a",
    "family": "f",
    "generation": "g",
    "size_b": 0.5,
    "stage": "base",
    "base": None,
    "adapter": False,
}
_ADAPTER = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "bias": "none"}


@pytest.fixture(scope="module")
def original(byte_tokenizer_directory, tiny_checkpoint) -> Path:
    return tiny_checkpoint("Llama", byte_tokenizer_directory)


@pytest.fixture(scope="module")
def directory(original, tmp_path_factory) -> Path:
    return Path(shutil.copytree(original, tmp_path_factory.mktemp("fuzz") / "model"))


def find(path: Path) -> Checkpoint:
    (found,) = find_checkpoints(CheckpointsConfig(source=CheckpointSource.local, paths=[str(path)]))
    shape = shape_of(found)
    shape.rank_counts(8)
    shape.tensor_parallel_obstacle(2)
    return found


class Changed:
    """A file of the directory with other content, for as long as the block runs."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path, self._content = path, content

    def __enter__(self) -> None:
        self._before = self._path.read_bytes() if self._path.exists() else None
        self._path.write_bytes(self._content)

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            self._path.unlink()
        else:
            self._path.write_bytes(self._before)


def changed_file(data: st.DataObject, content: bytes) -> bytes:
    """The JSON of `content` with other values, or its bytes changed."""
    if data.draw(st.booleans()):
        return data.draw(changed_bytes(content))
    return json.dumps(data.draw(changed_json(json.loads(content)))).encode("utf-8", "surrogatepass")


@fuzz(3)
@given(data=st.data())
def test_a_card(directory: Path, data: st.DataObject) -> None:
    content = changed_file(data, json.dumps(_CARD).encode())
    before = find(directory)
    with Changed(directory / "psych_ray.json", content):
        found = accepted("psych_ray.json", lambda: find(directory))
    if found is not None:
        assert not found.card.trust_remote_code
        assert found.card.path == before.card.path
        assert found.card.quantization or found.fingerprint == before.fingerprint


@fuzz(3)
@given(data=st.data())
def test_a_configuration(directory: Path, data: st.DataObject) -> None:
    before, content = find(directory), (directory / "config.json").read_bytes()
    changed = changed_file(data, content)
    with Changed(directory / "config.json", changed):
        found = accepted("config.json", lambda: find(directory))
    if found is not None:
        assert changed == content or found.fingerprint != before.fingerprint


@fuzz(3)
@given(data=st.data())
def test_weights(directory: Path, data: st.DataObject) -> None:
    path = directory / "model.safetensors"
    content, before = path.read_bytes(), find(directory)
    end = 8 + int.from_bytes(content[:8], "little")
    header = content[8:end]
    if data.draw(st.booleans()):
        header = json.dumps(data.draw(changed_json(json.loads(header)))).encode("utf-8", "surrogatepass")
        changed = len(header).to_bytes(8, "little") + header + content[end:]
    else:
        changed = data.draw(changed_bytes(content[:end])) + content[end:]
    with Changed(path, changed):
        found = accepted("safetensors", lambda: find(directory))
    if found is not None:
        assert changed == content or found.fingerprint != before.fingerprint


@fuzz(2)
@given(data=st.data())
def test_an_index_of_shards(directory: Path, data: st.DataObject) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": {"a": "part.safetensors", "b": "part.safetensors"}}
    weights = directory / "model.safetensors"
    weights.rename(directory / "part.safetensors")
    try:
        with Changed(directory / "model.safetensors.index.json", changed_file(data, json.dumps(index).encode())):
            accepted("index", lambda: find(directory))
    finally:
        (directory / "part.safetensors").rename(weights)


@fuzz(2)
@given(data=st.data())
def test_an_adapter(directory: Path, tmp_path_factory, data: st.DataObject) -> None:
    adapter = directory.parent / "adapter"
    adapter.mkdir(exist_ok=True)
    shutil.copy(directory / "model.safetensors", adapter / "adapter_model.safetensors")
    content = json.dumps(_ADAPTER | {"base_model_name_or_path": str(directory)}).encode()
    (adapter / "adapter_config.json").write_bytes(changed_file(data, content))

    def check() -> None:
        (found,) = find_checkpoints(CheckpointsConfig(source=CheckpointSource.local, paths=[str(adapter)]))
        require_adapter(CheckpointCard(id=found.card.id), adapter, allow_pickle=False)

    accepted("adapter_config.json", check)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@fuzz(0.3)
@given(data=st.data())
def test_loading(directory: Path, name: str, data: st.DataObject) -> None:
    content: Any = (directory / name).read_bytes()
    with Changed(directory / name, changed_file(data, content)):
        accepted(f"loading {name}", lambda: load_scorer(directory))
