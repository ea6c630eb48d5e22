"""Fixtures of tests about checkpoints: a tiny one in a directory of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def original(byte_tokenizer_directory, tiny_checkpoint) -> Path:
    return tiny_checkpoint("Llama", byte_tokenizer_directory)


@pytest.fixture
def directory(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "my model"))


@pytest.fixture
def shard() -> Callable[[Path], list[Path]]:
    """Rewrite the weights of a directory in several files, and return these."""

    def rewrite(directory: Path) -> list[Path]:
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        (directory / "model.safetensors").unlink()
        model.save_pretrained(directory, max_shard_size="50KB")
        return sorted(directory.glob("model-*.safetensors"))

    return rewrite
