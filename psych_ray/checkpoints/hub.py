"""Checkpoints on the model hub: the commit that a revision names, and its files on this machine.

The driver resolves a revision to a commit before anything is scheduled; every replica then uses exactly that commit,
from the hub's local cache where it is there. With HF_HUB_OFFLINE=1 only the cache is used. Does not import torch, and
downloads neither pickled weights nor code unless that is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psych_ray.checkpoints.cards import CONFIG
from psych_ray.checkpoints.model_config import read_config
from psych_ray.checkpoints.weight_files import ADAPTER, MODEL, count_parameters, weight_files
from psych_ray.config import CheckpointCard
from psych_ray.errors import CheckpointError, PsychRayError, UnreachableError, first_line

SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
"""What is needed of a checkpoint beside its weights and code: configuration, tokenizer, chat template."""
# Copies of the weights in other layouts; `*` also matches slashes.
_EXCLUDED = ["*/*", "consolidated*", "training_args.bin", "optimizer.*", "scheduler.*"]
_TRANSIENT_STATUS = {408, 425, 429}
_TIMEOUT_S = 10.0
"""For one answer of the hub; by default its client waits for metadata without limit."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """What a hub id and revision mean when a sweep is planned."""

    revision: str
    """The commit."""
    n_parameters: int | None
    """None: neither the hub nor the cache gives it."""


def pin(card: CheckpointCard) -> Pinned:
    """Resolve `card.revision` to a commit, on the hub or, where that fails, in its local cache.

    CheckpointError where id or revision do not exist or access is denied. UnreachableError where the hub cannot be
    reached and the cache does not have the revision.
    """
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = huggingface_hub.HfApi().model_info(card.id, revision=card.revision, timeout=_TIMEOUT_S)
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise _hub_error(card, error) from error
    except Exception as error:  # noqa: BLE001  errors of the client's HTTP library pass through
        return _pinned_in_cache(card, error)
    assert info.sha is not None
    return Pinned(info.sha, info.safetensors.total if info.safetensors else None)


def config_of(card: CheckpointCard) -> Mapping[str, Any]:
    """Read the config.json of the pinned commit; empty where neither the hub nor the cache gives it."""
    import huggingface_hub

    try:
        path = huggingface_hub.hf_hub_download(card.id, CONFIG, revision=card.revision, etag_timeout=_TIMEOUT_S)
        return read_config(Path(path), code_allowed=card.trust_remote_code)
    except Exception:  # noqa: BLE001  it serves estimates only; loading the checkpoint raises the error
        return {}


def fetch(
    card: CheckpointCard, *, allow_pickle: bool, on_bytes: Callable[[], None] = lambda: None, into: Path | None = None
) -> Path:
    """Download the files of the pinned commit, unless they are in the local cache, and return their directory.

    `into`: a directory that gets them instead of the cache, from the cache where they are there; whole files that a
    killed process left in it are kept. `on_bytes` is called, from several threads, whenever some bytes have come.
    Errors as in `pin`.
    """
    import huggingface_hub
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Bar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            on_bytes()
            shown: bool | None = super().update(n)
            return shown

    try:
        return Path(
            huggingface_hub.snapshot_download(
                card.id,
                revision=card.revision,
                allow_patterns=_patterns(card, allow_pickle=allow_pickle),
                ignore_patterns=_EXCLUDED,
                etag_timeout=_TIMEOUT_S,
                tqdm_class=Bar,
                local_dir=into,
            )
        )
    except Exception as error:
        raise _hub_error(card, error) from error


def size_on_hub(card: CheckpointCard, *, allow_pickle: bool) -> int:
    """Bytes of the files that `fetch` downloads. Errors as in `pin`."""
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    try:
        tree = huggingface_hub.HfApi().list_repo_tree(card.id, recursive=True, revision=card.revision)
        sizes = {file.path: file.size for file in tree if isinstance(file, huggingface_hub.RepoFile)}
    except Exception as error:
        raise _hub_error(card, error) from error
    patterns = _patterns(card, allow_pickle=allow_pickle)
    return sum(sizes[path] for path in filter_repo_objects(sizes, allow_patterns=patterns, ignore_patterns=_EXCLUDED))


def cached(card: CheckpointCard, *, allow_pickle: bool) -> Path | None:
    """Directory of the pinned commit in the cache of the hub on this machine; None where its weights are not there."""
    import huggingface_hub

    try:
        snapshot = Path(
            huggingface_hub.snapshot_download(
                card.id,
                revision=card.revision,
                allow_patterns=_patterns(card, allow_pickle=allow_pickle),
                ignore_patterns=_EXCLUDED,
                local_files_only=True,
            )
        )
        weight_files(snapshot, name=ADAPTER if card.adapter else MODEL, allow_pickle=allow_pickle)
    except (OSError, ValueError, CheckpointError):
        return None
    return snapshot


def _patterns(card: CheckpointCard, *, allow_pickle: bool) -> list[str]:
    return [
        *SMALL_FILES,
        "*.safetensors",
        *(["*.bin"] if allow_pickle else []),
        *(["*.py"] if card.trust_remote_code else []),
    ]


def _pinned_in_cache(card: CheckpointCard, reason: Exception) -> Pinned:
    import huggingface_hub

    try:
        snapshot = Path(huggingface_hub.snapshot_download(card.id, revision=card.revision, local_files_only=True))
    except (OSError, ValueError) as error:
        raise _hub_error(card, reason) from error
    try:
        files = weight_files(snapshot, name=ADAPTER if card.adapter else MODEL)
        config = {} if card.adapter else read_config(snapshot / CONFIG)
        return Pinned(snapshot.name, count_parameters(files, config.get("quantization_config")))
    except CheckpointError:  # the nodes that load it may have the files that are missing here
        return Pinned(snapshot.name, None)


def _hub_error(card: CheckpointCard, error: Exception) -> PsychRayError:
    """The error to raise for one of the hub's client: UnreachableError where a later attempt may succeed."""
    from huggingface_hub.errors import (
        GatedRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    revision = card.revision or "main"
    copy = "name a copy with checkpoints=local checkpoints.paths=[DIR]"
    chain = list(causes(error))
    not_in_cache = f"and its cache on this machine does not have revision {revision}"
    if isinstance(error, GatedRepoError):
        what = "the hub gives it only to those who were granted access; request it on its page, and set HF_TOKEN"
    elif isinstance(error, RepositoryNotFoundError):
        what = "the hub has no such checkpoint, or it is private; correct its id, or set HF_TOKEN"
    elif isinstance(error, RevisionNotFoundError):
        what = f"the hub has no revision {revision} of it; correct its card's revision"
    elif any(isinstance(cause, OfflineModeIsEnabled) for cause in chain):
        what = f"the hub is disabled (HF_HUB_OFFLINE) {not_in_cache}; fetch it where there is a network, or {copy}"
    elif (transient := next(filter(_is_transient, chain), None)) is not None:
        return UnreachableError(
            f"{card.id}: the hub cannot be reached ({first_line(transient)}) {not_in_cache}; try again later, or {copy}"
        )
    else:
        what = f"it cannot be fetched from the hub ({first_line(error)}); check its id, HF_TOKEN and HF_HOME, or {copy}"
    return CheckpointError(f"{card.id}: {what}")


def _is_transient(error: BaseException) -> bool:
    from huggingface_hub.errors import HfHubHTTPError, XetDownloadError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status >= 500 or status in _TRANSIENT_STATUS
    # Of httpx or httpx2, by the version of huggingface_hub: errors without response are those of the connection.
    client_error = HfHubHTTPError.__bases__[0]
    return isinstance(error, (client_error, ConnectionError, TimeoutError, XetDownloadError))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and the chain of its causes; huggingface_hub raises LocalEntryNotFoundError from the actual one."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
