"""Fingerprints of files: of configuration and tokenizer completely, of weights by their size and samples.

They identify a checkpoint in a directory and detect a copy that is not the same. Does not depend on what a checkpoint
is, and reads a few megabytes of any file of weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from psych_ray.checkpoints.cards import ADAPTER_CONFIG, CONFIG

_SAMPLES, _SAMPLE_BYTES = 16, 65_536
_HASHED_COMPLETELY = (CONFIG, ADAPTER_CONFIG, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def fingerprint_of_files(directory: Path, weights: Sequence[Path], *, code: bool = False) -> str:
    """Hash configuration and tokenizer completely, and the weights by size and evenly spaced samples.

    `code`: the modelling code of the directory is run, and hashed like the weights.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in _HASHED_COMPLETELY:
        path = directory / name
        if name != ADAPTER_CONFIG or path.is_file():
            digest.update(f"{name}:".encode() + (path.read_bytes() if path.is_file() else b""))
    for path in [*weights, *(sorted(directory.glob("*.py")) if code else ())]:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            for k in range(_SAMPLES):
                file.seek(max(0, size - _SAMPLE_BYTES) * k // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def combined(fingerprint: str, more: str | None) -> str:
    """A fingerprint that also changes with something else, such as a quantization or the base of an adapter."""
    return f"{fingerprint}+{more}" if more else fingerprint
