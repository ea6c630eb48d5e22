"""What the hub's model card of a checkpoint says: its bases, how it was made from them, and tags.

From the hub's answer, or from README.md and adapter_config.json in the hub's cache on this machine. Sends no request
and does not import torch. Nothing in a model card allows anything: it only describes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psych_ray.checkpoints.cards import ADAPTER_CONFIG, CONFIG, read_json
from psych_ray.errors import CheckpointError

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

QUANTIZED = "quantized"
ADAPTER = "adapter"
_README = "README.md"
_TAG = "base_model:"
_CONVERSATIONAL = "conversational"
_RELATIONS = (ADAPTER, "finetune", "merge", QUANTIZED)
_MAX_README_BYTES = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCardFacts:
    """What a model card says."""

    bases: tuple[str, ...] = ()
    """Ids; more than one of a merge."""
    relation: str | None = None
    """How it was made from them: adapter, finetune, merge or quantized; None: not said."""
    is_conversational: bool = False
    """It has a chat template, by the hub's tag."""
    is_adapter: bool = False
    model_type: str | None = None

    @property
    def base(self) -> str | None:
        """Its only base."""
        return self.bases[0] if len(self.bases) == 1 else None


def facts_of_info(info: ModelInfo) -> ModelCardFacts:
    """Read the hub's answer."""
    data = _mapping(getattr(info, "card_data", None))
    tags = [tag for tag in getattr(info, "tags", None) or () if isinstance(tag, str)]
    config = _mapping(getattr(info, "config", None))
    in_adapter = _mapping(config.get("peft")).get("base_model_name_or_path")
    names = [getattr(file, "rfilename", "") for file in getattr(info, "siblings", None) or ()]
    is_adapter = ADAPTER_CONFIG in names and CONFIG not in names
    tagged = [tag.removeprefix(_TAG) for tag in tags if tag.startswith(_TAG)]
    return ModelCardFacts(
        bases=_ids(data.get("base_model")) or _ids(one for one in tagged if ":" not in one) or _ids(in_adapter),
        relation=_relation(data.get("base_model_relation"), [one.partition(":")[0] for one in tagged if ":" in one]),
        is_conversational=_CONVERSATIONAL in tags,
        is_adapter=is_adapter,
        model_type=_name(config.get("model_type")),
    )


def facts_of_snapshot(directory: Path) -> ModelCardFacts:
    """Read what a snapshot in the hub's cache has of it."""
    data = _readme(directory / _README)
    is_adapter = (directory / ADAPTER_CONFIG).is_file() and not (directory / CONFIG).is_file()
    in_adapter = _json(directory / ADAPTER_CONFIG).get("base_model_name_or_path") if is_adapter else None
    tokenizer = _json(directory / "tokenizer_config.json")
    has_template = "chat_template" in tokenizer or (directory / "chat_template.jinja").is_file()
    return ModelCardFacts(
        bases=_ids(data.get("base_model")) or _ids(in_adapter),
        relation=_relation(data.get("base_model_relation"), [ADAPTER] if is_adapter else []),
        is_conversational=has_template,
        is_adapter=is_adapter,
        model_type=_name(_json(directory / CONFIG).get("model_type")),
    )


def _readme(path: Path) -> Mapping[str, Any]:
    """The metadata at the head of a README.md; empty where there are none that can be read."""
    from huggingface_hub import ModelCard

    try:
        if path.stat().st_size > _MAX_README_BYTES:
            return {}
        return _mapping(ModelCard.load(path, ignore_metadata_errors=True).data)
    except Exception:  # noqa: BLE001  a file that anybody wrote, which only describes; YAML has errors of many kinds
        return {}


def _json(path: Path) -> Mapping[str, Any]:
    try:
        return read_json(path)
    except CheckpointError:
        return {}


def _mapping(value: object) -> Mapping[str, Any]:
    """A mapping of what the hub's client returns as one, or as its CardData; empty for anything else."""
    if isinstance(value, Mapping):
        return value
    as_dict = getattr(value, "to_dict", None)
    return as_dict() if callable(as_dict) else {}


def _ids(value: object) -> tuple[str, ...]:
    """Hub ids; paths of directories, which cards also name, are none."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, Mapping) or not hasattr(value, "__iter__"):
        return ()
    return tuple(dict.fromkeys(one for one in map(_name, value) if one and not one.startswith(("/", ".", "~"))))


def _name(value: object) -> str | None:
    return value if isinstance(value, str) and value.isprintable() and 0 < len(value) <= 200 else None


def _relation(said: object, tagged: Sequence[str]) -> str | None:
    return next((one for one in (said, *tagged) if isinstance(one, str) and one in _RELATIONS), None)
