"""The checkpoints that the package lists, with their sizes: a plan of them needs no network.

Data, `listed.yaml`. Does not ask the hub, whose values are used where it answers, and does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any

import yaml

from psych_ray.config import CheckpointCard, Stage

_NOT_OF_THE_CARD = ("shape", "context", "parameters", "estimated")
_NOT_OF_THE_CONFIG = ("parameters", "source", "estimated")


@dataclass(frozen=True, kw_only=True)
class ListedSizes:
    """Sizes of a listed checkpoint."""

    n_parameters: int
    """Of the text side; of an adapter, without its base."""
    config: Mapping[str, Any] = field(hash=False)
    """The fields of config.json that are known; empty for an adapter."""
    is_estimated: bool
    """Not all of them were read from the checkpoint's own configuration."""


def listed_ids(globs: Sequence[str]) -> list[str]:
    """Ids that match one of the globs, in the order of the list."""
    return [one for one in _data()["checkpoints"] if any(fnmatchcase(one, glob) for glob in globs)]


@cache
def listed_card(checkpoint_id: str) -> CheckpointCard | None:
    """The card of a listed checkpoint; None for any other."""
    entry = _data()["checkpoints"].get(checkpoint_id)
    if entry is None:
        return None
    card = {name: value for name, value in entry.items() if name not in _NOT_OF_THE_CARD}
    return CheckpointCard(id=checkpoint_id, **card | {"stage": Stage(card["stage"])})


@cache
def listed_sizes(checkpoint_id: str) -> ListedSizes | None:
    """The sizes of a listed checkpoint; None for any other."""
    entry = _data()["checkpoints"].get(checkpoint_id)
    if entry is None:
        return None
    shape = _data()["shapes"].get(entry.get("shape"), {})
    config = {name: value for name, value in shape.items() if name not in _NOT_OF_THE_CONFIG}
    return ListedSizes(
        n_parameters=entry.get("parameters") or shape["parameters"],
        config=config | {"max_position_embeddings": entry["context"]} if config else {},
        is_estimated=bool(entry.get("estimated") or shape.get("estimated")),
    )


@cache
def _data() -> dict[str, dict[str, Any]]:
    data: dict[str, dict[str, Any]] = yaml.safe_load(
        resources.files("psych_ray.checkpoints").joinpath("listed.yaml").read_text("utf-8")
    )
    return data
