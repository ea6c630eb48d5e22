"""Checkpoints on the model hub: which commit a name means, and its files on this machine.

The driver pins a commit before anything is scheduled; every replica then fetches exactly that commit into the hub's
own cache, or finds it there. With HF_HUB_OFFLINE=1 only the cache is asked. Knows no torch, and fetches no pickles
that were not asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psych_ray.checkpoints.cards import CONFIG, read_json
from psych_ray.checkpoints.weight_files import ADAPTER, MODEL, count_parameters, weight_files
from psych_ray.config import CheckpointCard
from psych_ray.errors import CheckpointError, first_line

_SMALL_FILES = ["*.json", "*.jinja", "*.model", "*.txt"]
# Copies of the weights in other layouts; `*` also matches slashes.
_NOT_WANTED = ["*/*", "consolidated*", "training_args.bin", "optimizer.*", "scheduler.*"]


@dataclass(frozen=True, slots=True)
class Pinned:
    """What a hub id and revision mean right now."""

    revision: str
    """The commit."""
    n_parameters: int | None
    """None: neither the hub nor the cache knows."""


def pin(card: CheckpointCard) -> Pinned:
    """Ask the hub, or where it cannot be reached its local cache, for the commit that `card.revision` names."""
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = huggingface_hub.HfApi().model_info(card.id, revision=card.revision)
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise _refused(card, error) from error
    except Exception as error:  # noqa: BLE001  the client passes on its HTTP library's own errors
        return _pinned_in_cache(card, error)
    assert info.sha is not None
    return Pinned(info.sha, info.safetensors.total if info.safetensors else None)


def config_of(card: CheckpointCard) -> Mapping[str, Any]:
    """Read the config.json of the pinned commit; empty where neither the hub nor the cache gives it."""
    import huggingface_hub

    try:
        return read_json(Path(huggingface_hub.hf_hub_download(card.id, CONFIG, revision=card.revision)))
    except Exception:  # noqa: BLE001  only an estimate is lost; loading will tell what is wrong
        return {}


def fetch(card: CheckpointCard, *, allow_pickle: bool) -> Path:
    """Bring the files of the pinned commit to this machine and return their directory."""
    import huggingface_hub

    wanted = [*_SMALL_FILES, "*.safetensors"]
    wanted += ["*.bin"] if allow_pickle else []
    wanted += ["*.py"] if card.trust_remote_code else []
    try:
        return Path(
            huggingface_hub.snapshot_download(
                card.id, revision=card.revision, allow_patterns=wanted, ignore_patterns=_NOT_WANTED
            )
        )
    except Exception as error:
        raise _refused(card, error) from error


def _pinned_in_cache(card: CheckpointCard, reason: Exception) -> Pinned:
    import huggingface_hub

    try:
        snapshot = Path(huggingface_hub.snapshot_download(card.id, revision=card.revision, local_files_only=True))
    except (OSError, ValueError) as error:
        raise _refused(card, reason) from error
    try:
        files = weight_files(snapshot, name=ADAPTER if card.adapter else MODEL)
        config = {} if card.adapter else read_json(snapshot / CONFIG)
        return Pinned(snapshot.name, count_parameters(files, config.get("quantization_config")))
    except CheckpointError:  # other machines of the cluster may have what this one has not
        return Pinned(snapshot.name, None)


def _refused(card: CheckpointCard, error: Exception) -> CheckpointError:
    """One line that says what the hub's client means, and what can be done about it."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    revision = card.revision or "main"
    if isinstance(error, GatedRepoError):
        what = "the hub gives it only to those who were granted access; ask on its page, and set HF_TOKEN"
    elif isinstance(error, RepositoryNotFoundError):
        what = "the hub has no such checkpoint, or it is private; mend its id, or set HF_TOKEN"
    elif isinstance(error, RevisionNotFoundError):
        what = f"the hub has no revision {revision} of it; mend its card's revision"
    else:
        what = (
            f"the hub cannot be reached ({first_line(error)}) and its cache on this machine lacks revision "
            f"{revision}; fetch it where there is a network, or name a copy with checkpoints=local "
            "checkpoints.paths=[DIR]"
        )
    return CheckpointError(f"{card.id}: {what}")
