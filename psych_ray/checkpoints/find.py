"""Finds the checkpoints of a sweep before anything is loaded. Reads small files only; does not import torch.

Checkpoints that cannot be scored are an error here, before a replica starts: directories without checkpoint, missing
shards, pickled weights that are not allowed, adapters without base.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from psych_ray.checkpoints.cards import ADAPTER_CONFIG, CARD, CONFIG, card_of_directory, read_json
from psych_ray.checkpoints.cards import write_card as write_card
from psych_ray.checkpoints.fingerprints import combined, fingerprint_of_files
from psych_ray.checkpoints.hub import pin
from psych_ray.checkpoints.model_config import read_config
from psych_ray.checkpoints.quantization import require_known
from psych_ray.checkpoints.trust import Trust
from psych_ray.checkpoints.weight_files import ADAPTER, count_parameters, weight_files
from psych_ray.config import CheckpointCard, CheckpointsConfig, CheckpointSource, Reference
from psych_ray.errors import CheckpointError, UnreachableError

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


def simulator_checkpoint() -> Checkpoint:
    """A checkpoint that represents the simulators of the demo transcripts: their noise floor in the tables."""
    card = CheckpointCard(id=SIMULATOR, family="demo", generation="demo")
    return Checkpoint(card=card, slug=SIMULATOR, fingerprint=SIMULATOR, n_parameters=0, reference=SIMULATOR)


def reference_checkpoint(reference: Reference) -> Checkpoint:
    """A checkpoint that represents a reference in the tables: without stage, size or base."""
    name = reference.value
    card = CheckpointCard(id=name, family="reference", generation="reference")
    return Checkpoint(card=card, slug=name, fingerprint=f"{name} {_RULES}", n_parameters=0, reference=name)


def with_references(checkpoints: Sequence[Checkpoint], references: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Both; CheckpointError where a checkpoint has the name of a reference, or names one as its base."""
    both = [*checkpoints, *references]
    _require_different_names(both)
    for checkpoint in checkpoints:
        if any(checkpoint.base_slug == reference.slug for reference in references):
            raise CheckpointError(
                f"{checkpoint.card.id}: its base {checkpoint.card.base} has the name of a reference, which is no base; "
                "correct its card, or omit the reference from checkpoints.references"
            )
    return both


def load_group(checkpoint: Checkpoint) -> str:
    """What a replica holds for this checkpoint: the slug of an adapter's base, or its own; one name for references."""
    return REFERENCES if checkpoint.reference else (checkpoint.base_of_adapter or checkpoint).slug


def find_checkpoints(config: CheckpointsConfig, directories: Sequence[Path] = ()) -> list[Checkpoint]:
    """Find all checkpoints of the configuration (for demo: those in `directories`), in its order.

    The base of an adapter is searched among all of them, also those that `checkpoints.only` excludes. CheckpointError
    where one is not a checkpoint, where two have one name, and where `checkpoints.only` matches none.
    """
    trust = Trust.of(config)
    if config.source == CheckpointSource.hub:
        cards = [replace(card, trust_remote_code=_runs_code(card, trust)) for card in config.cards]
    else:
        cards = [card_of_directory(Path(path).expanduser(), trust) for path in config.paths or directories]
    _require_no_cycle(cards)
    found = [_found(card, cards, trust) for card in cards if _is_selected(card.id, config.only)]
    if not found:
        raise CheckpointError(f"checkpoints.only={config.only}: matches no checkpoint of checkpoints={config.source}")
    _require_different_names(found)
    return found


