"""Finds the checkpoints of a sweep before anything is loaded. Reads small files only; does not import torch.

Checkpoints that cannot be scored are an error here, before a replica starts: directories without checkpoint, missing
shards, pickled weights that are not allowed, adapters without base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from psych_ray.checkpoints.cards import ADAPTER_CONFIG, CARD, CONFIG, card_of_directory, read_json
from psych_ray.checkpoints.cards import write_card as write_card
from psych_ray.checkpoints.checkpoint import REFERENCES as REFERENCES
from psych_ray.checkpoints.checkpoint import SIMULATOR as SIMULATOR
from psych_ray.checkpoints.checkpoint import Checkpoint as Checkpoint
from psych_ray.checkpoints.checkpoint import load_group as load_group
from psych_ray.checkpoints.checkpoint import reference_checkpoint as reference_checkpoint
from psych_ray.checkpoints.checkpoint import simulator_checkpoint as simulator_checkpoint
from psych_ray.checkpoints.checkpoint import slug_of as slug_of
from psych_ray.checkpoints.fingerprints import combined, fingerprint_of_files
from psych_ray.checkpoints.hub import Hub, Pinned, pin
from psych_ray.checkpoints.listed import listed_ids, listed_sizes
from psych_ray.checkpoints.model_config import read_config
from psych_ray.checkpoints.quantization import require_known
from psych_ray.checkpoints.trust import Trust
from psych_ray.checkpoints.wanted import Described, describe, wanted_cards
from psych_ray.checkpoints.weight_files import ADAPTER, count_parameters, weight_files
from psych_ray.config import CheckpointCard, CheckpointsConfig, CheckpointSource, Reference
from psych_ray.errors import CheckpointError, UnreachableError


def with_references(checkpoints: Sequence[Checkpoint], references: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Both; CheckpointError where a checkpoint has the name of a reference, or names one as its base.

    Also of those references that are not among them: a report and a later sweep into the same root go by the name.
    """
    both = [*checkpoints, *references]
    reserved = {*Reference, *(reference.slug for reference in references)}
    for checkpoint in checkpoints:
        if checkpoint.slug in reserved:
            raise CheckpointError(
                f"{checkpoint.card.path or checkpoint.card.id}: a checkpoint named {checkpoint.slug} would be taken "
                f"for the reference of that name; rename its directory, or give it another id in {CARD}"
            )
        if checkpoint.base_slug in reserved:
            raise CheckpointError(
                f"{checkpoint.card.id}: its base {checkpoint.card.base} has the name of a reference, which is no base; "
                "correct its card"
            )
    _require_different_names(both)
    return both


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The checkpoints of a configuration, and what of it could not be found."""

    checkpoints: tuple[Checkpoint, ...]
    """In the order of the configuration."""
    missing: dict[str, str]
    """By id, why a checkpoint of the hub is not among them: it is gated, unreachable, or not one."""
    described: tuple[Described, ...]
    """Those of the hub whose description is, at least in part, a proposal."""
    hub_is_away: bool = False
    """The hub could not be reached, or is disabled."""


def find_checkpoints(config: CheckpointsConfig, directories: Sequence[Path] = ()) -> list[Checkpoint]:
    """The checkpoints of `find_all`."""
    return list(find_all(config, directories).checkpoints)


def find_all(config: CheckpointsConfig, directories: Sequence[Path] = (), *, assume: bool = False) -> Found:
    """Find all checkpoints of the configuration (for demo: those in `directories`), in its order.

    The base of an adapter is searched among all of them, also those that `checkpoints.only` excludes. `assume`: where
    the hub cannot be reached, take sizes from the package's list or from the name, which only a plan can use.
    CheckpointError where a directory is not a checkpoint, where two have one name, and where `checkpoints.only` matches
    none; CheckpointError or UnreachableError where no checkpoint of the hub can be found.
    """
    trust = Trust.of(config)
    if config.source == CheckpointSource.hub:
        cards = [replace(card, trust_remote_code=_runs_code(card, trust)) for card in wanted_cards(config)]
    else:
        cards = [card_of_directory(Path(path).expanduser(), trust) for path in config.paths or directories]
    selected = [card for card in cards if _is_selected(card.id, config.only)]
    if not selected:
        raise CheckpointError(f"checkpoints.only={config.only}: matches no checkpoint of checkpoints={config.source}")
    finder = _Finder(trust, cards, assume=assume)
    _require_no_cycle(cards)
    if config.source == CheckpointSource.hub:
        found, missing = _of_hub(selected, finder)
    else:
        found, missing = [finder.found(card) for card in selected], {}
    _require_no_cycle([checkpoint.card for checkpoint in found])
    _require_different_names(found)
    described = [finder.described[card.id] for card in selected if card.id in finder.described]
    return Found(
        checkpoints=tuple(found),
        missing=missing,
        described=tuple(one for one in described if one.is_proposed),
        hub_is_away=finder.hub.is_away,
    )


def _of_hub(cards: Sequence[CheckpointCard], finder: _Finder) -> tuple[list[Checkpoint], dict[str, str]]:
    """Those that can be found, and why the others cannot; the first error where it is all of them."""
    found: list[Checkpoint] = []
    errors: dict[str, CheckpointError | UnreachableError] = {}
    finder.hub.ask_about([card for card in cards if card.path is None])
    for card in cards:
        try:
            found.append(finder.found(card))
        except (CheckpointError, UnreachableError) as error:
            errors[card.id] = error
    if found:
        return found, {name: str(error) for name, error in errors.items()}
    first, *more = errors.values()
    if not more:
        raise first
    raise type(first)(f"none of {len(errors)} checkpoints can be used; the first: {first}") from first


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
            f"two checkpoints have the name {duplicates[0]}: rename a directory, or give one an id in {CARD}; sweep "
            "two revisions of one id into two results.root"
        )


@dataclass(frozen=True)
class _OnHub:
    """A checkpoint of the hub: its whole card, and what the hub, its cache or else the package knows of it."""

    card: CheckpointCard
    pinned: Pinned | None
    n_parameters: int
    """0: not known."""
    assumed: str | None


@dataclass
class _Finder:
    """Finds single checkpoints of one configuration."""

    trust: Trust
    cards: Sequence[CheckpointCard]
    assume: bool
    hub: Hub = field(default_factory=Hub)
    described: dict[str, Described] = field(default_factory=dict)
    """Of the hub's, by id."""

    def found(self, card: CheckpointCard) -> Checkpoint:
        """Find one; errors as `find_all`."""
        on_hub = self._on_hub(card) if card.path is None else None
        card = on_hub.card if on_hub else card
        return self._adapter(card, on_hub) if card.adapter else self._whole(card, on_hub)

    def _on_hub(self, card: CheckpointCard) -> _OnHub:
        pinned = reason = None
        try:
            pinned = pin(card, self.hub)
        except (CheckpointError, UnreachableError) as error:
            if not self.assume or not (self.hub.is_away or isinstance(error, UnreachableError)):
                raise
            reason = error
        known = [*(one.id for one in self.cards), *listed_ids(["*"])]
        self.described[card.id] = described = describe(card, pinned, known, self.hub)
        listed = listed_sizes(card.id)
        n_parameters = (pinned.n_parameters if pinned else None) or (listed.n_parameters if listed else 0)
        if not n_parameters and not described.card.adapter:
            n_parameters = int((described.card.size_b or 0) * 1e9)
        if reason is not None and not n_parameters:
            raise reason
        revision = pinned.revision if pinned else None
        return _OnHub(replace(described.card, revision=revision), pinned, n_parameters, str(reason) if reason else None)

    def _whole(self, card: CheckpointCard, on_hub: _OnHub | None) -> Checkpoint:
        if on_hub is None:
            return _in_directory(card, self.trust)
        return Checkpoint(
            card=on_hub.card,
            slug=slug_of(card.id),
            fingerprint=combined(on_hub.pinned.revision, card.quantization) if on_hub.pinned else "",
            n_parameters=on_hub.n_parameters,
            base_slug=slug_of(card.base) if card.base else None,
            assumed=on_hub.assumed,
        )

    def _adapter(self, card: CheckpointCard, on_hub: _OnHub | None) -> Checkpoint:
        base = self._base(card)
        if on_hub is not None:
            own, n_parameters = on_hub.pinned.revision if on_hub.pinned else "", on_hub.n_parameters
        else:
            directory = Path(card.path or "")
            weights = weight_files(directory, name=ADAPTER, allow_pickle=self.trust.allow_pickle)
            n_parameters = count_parameters(weights) if weights[0].suffix == ".safetensors" else 0
            own = fingerprint_of_files(directory, weights)
        assumed = (on_hub.assumed if on_hub else None) or base.assumed
        return Checkpoint(
            card=card,
            slug=slug_of(card.id),
            fingerprint="" if assumed else combined(own, base.fingerprint),
            n_parameters=n_parameters + base.n_parameters,
            base_slug=slug_of(card.base) if card.base else base.slug,
            base_of_adapter=base,
            assumed=assumed,
        )

    def _base(self, card: CheckpointCard) -> Checkpoint:
        """Find the base of an adapter, as its card or its files name it: in the sweep, on this machine, on the hub."""
        names = [card.base] if card.base else []
        if card.path is not None:
            in_files = read_json(Path(card.path) / ADAPTER_CONFIG).get("base_model_name_or_path")
            if not isinstance(in_files, str | None) or "\0" in (in_files or ""):
                raise CheckpointError(
                    f"{card.path}/{ADAPTER_CONFIG}: base_model_name_or_path must be a name; correct it"
                )
            names += [in_files] if in_files else []
        if not names:
            raise CheckpointError(
                f"{card.id}: it is an adapter, and neither its card nor its files name its base; give its card a base"
            )
        base = _listed_base(card, names, self.cards) or _base_on_this_machine(card, names, self.trust)
        if base is not None:
            return self._base_of(card, base)
        try:
            return self._base_of(card, CheckpointCard(id=names[0], trust_remote_code=self.trust.runs_code_of(names[0])))
        except (CheckpointError, UnreachableError) as error:
            raise type(error)(
                f"{card.id}: it is an adapter on {names[0]}, which is neither one of the checkpoints nor a directory "
                f"here; add it to the checkpoints ({error})"
            ) from error

    def _base_of(self, card: CheckpointCard, base: CheckpointCard) -> Checkpoint:
        on_hub = self._on_hub(base) if base.path is None else None
        base = on_hub.card if on_hub else base
        if base.adapter:
            raise CheckpointError(f"{card.id}: its base {base.id} is an adapter too; merge that one into its own base")
        return self._whole(base, on_hub)


def _in_directory(card: CheckpointCard, trust: Trust) -> Checkpoint:
    directory = Path(card.path or "")
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
        base_slug=slug_of(card.base) if card.base else None,
    )


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
