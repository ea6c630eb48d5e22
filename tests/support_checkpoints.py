"""Tiny random checkpoints of real architectures, in the hub's layout."""

from __future__ import annotations

from pathlib import Path


def make_checkpoint(
    directory: Path, architecture: str, tokenizer_directory: Path, *, context: int = 65_536, seed: int = 0, **more
) -> Path:
    """Save a checkpoint of random weights with a given tokenizer."""
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
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def byte_tokenizer(directory: Path) -> Path:
    """Save a tokenizer whose tokens are the bytes: enough for checkpoints whose scores do not matter."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {letter: k for k, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(directory)
    return directory
