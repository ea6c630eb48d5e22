"""Shared by all tests: where real data lie, and tiny random checkpoints of real architectures."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(os.environ.get("PSYCH_RAY_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"real transcripts and tokenizers are not at {SHARED} (PSYCH_RAY_SHARED names another place)")
    return SHARED


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a tiny random checkpoint, in the hub's layout, of a real architecture with a given tokenizer."""

    def make(architecture: str, tokenizer_directory: Path, *, context: int = 65_536, seed: int = 0, **more) -> Path:
        import torch
        import transformers
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
        config = getattr(transformers, f"{architecture}Config")(
            vocab_size=len(tokenizer) + 8,
            # random weights of the usual size give nearly uniform logits, which would hide a shifted position
            **{"hidden_size": 32, "intermediate_size": 64, "initializer_range": 0.3} | more,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=context,
            tie_word_embeddings=False,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
        )
        torch.manual_seed(seed)
        model = getattr(transformers, f"{architecture}ForCausalLM")(config)
        directory = tmp_path_factory.mktemp("checkpoints") / f"tiny-{architecture.lower()}-{tokenizer_directory.name}"
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        return directory

    return make


@pytest.fixture(scope="session")
def byte_tokenizer_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tokenizer whose tokens are the bytes: enough for checkpoints whose scores do not matter."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {letter: k for k, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    directory = tmp_path_factory.mktemp("tokenizers") / "bytes"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def model_of() -> Callable[[Any], Any]:
    """Return the model of a scorer, for any engine and what wraps it."""

    def find(scorer: Any) -> Any:
        engine = scorer.engine
        while hasattr(engine, "engine"):
            engine = engine.engine
        return engine.model

    return find
