"""What a unit will cost, estimated before anything has run: from characters, parameters and an assumed device.

A forward pass takes about 2 operations per parameter and token (Kaplan et al. 2020). The assumed rates are round
figures for the size of units and the time of a plan; no score depends on them. `sweep.rates` replaces them by measured
ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from psych_ray.checkpoints.shape import CheckpointShape
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
_DISK_BYTES_PER_S = 1e9
"""Of weights, from a disk or a shared file system into memory: that of one SATA SSD, or of a tenth of a good NVMe."""
_FETCH_BYTES_PER_S = 3e8
"""Of weights, from the hub or a shared directory to a node's own disk."""
_BYTES_PER_PARAMETER = 2.0
_START_S = 20.0
"""Of the processes of a replica: imports, process group, self-check."""
_REFERENCES_START_S = 2.0
REFERENCE_CHARACTERS_PER_S = 1e6
"""Of the slowest reference, Rescorla-Wagner, where half of the text is of bandits; chance takes 5e7 on one core."""
GPU: Final = "GPU"
_CPU_CORE: Final = "CPU core"
_NAME = re.compile(rf"(?:([1-9]\d{{0,5}}) )?({GPU}|{_CPU_CORE})s?")


@dataclass(frozen=True, slots=True)
class Device:
    """What one replica runs on."""

    name: str
    operations_per_s: float
    tokens_per_s_at_most: float
    """Small checkpoints are limited by everything but arithmetic."""

    @property
    def kind(self) -> str:
        """GPU or CPU core, however many."""
        return GPU if GPU in self.name else _CPU_CORE

    def tokens_per_s(self, n_parameters: int) -> float:
        """Tokens that a checkpoint of this size reads in a second, as is assumed."""
        return min(self.tokens_per_s_at_most, self.operations_per_s / (2 * max(1, n_parameters)))


def replica_device(*, ranks: int, cpus: int, gpus: int) -> Device:
    """Device of a replica of so many ranks, each with `cpus` CPU cores and `gpus` GPUs (0 or 1).

    Assumes that ranks share the arithmetic evenly, and nothing else.
    """
    if gpus:
        name = GPU if ranks == 1 else f"{ranks} {GPU}s"
        return Device(name, ranks * _GPU_OPERATIONS_PER_S, _GPU_TOKENS_PER_S_AT_MOST)
    cores = ranks * cpus
    name = _CPU_CORE if cores == 1 else f"{cores} {_CPU_CORE}s"
    return Device(name, cores * _CPU_CORE_OPERATIONS_PER_S, _CPU_TOKENS_PER_S_AT_MOST)


def device_named(name: str | None) -> Device | None:
    """The device of a name that `replica_device` gave; None for any other."""
    match = _NAME.fullmatch(name or "")
    if match is None:
        return None
    n = int(match[1] or 1)
    return replica_device(ranks=n, cpus=1, gpus=1 if match[2] == GPU else 0)


def load_seconds(shape: CheckpointShape) -> float:
    """Assumed time from the start of a replica's processes until it can score."""
    if not shape.n_parameters:
        return _REFERENCES_START_S
    return _START_S + _stored_bytes(shape) / _DISK_BYTES_PER_S


def fetch_seconds(shape: CheckpointShape) -> float:
    """Assumed time to bring the weights to a node's own disk, where `checkpoints.disk` is set."""
    return _stored_bytes(shape) / _FETCH_BYTES_PER_S


def _stored_bytes(shape: CheckpointShape) -> float:
    return shape.n_parameters * (shape.bits / 8 if shape.bits else _BYTES_PER_PARAMETER)


def most_characters_read(scoring: ScoringConfig, context: int | None) -> int | None:
    """Characters of a transcript at which it is cut; `context` in tokens, None where it is not known. None: no cut."""
    if scoring.parity:
        return CUT_CHARACTERS
    in_characters = scoring.cut == CutBy.characters
    limits = [context, None if in_characters else scoring.cut_at]
    most = [int(limit * CHARACTERS_PER_TOKEN) for limit in limits if limit is not None]
    return min([*most, *([scoring.cut_at or CUT_CHARACTERS] if in_characters else [])], default=None)


def tokens_at_most(n_characters: int, scoring: ScoringConfig, context: int | None) -> int:
    """Tokens of a transcript after it was cut, rather too many than too few: memory is planned by them."""
    in_characters = scoring.parity or scoring.cut == CutBy.characters
    cut_at = CUT_CHARACTERS if scoring.parity else scoring.cut_at or CUT_CHARACTERS
    characters = min(n_characters, cut_at) if in_characters else n_characters
    limits = [characters / CHARACTERS_PER_TOKEN_AT_LEAST, context, None if in_characters else scoring.cut_at]
    return int(min(limit for limit in limits if limit is not None))
