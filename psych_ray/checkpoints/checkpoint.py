"""A checkpoint that was found, and the references that stand beside checkpoints in the tables. Data only, no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass

from psych_ray.config import CheckpointCard, Reference

SIMULATOR = "simulator"
REFERENCES = "(references)"
"""What one replica holds for all references, in place of weights; no slug has brackets."""
_RULES = 1
"""Changes when a reference gives other numbers than before."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was found, and what identifies it."""

    card: CheckpointCard
    slug: str
    """The id without characters that are special in paths or partitions."""
    fingerprint: str
    """Changes with the weights, their configuration and tokenizer; an adapter's also with its base's fingerprint."""
    n_parameters: int
    """From the weights' headers or the hub, else from the card; an adapter's includes its base; 0 for a reference."""
    base_slug: str | None = None
    """Slug of the checkpoint that this one is compared with."""
    base_of_adapter: Checkpoint | None = None
    """The checkpoint that this adapter modifies; None: not an adapter."""
    copy: str | None = None
    """Directory on this machine's own disk to which its files were fetched; None: they are read where they lie."""
    reference: str | None = None
    """Name of the scorer that scores it without weights; None: it is a language model."""
    assumed: str | None = None
    """Why neither the hub nor its cache has it: a plan can be made with what the package knows of it, no sweep."""


def simulator_checkpoint() -> Checkpoint:
    """A checkpoint that represents the simulators of the demo transcripts: their noise floor in the tables."""
    card = CheckpointCard(id=SIMULATOR, family="demo", generation="demo")
    return Checkpoint(card=card, slug=SIMULATOR, fingerprint=SIMULATOR, n_parameters=0, reference=SIMULATOR)


def reference_checkpoint(reference: Reference) -> Checkpoint:
    """A checkpoint that represents a reference in the tables: without stage, size or base."""
    name = reference.value
    card = CheckpointCard(id=name, family="reference", generation="reference")
    return Checkpoint(card=card, slug=name, fingerprint=f"{name} {_RULES}", n_parameters=0, reference=name)


def load_group(checkpoint: Checkpoint) -> str:
    """What a replica holds for this checkpoint: the slug of an adapter's base, or its own; one name for references."""
    return REFERENCES if checkpoint.reference else (checkpoint.base_of_adapter or checkpoint).slug


def slug_of(checkpoint_id: str) -> str:
    """Turn `Qwen/Qwen3-8B-Base` into `Qwen--Qwen3-8B-Base`."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", checkpoint_id.replace("/", "--"))
