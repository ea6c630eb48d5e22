"""Which engine holds a checkpoint, on how many ranks, and why: from its size and the GPUs, before anything is loaded.

Reads a checkpoint's config.json at most. What is chosen never changes a score, so it is no part of a sweep's identity.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psych_ray.checkpoints.cards import CONFIG, read_json
from psych_ray.checkpoints.find import Checkpoint
from psych_ray.checkpoints.hub import config_of
from psych_ray.checkpoints.tensor_parallel_sizes import possible_ranks, require_divisible
from psych_ray.config import ClusterConfig, ClusterKind, Config, CutBy, Dtype, EngineName, ScoringConfig
from psych_ray.errors import CheckpointError
from psych_ray.scoring.engines.packs import PASS_TOKENS
from psych_ray.transcripts.conditions.authors import CUT_CHARACTERS

# A GPU's memory is never all ours; its driver, the libraries and a chunk of logits need room whatever is read.
_USABLE = 0.95
_FIXED_BYTES = 1.5e9
_CHARACTERS_A_TOKEN_AT_LEAST = 3.0
"""Below the mean over studies, as the longest transcripts are full of numbers."""
_BYTES = {Dtype.float32: 4.0, Dtype.bfloat16: 2.0}
_QUANTIZED_BYTES = {4: 0.6, 8: 1.1}


@dataclass(frozen=True, slots=True)
class Gpus:
    """The GPUs of one node."""

    per_node: int
    memory_bytes: float
    """Of one GPU."""


@dataclass(frozen=True, slots=True)
class Placement:
    """How one set of weights is held."""

    engine: EngineName
    ranks: int
    """Processes that hold it together, each with a GPU of its own where there are GPUs."""
    why: str


def gpus_of(config: ClusterConfig) -> Gpus | None:
    """Find the GPUs of a node: as the configuration tells them, else this machine's; None where neither knows any."""
    here = _gpus_here() if config.gpus is None or config.gpu_memory_gb is None else []
    per_node = config.gpus if config.gpus is not None else len(here)
    memory = config.gpu_memory_gb * 1e9 if config.gpu_memory_gb else min(here, default=0.0)
    return Gpus(per_node, memory) if per_node and memory else None


@dataclass(frozen=True, slots=True)
class _Need:
    """What a checkpoint needs of GPUs while it reads, bytes."""

    weights: float
    tokens: int
    """Read at a time."""
    whole: float
    """States of a token that each rank holds whole."""
    shared: float
    """States of a token within heads and hidden units, of which a rank holds its share."""

    def of_a_rank(self, ranks: int) -> float:
        """Memory that one of so many ranks needs."""
        return self.weights / ranks + self.tokens * (self.whole + self.shared / ranks) + _FIXED_BYTES

    def fits(self, ranks: int, gpus: Gpus) -> bool:
        """Whether so many GPUs hold it together."""
        return self.of_a_rank(ranks) <= _USABLE * gpus.memory_bytes


def place(checkpoint: Checkpoint, config: Config, gpus: Gpus | None, *, longest: int = 0) -> Placement:
    """Choose engine and ranks; `longest`: characters of the longest transcript.

    CheckpointError where the engine that was asked for cannot hold this checkpoint.
    """
    scoring, ranks = config.scoring, config.cluster.ranks
    if checkpoint.is_simulator:
        return Placement(EngineName.transformers, 1, "no weights")
    if scoring.engine == EngineName.transformers:
        return Placement(scoring.engine, 1, "asked for")
    if scoring.engine != EngineName.auto:
        return _asked_for(checkpoint, scoring, ranks, gpus, longest)
    if gpus is None:
        where = " (for those of a running cluster: cluster.gpus and cluster.gpu_memory_gb of a node)"
        return Placement(
            EngineName.transformers, 1, "no GPUs" + (where if config.cluster.kind == ClusterKind.existing else "")
        )
    return _fitting(checkpoint, scoring, ranks, gpus, longest)


def _asked_for(
    checkpoint: Checkpoint, scoring: ScoringConfig, ranks: int | None, gpus: Gpus | None, longest: int
) -> Placement:
    reason = _only_transformers(checkpoint)
    if reason:
        raise CheckpointError(f"{checkpoint.card.id}: {reason}, which scoring.engine={scoring.engine} cannot hold")
    if scoring.engine == EngineName.deepspeed_zero:
        return Placement(scoring.engine, ranks or (gpus.per_node if gpus else 1), "asked for")
    config = _config(checkpoint)
    if ranks is None:
        most = gpus.per_node if gpus else 2
        counts = [n for n in _counts(config, most) if n > 1]
        need = _need(checkpoint, config, scoring, longest)
        fitting = [n for n in counts if gpus is None or need.fits(n, gpus)]
        ranks = min(fitting or counts[-1:], default=2)
    if config:
        require_divisible(config, ranks, checkpoint.card.id)
    return Placement(scoring.engine, ranks, "asked for")


