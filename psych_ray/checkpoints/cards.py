"""What a directory says of itself: its card, its configuration, what kind of checkpoint it is. Knows no torch.

A local directory may carry a card, `psych_ray.json` (the fields of `CheckpointCard`); a copy of the hub's cache is
known by the path it has there; any other goes by its name. Nothing here judges whether a checkpoint can be scored.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from psych_ray.config import CheckpointCard, Stage
from psych_ray.errors import CheckpointError, first_line

CARD, CONFIG, ADAPTER_CONFIG = "psych_ray.json", "config.json", "adapter_config.json"
_HUB_SNAPSHOT = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)/snapshots/(?P<revision>[0-9a-f]+)$")


def card_of_directory(path: Path) -> CheckpointCard:
    """Read what a local directory says of itself: its card, its place in a copy of the hub's cache, or its name."""
    where = path.resolve()
    adapter = is_adapter(where)
    if not adapter and not (where / CONFIG).is_file():
        raise CheckpointError(
            f"{path}: no {CONFIG} there, nor an adapter's {ADAPTER_CONFIG}; checkpoints.paths wants directories in the "
            "hub's layout"
        )
    if (where / CARD).is_file():
        return replace(_read_card(where / CARD), path=str(where), adapter=adapter)
    snapshot = _HUB_SNAPSHOT.search(where.as_posix())
    if snapshot:
        hub_id = f"{snapshot['owner']}/{snapshot['name']}"
        return CheckpointCard(id=hub_id, revision=snapshot["revision"], path=str(where), adapter=adapter)
    return CheckpointCard(id=where.name, path=str(where), adapter=adapter)


def write_card(card: CheckpointCard, directory: Path) -> None:
    """Write the card of a checkpoint into its directory; the path stays out."""
    known = {name: value for name, value in asdict(card).items() if name != "path"}
    (directory / CARD).write_text(json.dumps(known, indent=1))


def is_adapter(directory: Path) -> bool:
    """Tell an adapter from whole weights. CheckpointError where both lie in one directory."""
    if not (directory / ADAPTER_CONFIG).is_file():
        return False
    whole = next(
        (f for pattern in ("model*.safetensors*", "pytorch_model*.bin*") for f in directory.glob(pattern)), None
    )
    if whole is not None:
        raise CheckpointError(
            f"{directory}: both an adapter ({ADAPTER_CONFIG}) and whole weights ({whole.name}) are there; which is "
            "meant? Move one into a directory of its own"
        )
    return True


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. CheckpointError where the file is missing or is none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return content


def _read_card(path: Path) -> CheckpointCard:
    try:
        card = CheckpointCard(**json.loads(path.read_text()))
        return replace(card, stage=Stage(card.stage) if card.stage else None)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: not a checkpoint's card: {error}") from error
