"""Checkpoints on the model hub: the commit that a revision names, and its files on this machine.

The driver resolves a revision to a commit before anything is scheduled; every replica then uses exactly that commit,
from the hub's local cache where it is there. With HF_HUB_OFFLINE=1 only the cache is used. Does not import torch, and
downloads neither pickled weights nor code unless that is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psych_ray.checkpoints.cards import CONFIG
from psych_ray.checkpoints.model_cards import ModelCardFacts, facts_of_info, facts_of_snapshot
from psych_ray.checkpoints.model_config import read_config
from psych_ray.checkpoints.weight_files import ADAPTER, MODEL, count_parameters, weight_files
from psych_ray.config import CheckpointCard
from psych_ray.errors import CheckpointError, PsychRayError, UnreachableError, first_line

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
"""What is needed of a checkpoint beside its weights and code: configuration, tokenizer, chat template."""
# Copies of the weights in other layouts; `*` also matches slashes.
_EXCLUDED = ["*/*", "consolidated*", "training_args.bin", "optimizer.*", "scheduler.*"]
_TRANSIENT_STATUS = {408, 425, 429}
_REQUESTS_AT_A_TIME = 8
_TIMEOUT_S = 10.0
"""For one answer of the hub; by default its client waits for metadata without limit."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """What a hub id and revision mean when a sweep is planned."""

    revision: str
    """The commit."""
    n_parameters: int | None
    """None: neither the hub nor the cache gives it."""
    facts: ModelCardFacts = field(default_factory=ModelCardFacts)
    """What its model card says."""


class Hub:
    """The hub during one command: asked once about each id, and no more after it could not be reached."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str | None], ModelInfo | Exception] = {}
        self._lost: Exception | None = None

    @property
    def is_away(self) -> bool:
        """Whether it could not be reached, or is disabled (HF_HUB_OFFLINE)."""
        from huggingface_hub import constants

        return self._lost is not None or constants.HF_HUB_OFFLINE

    def info(self, checkpoint_id: str, revision: str | None) -> ModelInfo:
        """What the hub says of a checkpoint. Raises what its client raises."""
        key = checkpoint_id, revision
        if key not in self._answers:
            self._answers[key] = self._lost or self._ask(checkpoint_id, revision)
        answer = self._answers[key]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def ask_about(self, cards: Sequence[CheckpointCard]) -> None:
        """Ask about all of these at the same time, once the first has an answer."""
        keys = [key for card in cards if (key := (card.id, card.revision)) not in self._answers]
        if len(keys) < 2 or self.is_away:
            return
        self._answers[keys[0]] = self._ask(*keys[0])
        if self._lost is None:
            with ThreadPoolExecutor(_REQUESTS_AT_A_TIME) as pool:
                self._answers |= dict(zip(keys[1:], pool.map(lambda key: self._ask(*key), keys[1:]), strict=True))

    def facts_of(self, checkpoint_id: str) -> ModelCardFacts | None:
        """What the model card of another checkpoint says, as far as the hub or its cache has it."""
        try:
            return facts_of_info(self.info(checkpoint_id, None))
        except Exception:  # noqa: BLE001  it serves proposals only
            snapshot = _snapshot(CheckpointCard(id=checkpoint_id))
            return facts_of_snapshot(snapshot) if isinstance(snapshot, Path) else None

    def _ask(self, checkpoint_id: str, revision: str | None) -> ModelInfo | Exception:
        import huggingface_hub

        try:
            return huggingface_hub.HfApi().model_info(checkpoint_id, revision=revision, timeout=_TIMEOUT_S)
        except Exception as error:  # noqa: BLE001  errors of the client's HTTP library pass through
            if getattr(error, "response", None) is None and any(map(_is_transient, causes(error))):
                self._lost = error
            return error


def pin(card: CheckpointCard, hub: Hub | None = None) -> Pinned:
    """Resolve `card.revision` to a commit, on the hub or, where that fails, in its local cache.

    CheckpointError where id or revision do not exist or access is denied. UnreachableError where the hub cannot be
    reached and the cache does not have the revision.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = (hub or Hub()).info(card.id, card.revision)
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise _hub_error(card, error) from error
    except Exception as error:  # noqa: BLE001  errors of the client's HTTP library pass through
        return _pinned_in_cache(card, error)
    assert info.sha is not None
    if getattr(info, "gated", None):
        _require_access(replace(card, revision=info.sha))
    return Pinned(info.sha, info.safetensors.total if info.safetensors else None, facts_of_info(info))


def _require_access(card: CheckpointCard) -> None:
    """Raise CheckpointError where the hub describes a gated checkpoint but would not give its files."""
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    try:
        huggingface_hub.HfApi().auth_check(card.id)
    except GatedRepoError as error:
        if cached(card, allow_pickle=False) is None:
            raise _hub_error(card, error) from error
    except Exception:  # noqa: BLE001, S110  fetching it raises the error, and is tried again
        pass


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


def _snapshot(card: CheckpointCard) -> Path | Exception:
    """Directory of the revision in the hub's cache on this machine; the error where it is not there."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(card.id, revision=card.revision, local_files_only=True))
    except (OSError, ValueError) as error:
        return error


def _pinned_in_cache(card: CheckpointCard, reason: Exception) -> Pinned:
    snapshot = _snapshot(card)
    if isinstance(snapshot, Exception):
        raise _hub_error(card, reason) from snapshot
    facts = facts_of_snapshot(snapshot)
    is_adapter = card.adapter or facts.is_adapter
    try:
        files = weight_files(snapshot, name=ADAPTER if is_adapter else MODEL)
        config = {} if is_adapter else read_config(snapshot / CONFIG)
        return Pinned(snapshot.name, count_parameters(files, config.get("quantization_config")), facts)
    except CheckpointError:  # the nodes that load it may have the files that are missing here
        return Pinned(snapshot.name, None, facts)


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
