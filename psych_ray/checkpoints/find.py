"""Which checkpoints a sweep means, found before anything is loaded. Reads small files only; knows no torch.

Whatever cannot be swept is refused here, with one line, before a replica starts: directories that hold no checkpoint,
shards that are missing, pickles that were not asked for, adapters without a base.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from psych_ray.checkpoints.cards import ADAPTER_CONFIG, CARD, CONFIG, card_of_directory, read_json
from psych_ray.checkpoints.cards import write_card as write_card
from psych_ray.checkpoints.hub import pin
from psych_ray.checkpoints.quantization import require_known
from psych_ray.checkpoints.weight_files import ADAPTER, count_parameters, weight_files
from psych_ray.config import CheckpointCard, CheckpointsConfig, CheckpointSource
from psych_ray.errors import CheckpointError, UnreachableError

SIMULATOR = "simulator"
_SAMPLES, _SAMPLE_BYTES = 16, 65_536
_HASHED_WHOLE = (CONFIG, ADAPTER_CONFIG, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was found, and what tells it from any other."""

    card: CheckpointCard
    slug: str
    """The id with every character that a path or a partition would mind replaced."""
    fingerprint: str
    """Changes when the weights, their configuration or their tokenizer do; an adapter's also when its base's does."""
    n_parameters: int
    """Counted in the weights' headers, an adapter's with its base's; from its name for the hub; 0 for the simulator."""
    base_slug: str | None = None
    """The checkpoint that this one is compared with."""
    base_of_adapter: Checkpoint | None = None
    """The weights that this adapter goes on; None: it is no adapter."""

    @property
    def is_simulator(self) -> bool:
        """Not a language model: the noise floor of simulated transcripts."""
        return self.fingerprint == SIMULATOR


def simulator_checkpoint() -> Checkpoint:
    """Stand-in for the simulators of the demo transcripts, so that their noise floor is in the tables too."""
    card = CheckpointCard(id=SIMULATOR, family="demo", generation="demo")
    return Checkpoint(card=card, slug=SIMULATOR, fingerprint=SIMULATOR, n_parameters=0)


def load_group(checkpoint: Checkpoint) -> str:
    """Slug of the weights that a replica must hold to score this checkpoint: an adapter's base, or the checkpoint."""
    return (checkpoint.base_of_adapter or checkpoint).slug


def find_checkpoints(config: CheckpointsConfig, directories: Sequence[Path] = ()) -> list[Checkpoint]:
    """Find all checkpoints of the configuration (for demo: those in `directories`), in its order.

    The base of an adapter is looked for among all of them, kept by `checkpoints.only` or not. Raises CheckpointError
    for what is no checkpoint, for two checkpoints of one name, and where `checkpoints.only` keeps none.
    """
    if config.source == CheckpointSource.hub:
        cards = list(config.cards)
    else:
        cards = [card_of_directory(Path(path).expanduser()) for path in config.paths or directories]
    found = [_found(card, cards, allow_pickle=config.allow_pickle) for card in cards if _wanted(card.id, config.only)]
    if not found:
        raise CheckpointError(f"checkpoints.only={config.only}: matches no checkpoint of checkpoints={config.source}")
    _refuse_namesakes(found)
    return found


