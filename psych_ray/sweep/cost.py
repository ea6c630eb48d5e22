"""What a unit will cost, estimated before anything has run: from characters, parameters and an assumed device.

A forward pass takes about 2 operations per parameter and token (Kaplan et al. 2020). The assumed rates are round
figures for the size of units and the time of a plan; no score depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass

from psych_ray.config import CutBy, ScoringConfig
from psych_ray.transcripts.conditions.authors import CUT_CHARACTERS

CHARACTERS_PER_TOKEN = 3.6
"""Measured over 24 studies of Psych-201 with Qwen3's tokenizer, rounded down."""
CHARACTERS_PER_TOKEN_AT_LEAST = 3.0
"""Below the mean over studies, as the longest transcripts are full of numbers."""
_CPU_CORE_OPERATIONS_PER_S = 6e10
_GPU_OPERATIONS_PER_S = 2e14
_GPU_TOKENS_PER_S_AT_MOST = 200_000
_CPU_TOKENS_PER_S_AT_MOST = 5_000


@dataclass(frozen=True, slots=True)
class Device:
    """What one replica runs on."""

    name: str
    operations_per_s: float
    tokens_per_s_at_most: float
    """Small checkpoints are limited by everything but arithmetic."""

    def tokens_per_s(self, n_parameters: int) -> float:
        """Tokens that a checkpoint of this size reads in a second."""
        return min(self.tokens_per_s_at_most, self.operations_per_s / (2 * max(1, n_parameters)))

    def seconds(self, n_characters: int, n_parameters: int) -> float:
        """Time to score transcripts of so many characters."""
        return n_characters / CHARACTERS_PER_TOKEN / self.tokens_per_s(n_parameters)


def replica_device(*, ranks: int, cpus: int, gpus: int) -> Device:
    """Device of a replica of so many ranks, each with `cpus` CPU cores and `gpus` GPUs (0 or 1).

    Assumes that ranks share the arithmetic evenly, and nothing else.
    """
    if gpus:
        name = "GPU" if ranks == 1 else f"{ranks} GPUs"
        return Device(name, ranks * _GPU_OPERATIONS_PER_S, _GPU_TOKENS_PER_S_AT_MOST)
    cores = ranks * cpus
    name = "CPU core" if cores == 1 else f"{cores} CPU cores"
    return Device(name, cores * _CPU_CORE_OPERATIONS_PER_S, _CPU_TOKENS_PER_S_AT_MOST)


def characters_read(n_characters: int, scoring: ScoringConfig, context: int | None) -> int:
    """Characters of a transcript that are read, after it was cut; `context` in tokens, None where it is not known."""
    if scoring.parity:
        return min(n_characters, CUT_CHARACTERS)
    in_characters = scoring.cut == CutBy.characters
    limits = [context, None if in_characters else scoring.cut_at]
    most = [int(limit * CHARACTERS_PER_TOKEN) for limit in limits if limit is not None]
    return min([n_characters, *most, *([scoring.cut_at or CUT_CHARACTERS] if in_characters else [])])


def tokens_at_most(n_characters: int, scoring: ScoringConfig, context: int | None) -> int:
    """Tokens of a transcript after it was cut, rather too many than too few: memory is planned by them."""
    in_characters = scoring.parity or scoring.cut == CutBy.characters
    cut_at = CUT_CHARACTERS if scoring.parity else scoring.cut_at or CUT_CHARACTERS
    characters = min(n_characters, cut_at) if in_characters else n_characters
    limits = [characters / CHARACTERS_PER_TOKEN_AT_LEAST, context, None if in_characters else scoring.cut_at]
    return int(min(limit for limit in limits if limit is not None))
