"""Random checkpoints in the shapes of real ones, and token lengths like those of the real studies."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from psych_ray.scoring.engines.base import Query
from psych_ray.transcripts.record import Transcript

SHARED = Path(os.environ.get("PSYCH_RAY_SHARED", Path(__file__).resolve().parents[3] / "shared"))

SHAPES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 8},
    "0.6b": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "8b": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
}
VOCABULARY = 151_936


def random_model(shape: str, *, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """Make a Qwen3 of that shape with random weights, directly on the device."""
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=65_536,
        tie_word_embeddings=shape == "0.6b",
        **SHAPES[shape],
    )
    torch.manual_seed(0)
    with torch.device(device):
        return Qwen3ForCausalLM._from_config(config, dtype=dtype).eval()


def flops(model: torch.nn.Module, queries: list[Query]) -> float:
    """Operations that scoring needs, whoever does it."""
    config = model.config
    embeddings = VOCABULARY * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    body = sum(parameter.numel() for parameter in model.parameters()) - embeddings
    width = config.num_attention_heads * config.head_dim
    total = 0.0
    for query in queries:
        total += 2.0 * body * query.length + 2.0 * config.num_hidden_layers * width * query.length**2
        total += 2.0 * config.hidden_size * VOCABULARY * len(query.at_R)
    return total


def real_transcripts(limit: int) -> list[Transcript]:
    """Read the first `limit` participants of every real study."""
    from psych_ray.config import TranscriptsConfig, TranscriptSource
    from psych_ray.transcripts.sources import read_transcripts

    config = TranscriptsConfig(source=TranscriptSource.files, path=str(SHARED / "data/psych-201"), limit=limit)
    return list(read_transcripts(config))


def real_tokenizer() -> PreTrainedTokenizerBase:
    """Load Qwen3's tokenizer."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(SHARED / "tokenizers/qwen3")
    return tokenizer


def real_queries(*, tokens: int, n: int) -> list[Query]:
    """Queries for the responses of real transcripts with more than `tokens` tokens, truncated there."""
    from psych_ray.scoring.scorer import token_indices
    from psych_ray.scoring.tokens.alignment import align
    from psych_ray.transcripts.conditions import condition_named

    tokenizer, plain = real_tokenizer(), condition_named("plain")
    found: list[Query] = []
    for transcript in real_transcripts(8):
        alignment = align(plain.render(transcript, None), tokenizer, tokens)
        if len(alignment.token_ids_T) == tokens:
            found.append(Query(alignment.token_ids_T, token_indices(alignment)))
    order = np.random.default_rng(0).permutation(len(found))
    return [found[k] for k in order[:n]]


def like_real(*, n: int, seed: int = 0, longest: int = 30_000) -> list[Query]:
    """Queries with lengths and scored tokens drawn like those of the real studies, for a machine without the data.

    Lengths: quantiles of 24 studies of Psych-201 with Qwen3's tokenizer (median 3,300, a quarter above 8,192, one in a
    hundred above 16,384), at most `longest`; 5.4 % of the tokens are scored.
    """
    rng = np.random.default_rng(seed)
    at, quantiles = [0, 0.25, 0.5, 0.75, 0.99, 1], [400, 1000, 3300, 8192, 16_384, 30_000]
    lengths = np.interp(rng.random(n), at, quantiles).astype(int).clip(max=longest)
    return [
        Query(
            rng.integers(0, VOCABULARY - 300, length),
            np.sort(rng.choice(np.arange(1, length), max(1, int(0.054 * length)), replace=False)),
        )
        for length in lengths
    ]