def slug_of(checkpoint_id: str) -> str:
    """Turn `Qwen/Qwen3-8B-Base` into `Qwen--Qwen3-8B-Base`."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", checkpoint_id.replace("/", "--"))


def _wanted(checkpoint_id: str, only: Sequence[str]) -> bool:
    return not only or any(fnmatchcase(checkpoint_id, glob) for glob in only)


def _refuse_namesakes(found: Sequence[Checkpoint]) -> None:
    """Raise CheckpointError for two of one name, bases that only adapters need included."""
    slugs = [checkpoint.slug for checkpoint in found]
    weights = {checkpoint.slug: checkpoint.fingerprint for checkpoint in found}
    bases = [checkpoint.base_of_adapter for checkpoint in found if checkpoint.base_of_adapter]
    twice = [slug for slug in slugs if slugs.count(slug) > 1]
    twice += [base.slug for base in bases if weights.setdefault(base.slug, base.fingerprint) != base.fingerprint]
    if twice:
        raise CheckpointError(f"two checkpoints are called {twice[0]}: rename a directory, or give one an id in {CARD}")


def _found(card: CheckpointCard, cards: Sequence[CheckpointCard], *, allow_pickle: bool) -> Checkpoint:
    if card.adapter:
        return _adapter(card, _base(card, cards, allow_pickle=allow_pickle), allow_pickle=allow_pickle)
    return _whole(card, allow_pickle=allow_pickle)


def _whole(card: CheckpointCard, *, allow_pickle: bool) -> Checkpoint:
    base_slug = slug_of(card.base) if card.base else None
    if card.path is None:
        pinned = pin(card)
        return Checkpoint(
            card=replace(card, revision=pinned.revision),
            slug=slug_of(card.id),
            fingerprint=_with(pinned.revision, card.quantization),
            n_parameters=pinned.n_parameters or int((card.size_b or 0) * 1e9),
            base_slug=base_slug,
        )
    directory = Path(card.path)
    weights = weight_files(directory, allow_pickle=allow_pickle)
    if not (directory / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{directory}: no tokenizer.json there; responses are found through a fast tokenizer's offsets, and a slow "
            "tokenizer has none"
        )
    config = read_json(directory / CONFIG)
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
        fingerprint=_with(_fingerprint(directory, weights), card.quantization),
        n_parameters=n_parameters,
        base_slug=base_slug,
    )


def _adapter(card: CheckpointCard, base: Checkpoint, *, allow_pickle: bool) -> Checkpoint:
    if card.path is None:
        pinned = pin(card)
        card, own, n_parameters = replace(card, revision=pinned.revision), pinned.revision, pinned.n_parameters or 0
    else:
        directory = Path(card.path)
        weights = weight_files(directory, name=ADAPTER, allow_pickle=allow_pickle)
        n_parameters = count_parameters(weights) if weights[0].suffix == ".safetensors" else 0
        own = _fingerprint(directory, weights)
    return Checkpoint(
        card=card,
        slug=slug_of(card.id),
        fingerprint=_with(own, base.fingerprint),
        n_parameters=n_parameters + base.n_parameters,
        base_slug=slug_of(card.base) if card.base else base.slug,
        base_of_adapter=base,
    )


def _base(card: CheckpointCard, cards: Sequence[CheckpointCard], *, allow_pickle: bool) -> Checkpoint:
    """Find what an adapter goes on, as its card or its files name it: in the sweep, on this machine, on the hub."""
    names = [card.base] if card.base else []
    if card.path is not None:
        own_word = read_json(Path(card.path) / ADAPTER_CONFIG).get("base_model_name_or_path")
        names += [own_word] if own_word else []
    if not names:
        raise CheckpointError(f"{card.id}: it is an adapter, and nothing says on which base; give its card a base")
    base = _listed_base(card, names, cards) or _base_on_this_machine(card, names)
    if base is not None and base.adapter:
        raise CheckpointError(f"{card.id}: its base {base.id} is itself an adapter; merge that one into its own base")
    if base is not None:
        return _whole(base, allow_pickle=allow_pickle)
    try:
        return _whole(CheckpointCard(id=names[0]), allow_pickle=allow_pickle)
    except (CheckpointError, UnreachableError) as error:
        raise type(error)(
            f"{card.id}: it is an adapter on {names[0]}, which is none of the checkpoints and no directory here; "
            f"add it to them ({error})"
        ) from error


def _listed_base(card: CheckpointCard, names: Sequence[str], cards: Sequence[CheckpointCard]) -> CheckpointCard | None:
    for name in names:
        for other in cards:
            if other is not card and (other.id == name or (other.path and Path(other.path) == Path(name).resolve())):
                return other
    return None


def _base_on_this_machine(card: CheckpointCard, names: Sequence[str]) -> CheckpointCard | None:
    for name in names:
        for path in (Path(name).expanduser(), Path(card.path or "") / name):
            if (path / CONFIG).is_file() or (path / ADAPTER_CONFIG).is_file():
                return card_of_directory(path)
    return None


def _with(fingerprint: str, more: str | None) -> str:
    return f"{fingerprint}+{more}" if more else fingerprint


def _fingerprint(directory: Path, weights: Sequence[Path]) -> str:
    """Hash configuration and tokenizer whole, of the weights their sizes and evenly spaced samples."""
    digest = hashlib.blake2b(digest_size=16)
    for name in _HASHED_WHOLE:
        path = directory / name
        if name != ADAPTER_CONFIG or path.is_file():
            digest.update(f"{name}:".encode() + (path.read_bytes() if path.is_file() else b""))
    for path in weights:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            for k in range(_SAMPLES):
                file.seek(max(0, size - _SAMPLE_BYTES) * k // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