def slug_of(checkpoint_id: str) -> str:
    """Turn `Qwen/Qwen3-8B-Base` into `Qwen--Qwen3-8B-Base`."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", checkpoint_id.replace("/", "--"))


def _runs_code(card: CheckpointCard, trust: Trust) -> bool:
    return card.trust_remote_code or trust.runs_code_of(Path(card.path) if card.path else card.id)


def _require_no_cycle(cards: Sequence[CheckpointCard]) -> None:
    """Raise CheckpointError where a checkpoint is its own base, directly or through others."""
    base_of = {slug_of(card.id): slug_of(card.base) for card in cards if card.base}
    for start in base_of:
        chain = [start]
        while (base := base_of.get(chain[-1])) is not None and base not in chain:
            chain.append(base)
        if base == start:
            raise CheckpointError(f"{' has the base '.join([*chain, start])}: correct the base in their cards")


def _is_selected(checkpoint_id: str, only: Sequence[str]) -> bool:
    return not only or any(fnmatchcase(checkpoint_id, glob) for glob in only)


def _require_different_names(found: Sequence[Checkpoint]) -> None:
    """Raise CheckpointError for two of one name, including bases that only adapters use."""
    slugs = [checkpoint.slug for checkpoint in found]
    weights = {checkpoint.slug: checkpoint.fingerprint for checkpoint in found}
    bases = [checkpoint.base_of_adapter for checkpoint in found if checkpoint.base_of_adapter]
    duplicates = [slug for slug in slugs if slugs.count(slug) > 1]
    duplicates += [base.slug for base in bases if weights.setdefault(base.slug, base.fingerprint) != base.fingerprint]
    if duplicates:
        raise CheckpointError(
            f"two checkpoints have the name {duplicates[0]}: rename a directory, or give one an id in {CARD}"
        )


def _found(card: CheckpointCard, cards: Sequence[CheckpointCard], trust: Trust) -> Checkpoint:
    if card.adapter:
        return _adapter(card, _base(card, cards, trust), trust)
    return _whole(card, trust)


def _whole(card: CheckpointCard, trust: Trust) -> Checkpoint:
    base_slug = slug_of(card.base) if card.base else None
    if card.path is None:
        pinned = pin(card)
        return Checkpoint(
            card=replace(card, revision=pinned.revision),
            slug=slug_of(card.id),
            fingerprint=combined(pinned.revision, card.quantization),
            n_parameters=pinned.n_parameters or int((card.size_b or 0) * 1e9),
            base_slug=base_slug,
        )
    directory = Path(card.path)
    weights = weight_files(directory, allow_pickle=trust.allow_pickle)
    if not (directory / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{directory}: no tokenizer.json there; responses are found through a fast tokenizer's offsets, and a slow "
            "tokenizer has none"
        )
    config = read_config(directory / CONFIG, code_allowed=card.trust_remote_code)
    quantization = config.get("quantization_config")
    require_known(card, quantization)
    if weights[0].suffix == ".safetensors":
        n_parameters = count_parameters(weights, quantization)
    else:
        stored = config.get("dtype") or config.get("torch_dtype") or "float32"
        n_parameters = sum(file.stat().st_size for file in weights) // (4 if stored == "float32" else 2)
    return Checkpoint(
        card=card,
        slug=slug_of(card.id),
        fingerprint=combined(fingerprint_of_files(directory, weights, code=card.trust_remote_code), card.quantization),
        n_parameters=n_parameters,
        base_slug=base_slug,
    )


def _adapter(card: CheckpointCard, base: Checkpoint, trust: Trust) -> Checkpoint:
    if card.path is None:
        pinned = pin(card)
        card, own, n_parameters = replace(card, revision=pinned.revision), pinned.revision, pinned.n_parameters or 0
    else:
        directory = Path(card.path)
        weights = weight_files(directory, name=ADAPTER, allow_pickle=trust.allow_pickle)
        n_parameters = count_parameters(weights) if weights[0].suffix == ".safetensors" else 0
        own = fingerprint_of_files(directory, weights)
    return Checkpoint(
        card=card,
        slug=slug_of(card.id),
        fingerprint=combined(own, base.fingerprint),
        n_parameters=n_parameters + base.n_parameters,
        base_slug=slug_of(card.base) if card.base else base.slug,
        base_of_adapter=base,
    )


def _base(card: CheckpointCard, cards: Sequence[CheckpointCard], trust: Trust) -> Checkpoint:
    """Find the base of an adapter, as its card or its files name it: in the sweep, on this machine, on the hub."""
    names = [card.base] if card.base else []
    if card.path is not None:
        in_files = read_json(Path(card.path) / ADAPTER_CONFIG).get("base_model_name_or_path")
        if not isinstance(in_files, str | None) or "\0" in (in_files or ""):
            raise CheckpointError(f"{card.path}/{ADAPTER_CONFIG}: base_model_name_or_path must be a name; correct it")
        names += [in_files] if in_files else []
    if not names:
        raise CheckpointError(
            f"{card.id}: it is an adapter, and neither its card nor its files name its base; give its card a base"
        )
    base = _listed_base(card, names, cards) or _base_on_this_machine(card, names, trust)
    if base is not None and base.adapter:
        raise CheckpointError(f"{card.id}: its base {base.id} is an adapter too; merge that one into its own base")
    if base is not None:
        return _whole(base, trust)
    try:
        return _whole(CheckpointCard(id=names[0], trust_remote_code=trust.runs_code_of(names[0])), trust)
    except (CheckpointError, UnreachableError) as error:
        raise type(error)(
            f"{card.id}: it is an adapter on {names[0]}, which is neither one of the checkpoints nor a directory here; "
            f"add it to the checkpoints ({error})"
        ) from error


def _listed_base(card: CheckpointCard, names: Sequence[str], cards: Sequence[CheckpointCard]) -> CheckpointCard | None:
    for name in names:
        for other in cards:
            if other is not card and (other.id == name or (other.path and Path(other.path) == Path(name).resolve())):
                return other
    return None


def _base_on_this_machine(card: CheckpointCard, names: Sequence[str], trust: Trust) -> CheckpointCard | None:
    for name in names:
        for path in (Path(name).expanduser(), Path(card.path or "") / name):
            if (path / CONFIG).is_file() or (path / ADAPTER_CONFIG).is_file():
                return card_of_directory(path, trust)
    return None
