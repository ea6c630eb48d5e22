"""Shared by all tests: where real data lie, and tiny random checkpoints of real architectures."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support_checkpoints import byte_tokenizer, make_checkpoint

SHARED = Path(os.environ.get("PSYCH_RAY_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"real transcripts and tokenizers are not at {SHARED} (PSYCH_RAY_SHARED names another place)")
    return SHARED


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a tiny random checkpoint, in the hub's layout, of a real architecture with a given tokenizer."""

    def make(architecture: str, tokenizer_directory: Path, **more) -> Path:
        name = f"tiny-{architecture.lower()}-{tokenizer_directory.name}"
        return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / name, architecture, tokenizer_directory, **more)

    return make


@pytest.fixture(scope="session")
def byte_tokenizer_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tokenizer whose tokens are the bytes: enough for checkpoints whose scores do not matter."""
    return byte_tokenizer(tmp_path_factory.mktemp("tokenizers") / "bytes")


@pytest.fixture(scope="session")
def model_of() -> Callable[[Any], Any]:
    """Return the model of a scorer, for any engine and what wraps it."""

    def find(scorer: Any) -> Any:
        engine = scorer.engine
        while hasattr(engine, "engine"):
            engine = engine.engine
        return engine.model

    return find