def _fitting(checkpoint: Checkpoint, scoring: ScoringConfig, ranks: int | None, gpus: Gpus, longest: int) -> Placement:
    """Take the first that fits: one GPU, some GPUs of a node together, weights beside the GPUs."""
    config = _config(checkpoint)
    need = _need(checkpoint, config, scoring, longest)
    size = f"{need.weights / 1e9:,.1f} GB of weights, {need.tokens:,} tokens at a time,"
    one = f"{gpus.memory_bytes / 1e9:.3g} GB"
    if need.fits(1, gpus):
        return Placement(EngineName.transformers, 1, f"{size} fit one GPU of {one}")
    reason = _only_transformers(checkpoint)
    if reason:
        return Placement(EngineName.transformers, 1, f"{size} may not fit one GPU of {one}, but {reason}")
    most = ranks or gpus.per_node
    counts = [n for n in _counts(config, most) if n == ranks or (ranks is None and n > 1)]
    for n in counts:
        if need.fits(n, gpus):
            fewer = "" if ranks else ", not fewer"
            return Placement(EngineName.deepspeed_tp, n, f"{size} fit {n} GPUs of {one} together{fewer}")
    unfit = f"no number of GPUs of {one} on a node"
    if not counts and most > 1:
        unfit = f"no GPU of {one}, nor can {ranks or f'2 to {most}'} ranks share them"
    return Placement(EngineName.deepspeed_zero, most, f"{size} fit {unfit}; kept in the node's memory")


def _only_transformers(checkpoint: Checkpoint) -> str | None:
    if checkpoint.base_of_adapter:
        return "it is an adapter"
    if checkpoint.card.quantization or _config(checkpoint).get("quantization_config"):
        return "it is quantized"
    return "it comes with modelling code of its own" if checkpoint.card.trust_remote_code else None


def _need(checkpoint: Checkpoint, config: Mapping[str, Any], scoring: ScoringConfig, longest: int) -> _Need:
    text = config.get("text_config") or config
    each = _BYTES[scoring.dtype]
    width = text.get("hidden_size") or 0
    experts = (text.get("moe_intermediate_size") or 0) * (text.get("num_experts_per_tok") or 0)
    inner = max(experts, text.get("intermediate_size") or 0)
    # Of a layer: the stream in and out, what its norm makes, what leaves attention; queries and what they found, and
    # the hidden units' gate, its activation, their values and the product.
    return _Need(
        weights=_weight_bytes(checkpoint, config, scoring),
        tokens=max(PASS_TOKENS, _longest_tokens(text, scoring, longest)),
        whole=4 * width * each,
        shared=(2 * width + 4 * inner) * each,
    )


def _longest_tokens(text: Mapping[str, Any], scoring: ScoringConfig, longest: int) -> int:
    """Tokens of the longest transcript after the cut, about."""
    in_characters = scoring.parity or scoring.cut == CutBy.characters
    cut_at = CUT_CHARACTERS if scoring.parity else scoring.cut_at or CUT_CHARACTERS
    characters = min(longest, cut_at) if in_characters else longest
    context = text.get("max_position_embeddings")
    limits = [characters / _CHARACTERS_A_TOKEN_AT_LEAST, context, None if in_characters else scoring.cut_at]
    return int(min(limit for limit in limits if limit is not None))


def _weight_bytes(checkpoint: Checkpoint, config: Mapping[str, Any], scoring: ScoringConfig) -> float:
    stored = config.get("quantization_config") or {}
    bits = 4 if stored.get("load_in_4bit") or "4bit" in (checkpoint.card.quantization or "") else stored.get("bits")
    if bits is None and (stored or checkpoint.card.quantization):
        bits = 8
    each = _QUANTIZED_BYTES.get(int(bits), 1.1) if bits else _BYTES[scoring.dtype]
    return checkpoint.n_parameters * each


def _counts(config: Mapping[str, Any], most: int) -> list[int]:
    """Rank counts that can share it; powers of two where its configuration is not known yet."""
    return possible_ranks(config, most) if config else [n for n in (1, 2, 4, 8, 16) if n <= most]


def _config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    card = (checkpoint.base_of_adapter or checkpoint).card
    return read_json(Path(card.path) / CONFIG) if card.path else config_of(card)


def _gpus_here() -> list[float]:
    """Memory of each GPU of this machine, bytes."""
    ask = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=30).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return []
    return [float(line) * 2**20 for line in answer.split()]
