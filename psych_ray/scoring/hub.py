"""Checkpoints on the model hub: which commit a name means, and its files on this machine.

The driver pins a commit before anything is scheduled; every replica then fetches exactly that commit into the hub's
own cache, or finds it there. With HF_HUB_OFFLINE=1 only the cache is asked.
"""

from __future__ import annotations

from pathlib import Path

from psych_ray.config import CheckpointCard
from psych_ray.errors import CheckpointError

_SMALL_FILES = ["*.json", "*.jinja", "*.model", "*.txt"]


def pinned_revision(card: CheckpointCard) -> str:
    """Ask the hub, or where it cannot be reached its local cache, for the commit that `card.revision` names."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        sha = huggingface_hub.HfApi().model_info(card.id, revision=card.revision).sha
        assert sha is not None
    except HfHubHTTPError as error:
        raise CheckpointError(f"{card.id}: the hub refuses it: {_first_line(error)}") from error
    except Exception as error:  # noqa: BLE001  the client passes on its HTTP library's own errors
        return _cached_snapshot(card, error).name
    return sha


def fetch(card: CheckpointCard, *, allow_pickle: bool) -> Path:
    """Bring the files of the pinned commit to this machine and return their directory."""
    import huggingface_hub

    weights = ["*.safetensors", "*.bin"] if allow_pickle else ["*.safetensors"]
    try:
        return Path(
            huggingface_hub.snapshot_download(
                card.id, revision=card.revision, allow_patterns=[*_SMALL_FILES, *weights], ignore_patterns=["*/*"]
            )
        )
    except Exception as error:
        raise CheckpointError(f"{card.id}: could not be fetched from the hub: {_first_line(error)}") from error


def _cached_snapshot(card: CheckpointCard, reason: Exception) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(card.id, revision=card.revision, local_files_only=True))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{card.id}: the hub cannot be reached ({_first_line(reason)}) and its cache on this machine lacks it; "
            "fetch it where there is a network, or name a copy with checkpoints=local checkpoints.paths=[DIR]"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
