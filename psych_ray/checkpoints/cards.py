"""The card of a local checkpoint: its id, and whether it is an adapter. Does not import torch.

A directory can have a card, `psych_ray.json` (the fields of `CheckpointCard`). Without one, the id of a copy of the
hub's cache follows from its path, and any other id is the directory's name. Does not check whether a checkpoint can be
scored.
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
    """Read the card of a local directory, or derive one from its path in a copy of the hub's cache or from its name.

    CheckpointError for a directory without checkpoint, and for a card that is not valid.
    """
    directory = path.resolve()
    adapter = is_adapter(directory)
    if not adapter and not (directory / CONFIG).is_file():
        raise CheckpointError(
            f"{path}: no {CONFIG} there, nor an adapter's {ADAPTER_CONFIG}; checkpoints.paths takes directories in the "
            "hub's layout"
        )
    if (directory / CARD).is_file():
        return replace(_read_card(directory / CARD), path=str(directory), adapter=adapter)
    snapshot = _HUB_SNAPSHOT.search(directory.as_posix())
    if snapshot:
        hub_id = f"{snapshot['owner']}/{snapshot['name']}"
        return CheckpointCard(id=hub_id, revision=snapshot["revision"], path=str(directory), adapter=adapter)
    return CheckpointCard(id=directory.name, path=str(directory), adapter=adapter)


def write_card(card: CheckpointCard, directory: Path) -> None:
    """Write the card of a checkpoint into its directory, without the path."""
    fields = {name: value for name, value in asdict(card).items() if name != "path"}
    (directory / CARD).write_text(json.dumps(fields, indent=1))


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter and not complete weights. CheckpointError where it holds both."""
    if not (directory / ADAPTER_CONFIG).is_file():
        return False
    complete = next(
        (f for pattern in ("model*.safetensors*", "pytorch_model*.bin*") for f in directory.glob(pattern)), None
    )
    if complete is not None:
        raise CheckpointError(
            f"{directory}: both an adapter ({ADAPTER_CONFIG}) and complete weights ({complete.name}) are there; "
            "move one into a directory of its own"
        )
    return True


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. CheckpointError where the file is missing or holds something else."""
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
