"""Reads config.json, and refuses one whose values are not what planning and loading rely on.

A wrong value would otherwise be found minutes later, or as an estimate that is wrong. Does not import torch; whether
the values fit the weights is checked where these are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psych_ray.checkpoints.cards import read_json
from psych_ray.checkpoints.trust import require_no_hidden_code
from psych_ray.errors import CheckpointError

_SIZES = (
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "moe_intermediate_size",
    "num_attention_heads",
    "num_experts_per_tok",
    "num_key_value_heads",
)
_OBJECTS = ("text_config", "quantization_config")


def read_config(path: Path, *, code_allowed: bool = False) -> dict[str, Any]:
    """Read a config.json. CheckpointError where it cannot be used, or names code or weights that are elsewhere."""
    config = read_json(path)
    require_no_hidden_code(config, path, code_allowed=code_allowed)
    for name in _OBJECTS:
        if config.get(name) and not isinstance(config[name], Mapping):
            raise CheckpointError(f"{path}: {name} must be an object; fetch it again")
    text = config.get("text_config") or config
    for part in (config, text):
        if not isinstance(part.get("model_type"), str | None):
            raise CheckpointError(f"{path}: model_type must be a name; fetch it again")
    for name in _SIZES:
        value = text.get(name)
        if not all(_is_size(one) for one in (value if isinstance(value, list) else [value])):
            raise CheckpointError(f"{path}: {name} must be a whole number; fetch it again")
    return config


def sizes_of(text: Mapping[str, Any], name: str) -> list[int]:
    """Values of a size: one, one of each layer, or none where the configuration does not give it."""
    value = text.get(name)
    return [one for one in (value if isinstance(value, list) else [value]) if one is not None]


def _is_size(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)
