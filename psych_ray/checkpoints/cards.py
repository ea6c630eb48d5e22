"""The card of a local checkpoint: its id, and whether it is an adapter. Does not import torch.

A directory can have a card, `psych_ray.json` (the fields of `CheckpointCard`). Without one, the id of a copy of the
hub's cache follows from its path, and any other id is the directory's name. A card comes with the weights: it describes
them, and allows nothing. Does not check whether a checkpoint can be scored.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from psych_ray.checkpoints.trust import SETTING, Trust
from psych_ray.config import CheckpointCard, Stage
from psych_ray.errors import CheckpointError, first_line

CARD, CONFIG, ADAPTER_CONFIG = "psych_ray.json", "config.json", "adapter_config.json"
_HUB_SNAPSHOT = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)/snapshots/(?P<revision>[0-9a-f]+)$")


def card_of_directory(path: Path, trust: Trust) -> CheckpointCard:
    """Read the card of a local directory, or derive one from its path in a copy of the hub's cache or from its name.

    CheckpointError for a directory without checkpoint, and for a card that is not valid or asks for what only the
    configuration can allow.
    """
    directory = path.resolve()
    adapter = is_adapter(directory)
    if not adapter and not (directory / CONFIG).is_file():
        raise CheckpointError(
            f"{path}: no {CONFIG} there, nor an adapter's {ADAPTER_CONFIG}; checkpoints.paths takes directories in the "
            "hub's layout"
        )
    code = trust.runs_code_of(directory)
    if (directory / CARD).is_file():
        card = _read_card(directory / CARD)
        if card.trust_remote_code and not code:
            raise CheckpointError(
                f"{directory / CARD}: asks for trust_remote_code, which a file that comes with the weights cannot "
                f"allow; remove that line, or, if you trust the code there, set {SETTING}=[{directory}]"
            )
        return replace(card, path=str(directory), adapter=adapter, trust_remote_code=code)
    snapshot = _HUB_SNAPSHOT.search(directory.as_posix())
    revision = snapshot["revision"] if snapshot else None
    name = f"{snapshot['owner']}/{snapshot['name']}" if snapshot else directory.name
    try:
        return CheckpointCard(id=name, revision=revision, path=str(directory), adapter=adapter, trust_remote_code=code)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; rename the directory, or give it a card {CARD}") from error


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
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return content


def _read_card(path: Path) -> CheckpointCard:
    content = read_json(path)
    for name, value in content.items():
        expected = _FIELDS.get(name)
        if expected is None:
            raise CheckpointError(f"{path}: not a checkpoint's card: it has no field {name[:40]!r}; remove it")
        if not _is_of(value, expected):
            raise CheckpointError(f"{path}: not a checkpoint's card: {name} must be {expected}; correct it")
    try:
        if content.get("stage") is not None:
            content["stage"] = Stage(content["stage"])
        return CheckpointCard(**content)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: not a checkpoint's card: {first_line(error)}") from error


_FIELDS = {field.name: str(field.type).replace("Stage", "str") for field in fields(CheckpointCard)}
"""Types of the fields as they are written in JSON."""


def _is_of(value: object, expected: str) -> bool:
    """Whether a value from JSON has the type that an annotation names, for example `str | None`."""
    accepted = expected.split(" | ")
    if isinstance(value, int) and not isinstance(value, bool):
        return "float" in accepted
    return type(value).__name__.replace("NoneType", "None") in accepted
