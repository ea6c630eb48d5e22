"""Sizes of a checkpoint that planning needs: memory, tensor-parallel rank counts, the engines that can hold it.

`shape_of` reads config.json once; afterwards no file and no network is needed. Does not import torch, and does not
choose an engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psych_ray.checkpoints.cards import CONFIG
from psych_ray.checkpoints.find import Checkpoint
from psych_ray.checkpoints.hub import config_of
from psych_ray.checkpoints.listed import listed_sizes
from psych_ray.checkpoints.model_config import read_config, sizes_of
from psych_ray.checkpoints.quantization import stored_bits
from psych_ray.checkpoints.tensor_parallel_sizes import obstacle, possible_ranks

_POWERS_OF_TWO = (1, 2, 4, 8, 16)


@dataclass(frozen=True, kw_only=True)
class CheckpointShape:
    """Sizes of one checkpoint; None where neither its files nor the hub give them."""

    n_parameters: int
    """Those of an adapter include its base's; 0 for a reference."""
    bits: int | None = None
    """Bits of a quantized weight, 4 or 8; None: the weights are not quantized."""
    hidden_size: int | None = None
    intermediate_size: int | None = None
    """Hidden units of the widest MLP that a token passes; with experts, those of all experts of one token."""
    context: int | None = None
    """Most tokens of one sequence."""
    only_transformers: str | None = None
    """Reason why only `engine=transformers` can hold it; None: every engine can."""
    config: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)
    """config.json of the weights, an adapter's base's; empty where it is not available."""

    @classmethod
    def of_config(
        cls,
        config: Mapping[str, Any],
        *,
        n_parameters: int,
        quantization: str | None = None,
        adapter: bool = False,
        trust_remote_code: bool = False,
    ) -> CheckpointShape:
        """Derive the sizes from a config.json and what the checkpoint's card adds to it."""
        text = config.get("text_config") or config
        experts = _widest(text, "moe_intermediate_size") * _widest(text, "num_experts_per_tok")
        bits = stored_bits(config.get("quantization_config"), quantization)
        reasons = {
            "it is an adapter": adapter,
            "it is quantized": bits is not None,
            "it comes with modelling code of its own": trust_remote_code,
        }
        return cls(
            n_parameters=n_parameters,
            bits=bits,
            hidden_size=_widest(text, "hidden_size") or None,
            intermediate_size=max(experts, _widest(text, "intermediate_size")) or None,
            context=_widest(text, "max_position_embeddings") or None,
            only_transformers=next((reason for reason, applies in reasons.items() if applies), None),
            config=config,
        )

    def rank_counts(self, most: int) -> list[int]:
        """Rank counts up to `most` over which tensor parallelism can shard it, ascending; empty where none can.

        Powers of two up to 16 where its config.json is not available.
        """
        return possible_ranks(self.config, most) if self.config else [n for n in _POWERS_OF_TWO if n <= most]

    def tensor_parallel_obstacle(self, n_ranks: int) -> str | None:
        """Reason why tensor parallelism cannot shard it over `n_ranks`, and what to do, for `{name}: {reason}`.

        None where it can, or where its config.json is not available.
        """
        return obstacle(self.config, n_ranks) if self.config else None


def _config_of(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """config.json of a directory, or of the hub; where the hub does not give it, what the package lists of it."""
    card = checkpoint.card
    if card.path:
        return read_config(Path(card.path) / CONFIG, code_allowed=card.trust_remote_code)
    listed = listed_sizes(card.id)
    on_hub = {} if checkpoint.assumed else config_of(card)
    return on_hub or (listed.config if listed else {})


def _widest(text: Mapping[str, Any], name: str) -> int:
    return max(sizes_of(text, name), default=0)


def shape_of(checkpoint: Checkpoint) -> CheckpointShape:
    """Read the sizes of a checkpoint. CheckpointError where a local config.json cannot be read."""
    if checkpoint.reference:
        return CheckpointShape(n_parameters=checkpoint.n_parameters)
    weights = checkpoint.base_of_adapter or checkpoint
    card = weights.card
    return CheckpointShape.of_config(
        _config_of(weights),
        n_parameters=checkpoint.n_parameters,
        quantization=card.quantization,
        adapter=checkpoint.base_of_adapter is not None,
        trust_remote_code=checkpoint.card.trust_remote_code,
    )
