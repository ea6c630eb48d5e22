"""How many ranks can share a checkpoint by tensor parallelism, told from its config.json before anything is loaded.

DeepSpeed also cuts what does not divide: key heads unevenly, or down to none on some rank, which the attention of
transformers then misreads. So heads and hidden units must divide evenly, and the architecture must be one that was
seen to score as one process does. Knows no torch and no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psych_ray.errors import CheckpointError

# Text parts that were seen to score on 2 and on 4 ranks as in one process.
_SEEN = {
    "gemma3_text",
    "llama",
    "mistral",
    "olmo2",
    "olmo3",
    "qwen2",
    "qwen2_5_vl",  # the first files of Qwen2.5-VL have the text part at the top
    "qwen2_5_vl_text",
    "qwen3",
    "qwen3_moe",
    "qwen3_vl_text",
}
# What a config.json of the hub may leave to the defaults of transformers.
_DEFAULTS = {"gemma3_text": {"num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 9216}}
# What it is called, and how many of it must stay together: grouped products want rows of 16 bytes or a multiple.
_MUST_DIVIDE = {
    "num_attention_heads": ("attention heads", 1),
    "num_key_value_heads": ("key and value heads", 1),
    "intermediate_size": ("hidden units", 1),
    "moe_intermediate_size": ("hidden units of an expert", 8),
}


def require_divisible(config: Mapping[str, Any], n_ranks: int, name: str) -> None:
    """Raise CheckpointError where `n_ranks` ranks cannot share the checkpoint of this config.json."""
    obstacle = _obstacle(config)
    if obstacle:
        raise CheckpointError(f"{name}: {obstacle}")
    remainder = _remainder(config, n_ranks)
    if remainder:
        counts = _either(possible_ranks(config, max(n_ranks, 16)))
        raise CheckpointError(
            f"{name}: {remainder}; scoring.engine=deepspeed_tp takes {counts} here, scoring.engine=deepspeed_zero any "
            "number"
        )


def possible_ranks(config: Mapping[str, Any], most: int) -> list[int]:
    """List the rank counts from 1 to `most` that can share the checkpoint; none where its architecture is not known."""
    if _obstacle(config):
        return []
    return [n_ranks for n_ranks in range(1, most + 1) if not _remainder(config, n_ranks)]


def _obstacle(config: Mapping[str, Any]) -> str | None:
    """Say what keeps the checkpoint from being shared by any number of ranks, and what to do."""
    if config.get("quantization_config"):
        return (
            "its weights are quantized, which scoring.engine=deepspeed_tp cannot cut; score it with "
            "scoring.engine=transformers, or leave it out with checkpoints.only"
        )
    kind = _text_part(config).get("model_type")
    if kind not in _SEEN:
        return (
            f"scoring.engine=deepspeed_tp was not seen to score its architecture ({kind}) right; "
            "scoring.engine=deepspeed_zero can hold it"
        )
    return None


def _remainder(config: Mapping[str, Any], n_ranks: int) -> str | None:
    """Say what does not divide."""
    text = _text_part(config)
    known = _DEFAULTS.get(str(text.get("model_type")), {}) | {key: n for key, n in text.items() if n is not None}
    for key, (what, together) in _MUST_DIVIDE.items():
        if n_ranks > 1 and known.get(key, 0) % (n_ranks * together):
            parts = f" in parts of {together}" if together > 1 else ""
            return f"its {known[key]} {what} do not divide over {n_ranks} ranks{parts}"
    return None


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    text = config.get("text_config") or config
    assert isinstance(text, Mapping)
    return text


def _either(counts: list[int]) -> str:
    *some, last = map(str, counts)
    return f"{', '.join(some)} or {last} ranks" if some else f"{last} rank"
