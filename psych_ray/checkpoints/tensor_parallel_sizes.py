"""Over how many ranks tensor parallelism can shard a checkpoint, read from its config.json before it is loaded.

DeepSpeed also shards what does not divide: key heads unevenly, or none on some rank, which gives wrong scores with the
attention of transformers. So heads and hidden units must divide evenly, and the architecture must be one that tests
compare with a single process. Does not import torch, and reads no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psych_ray.checkpoints.model_config import sizes_of
from psych_ray.errors import CheckpointError

# Model types of text models whose scores on 2 and on 4 ranks are tested against a single process.
_TESTED = {
    "gemma3_text",
    "llama",
    "mistral",
    "olmo2",
    "olmo3",
    "qwen2",
    "qwen2_5_vl",  # early files of Qwen2.5-VL have the text model's fields at the top level
    "qwen2_5_vl_text",
    "qwen3",
    "qwen3_moe",
    "qwen3_vl_text",
}
# Defaults of transformers for fields that a config.json of the hub may omit.
_DEFAULTS = {"gemma3_text": {"num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 9216}}
# Field -> its name in messages, and the size of the groups that must stay on one rank: grouped matrix products need
# rows whose size is a multiple of 16 bytes.
_MUST_DIVIDE = {
    "num_attention_heads": ("attention heads", 1),
    "num_key_value_heads": ("key and value heads", 1),
    "intermediate_size": ("hidden units", 1),
    "moe_intermediate_size": ("hidden units of an expert", 8),
}


def require_divisible(config: Mapping[str, Any], n_ranks: int, name: str) -> None:
    """Raise CheckpointError where tensor parallelism cannot shard the checkpoint of this config.json over `n_ranks`."""
    reason = obstacle(config, n_ranks)
    if reason:
        raise CheckpointError(f"{name}: {reason}")


def obstacle(config: Mapping[str, Any], n_ranks: int) -> str | None:
    """Reason why `n_ranks` ranks cannot hold shards of this checkpoint, and what to do; None where they can."""
    reason = _obstacle_for_any_count(config)
    if reason:
        return reason
    remainder = _remainder(config, n_ranks)
    if not remainder:
        return None
    counts = _either(possible_ranks(config, max(n_ranks, 16)))
    return f"{remainder}; scoring.engine=deepspeed_tp takes {counts} here, scoring.engine=deepspeed_zero any number"


def possible_ranks(config: Mapping[str, Any], most: int) -> list[int]:
    """Rank counts up to `most` over which the checkpoint can be sharded; empty where its architecture is not tested."""
    if _obstacle_for_any_count(config):
        return []
    return [n_ranks for n_ranks in range(1, most + 1) if not _remainder(config, n_ranks)]


def _obstacle_for_any_count(config: Mapping[str, Any]) -> str | None:
    if config.get("quantization_config"):
        return (
            "its weights are quantized, which scoring.engine=deepspeed_tp cannot shard; score it with "
            "scoring.engine=transformers, or exclude it with checkpoints.only"
        )
    model_type = _text_config(config).get("model_type")
    if model_type not in _TESTED:
        return (
            f"scoring.engine=deepspeed_tp is not tested with its architecture ({model_type}); use "
            "scoring.engine=deepspeed_zero"
        )
    return None


def _remainder(config: Mapping[str, Any], n_ranks: int) -> str | None:
    """Say which size does not divide by `n_ranks`; None where all do."""
    text = _text_config(config)
    defaults = _DEFAULTS.get(str(text.get("model_type")), {})
    for key, (what, group) in _MUST_DIVIDE.items():
        for size in sizes_of(text, key) or sizes_of(defaults, key):
            if n_ranks > 1 and size % (n_ranks * group):
                groups = f" in groups of {group}" if group > 1 else ""
                return f"its {size} {what} do not divide over {n_ranks} ranks{groups}"
    return None


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    text = config.get("text_config") or config
    assert isinstance(text, Mapping)
    return text


def _either(counts: list[int]) -> str:
    *some, last = map(str, counts)
    return f"{', '.join(some)} or {last} ranks" if some else f"{last} rank"
