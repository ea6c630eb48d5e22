"""Which checkpoints a sweep means, found before anything is loaded. Reads small files only; knows no torch.

A local directory may carry a card, `psych_ray.json` (the fields of `CheckpointCard`); a copy of the hub's cache is
known by the path it has there. Whatever cannot be swept is refused here, with one line, before a replica starts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from psych_ray.config import (
    CheckpointCard,
    CheckpointsConfig,
    CheckpointSource,
    EngineName,
    ScoringConfig,
    Stage,
)
from psych_ray.errors import CheckpointError, UnsupportedError
from psych_ray.scoring.hub import pinned_revision

CARD = "psych_ray.json"
_HUB_SNAPSHOT = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)/snapshots/(?P<revision>[0-9a-f]+)$")
_SAMPLES, _SAMPLE_BYTES = 16, 65_536
SIMULATOR = "simulator"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was found, and what tells it from any other."""

    card: CheckpointCard
    slug: str
    """The id with every character that a path or a partition would mind replaced."""
    fingerprint: str
    """Changes when the weights, their configuration or their tokenizer do."""
    n_parameters: int
    """Estimated from the size of the weights; 0 for the simulator."""
    base_slug: str | None = None

    @property
    def is_simulator(self) -> bool:
        """Not a language model: the noise floor of simulated transcripts."""
        return self.fingerprint == SIMULATOR


def simulator_checkpoint() -> Checkpoint:
    """Stand-in for the simulators of the demo transcripts, so that their noise floor is in the tables too."""
    card = CheckpointCard(id=SIMULATOR, family="demo", generation="demo")
    return Checkpoint(card=card, slug=SIMULATOR, fingerprint=SIMULATOR, n_parameters=0)


def find_checkpoints(config: CheckpointsConfig, directories: Sequence[Path] = ()) -> list[Checkpoint]:
    """Find all checkpoints of the configuration (for demo: those in `directories`), in its order.

    Raises CheckpointError for a directory that is not a checkpoint, for two checkpoints of one name, and where
    `checkpoints.only` keeps none.
    """
    if config.source == CheckpointSource.hub:
        cards = [card for card in config.cards if _wanted(card.id, config.only)]
    else:
        paths = [Path(path).expanduser() for path in config.paths] or list(directories)
        cards = [card for card in map(card_of_directory, paths) if _wanted(card.id, config.only)]
    if not cards:
        raise CheckpointError(f"checkpoints.only={config.only}: matches no checkpoint of checkpoints={config.source}")
    found = [_found(card, allow_pickle=config.allow_pickle) for card in cards]
    slugs = [checkpoint.slug for checkpoint in found]
    for slug in slugs:
        if slugs.count(slug) > 1:
            raise CheckpointError(f"two checkpoints are called {slug}: rename a directory, or give one an id in {CARD}")
    return [replace(c, base_slug=slug_of(c.card.base) if c.card.base else None) for c in found]


def require_supported(scoring: ScoringConfig) -> None:
    """Raise UnsupportedError for settings that this version does not carry out."""
    if scoring.engine not in {EngineName.auto, EngineName.transformers}:
        raise UnsupportedError(f"scoring.engine={scoring.engine}: this version has the transformers engine only")
    if scoring.parity:
        raise UnsupportedError("scoring.parity=true: this version does not follow the authors' rules yet; leave it out")


def slug_of(checkpoint_id: str) -> str:
    """Turn `Qwen/Qwen3-8B-Base` into `Qwen--Qwen3-8B-Base`."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", checkpoint_id.replace("/", "--"))


def card_of_directory(path: Path) -> CheckpointCard:
    """Read what a local directory says of itself: its card, its place in a copy of the hub's cache, or its name."""
    where = path.resolve()
    if not (where / "config.json").is_file():
        raise CheckpointError(f"{path}: no config.json there; checkpoints.paths wants directories in the hub's layout")
    if (where / CARD).is_file():
        return replace(_read_card(where / CARD), path=str(where))
    snapshot = _HUB_SNAPSHOT.search(where.as_posix())
    if snapshot:
        hub_id = f"{snapshot['owner']}/{snapshot['name']}"
        return CheckpointCard(id=hub_id, revision=snapshot["revision"], path=str(where))
    return CheckpointCard(id=where.name, path=str(where))


def write_card(card: CheckpointCard, directory: Path) -> None:
    """Write the card of a checkpoint into its directory; the path stays out."""
    known = {name: value for name, value in asdict(card).items() if name != "path"}
    (directory / CARD).write_text(json.dumps(known, indent=1))


def _read_card(path: Path) -> CheckpointCard:
    try:
        card = CheckpointCard(**json.loads(path.read_text()))
        return replace(card, stage=Stage(card.stage) if card.stage else None)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: not a checkpoint's card: {error}") from error


def _wanted(checkpoint_id: str, only: Sequence[str]) -> bool:
    return not only or any(fnmatchcase(checkpoint_id, glob) for glob in only)


def _found(card: CheckpointCard, *, allow_pickle: bool) -> Checkpoint:
    if card.adapter or card.quantization:
        kind = "an adapter" if card.adapter else f"quantized ({card.quantization})"
        raise UnsupportedError(
            f"{card.id}: it is {kind}, which this version does not load; leave it out with checkpoints.only"
        )
    if card.path is None:
        revision = pinned_revision(card)
        pinned, size = replace(card, revision=revision), int((card.size_b or 0) * 1e9)
        return Checkpoint(card=pinned, slug=slug_of(card.id), fingerprint=revision, n_parameters=size)
    directory = Path(card.path)
    weights = sorted(directory.glob("*.safetensors"))
    if not weights and allow_pickle:
        weights = sorted(directory.glob("*.bin"))
    if not weights:
        raise CheckpointError(f"{directory}: no *.safetensors there (checkpoints.allow_pickle=true also takes *.bin)")
    if not (directory / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{directory}: no tokenizer.json there; responses are found through a fast tokenizer's offsets"
        )
    n_bytes = sum(file.stat().st_size for file in weights)
    return Checkpoint(
        card=card,
        slug=slug_of(card.id),
        fingerprint=_fingerprint(directory, weights),
        n_parameters=n_bytes // _bytes_per_parameter(directory),
    )


def _bytes_per_parameter(directory: Path) -> int:
    config = json.loads((directory / "config.json").read_text())
    stored = config.get("dtype") or config.get("torch_dtype") or "float32"
    return 4 if stored == "float32" else 2


def _fingerprint(directory: Path, weights: Sequence[Path]) -> str:
    """Hash configuration and tokenizer whole, of the weights their sizes and evenly spaced samples."""
    digest = hashlib.blake2b(digest_size=16)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        path = directory / name
        digest.update(f"{name}:".encode() + (path.read_bytes() if path.is_file() else b""))
    for path in weights:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            for k in range(_SAMPLES):
                file.seek(max(0, size - _SAMPLE_BYTES) * k // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
