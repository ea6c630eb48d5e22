"""Quantized checkpoints: bits per weight, and the library that loads them. Does not import torch.

A checkpoint is quantized by its config.json, or on loading by its card (`quantization: bnb-4bit`).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from psych_ray.config import CheckpointCard
from psych_ray.errors import CheckpointError

ON_THE_FLY = ("bnb-4bit", "bnb-8bit")
"""Values of a card's `quantization` for weights that are not quantized yet."""

_WIDEST = 32
# Method of config.json -> module, package. For other methods transformers raises its own error.
_LIBRARIES = {
    "aqlm": ("aqlm", "aqlm"),
    "auto-round": ("auto_round", "auto-round"),
    "awq": ("gptqmodel", "gptqmodel"),
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "compressed-tensors": ("compressed_tensors", "compressed-tensors"),
    "eetq": ("eetq", "eetq"),
    "gptq": ("gptqmodel", "gptqmodel"),
    "hqq": ("hqq", "hqq"),
    "quanto": ("optimum", "optimum-quanto"),
    "torchao": ("torchao", "torchao"),
}


def method_of(quantization: Mapping[str, Any]) -> str:
    """Name the method of a config.json's `quantization_config`."""
    if quantization.get("load_in_4bit") or quantization.get("load_in_8bit"):
        return "bitsandbytes"
    return str(quantization.get("quant_method") or "unknown")


def stored_bits(quantization: Mapping[str, Any] | None, on_the_fly: str | None = None) -> int | None:
    """Bits of a weight, 4 or 8, for a config.json's `quantization_config` and a card's `quantization`.

    None where neither quantizes. 8, the larger estimate of memory, where the number is not given or is another one.
    """
    quantization = quantization or {}
    if "4bit" in (on_the_fly or "") or packed_bits(quantization) == 4:
        return 4
    return 8 if quantization or on_the_fly else None


def packed_bits(quantization: Mapping[str, Any]) -> int | None:
    """Bits of a weight as a config.json's `quantization_config` states them; None where it does not."""
    if quantization.get("load_in_4bit"):
        return 4
    bits = quantization.get("bits") or quantization.get("w_bit")
    return bits if isinstance(bits, int) and 0 < bits <= _WIDEST else None


def require_known(card: CheckpointCard, quantization: Mapping[str, Any] | None) -> None:
    """Raise CheckpointError where a card's quantization is neither in its files nor possible on loading."""
    if card.quantization and not quantization and card.quantization not in ON_THE_FLY:
        raise CheckpointError(
            f"{card.id}: its card has quantization: {card.quantization}, but its config.json has no "
            f"quantization_config; weights that are not quantized can be loaded as {' or '.join(ON_THE_FLY)}"
        )


def require_library(card: CheckpointCard, quantization: Mapping[str, Any] | None) -> None:
    """Raise CheckpointError where the library that a quantized checkpoint needs is not installed."""
    require_known(card, quantization)
    if quantization:
        method = method_of(quantization)
    elif card.quantization:
        method = "bitsandbytes"
    else:
        return
    module, package = _LIBRARIES.get(method, (None, None))
    if module is not None and find_spec(module) is None:
        raise CheckpointError(
            f"{card.id}: its weights are quantized with {method}, and the library {package} is not installed here; "
            f"pip install {package}, or exclude it with checkpoints.only"
        )
