"""What a unit will cost, estimated before anything has run: from characters, parameters and an assumed device.

A forward pass takes about 2 operations a parameter and token (Kaplan et al. 2020). The assumed rates are round figures
for cutting units and telling the time; no score depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass

CHARACTERS_A_TOKEN = 3.6
"""Measured over 24 studies of Psych-201 with Qwen3's tokenizer, rounded down."""


@dataclass(frozen=True, slots=True)
class Device:
    """What one replica runs on."""

    name: str
    operations_per_s: float
    tokens_per_s_at_most: float
    """Small checkpoints are held up by everything but arithmetic."""

    def tokens_per_s(self, n_parameters: int) -> float:
        """Tokens that a checkpoint of this size reads in a second."""
        return min(self.tokens_per_s_at_most, self.operations_per_s / (2 * max(1, n_parameters)))

    def seconds(self, n_characters: int, n_parameters: int) -> float:
        """Time to score transcripts of so many characters."""
        return n_characters / CHARACTERS_A_TOKEN / self.tokens_per_s(n_parameters)


CPU_CORE = Device("CPU core", operations_per_s=6e10, tokens_per_s_at_most=5_000)
GPU = Device("GPU", operations_per_s=2e14, tokens_per_s_at_most=200_000)
