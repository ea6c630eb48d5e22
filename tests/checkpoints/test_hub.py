"""Checkpoints of the hub: found in its cache, errors of its client, and what is downloaded. Nothing uses a network."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from psych_ray.checkpoints.find import find_checkpoints
from psych_ray.checkpoints.hub import config_of, fetch, pin
from psych_ray.config import CheckpointCard, CheckpointsConfig, CheckpointSource, Stage
from psych_ray.errors import CheckpointError, FailureKind, UnreachableError, first_line
from psych_ray.scoring.loading import load_scorer

MAIN, TAGGED = "0123456789abcdef0123456789abcdef01234567", "89abcdef0123456789abcdef0123456789abcdef"


@pytest.fixture
def hub_cache(directory, tmp_path, monkeypatch) -> Path:
    """The hub's cache of a machine without network: lab/tiny at a branch and at a tag."""
    import huggingface_hub

    repository = tmp_path / "hub/models--lab--tiny"
    for reference, sha in (("main", MAIN), ("v1.0", TAGGED)):
        shutil.copytree(directory, repository / "snapshots" / sha)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / reference).write_text(sha)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *a, **k: real(*a, **{"cache_dir": str(tmp_path / "hub"), **k})
    )
    return repository


def find_on_hub(**card: Any):
    cards = [CheckpointCard(**card)]
    (found,) = find_checkpoints(CheckpointsConfig(source=CheckpointSource.hub, cards=cards))
    return found


@pytest.mark.parametrize(("revision", "sha"), [(None, MAIN), ("main", MAIN), ("v1.0", TAGGED), (TAGGED, TAGGED)])
def test_a_hub_checkpoint_is_found_in_the_cache_when_there_is_no_network(directory, hub_cache, revision, sha):
    found = find_on_hub(id="lab/tiny", stage=Stage.base, size_b=0.1, revision=revision)
    assert (found.slug, found.fingerprint, found.card.revision) == ("lab--tiny", sha, sha)
    (local,) = find_checkpoints(CheckpointsConfig(source=CheckpointSource.local, paths=[str(directory)]))
    assert found.n_parameters == local.n_parameters
    load_scorer(found)


def test_offline_a_revision_that_is_not_in_the_cache_is_a_permanent_error(hub_cache):
    with pytest.raises(CheckpointError, match=r"^lab/other: .* disabled \(HF_HUB_OFFLINE\) .* revision main;"):
        find_on_hub(id="lab/other")
    with pytest.raises(CheckpointError, match=r"^lab/tiny: .* its cache .* does not have revision v2\.0;") as caught:
        find_on_hub(id="lab/tiny", revision="v2.0")
    assert "\n" not in str(caught.value)
    found = find_on_hub(id="lab/tiny")
    shutil.rmtree(hub_cache / "snapshots" / MAIN)
    with pytest.raises(CheckpointError, match=rf"^lab/tiny: .*HF_HUB_OFFLINE.* does not have revision {MAIN};"):
        load_scorer(found)


def test_a_hub_that_does_not_answer_in_time_falls_back_to_the_cache(hub_cache, monkeypatch):
    import huggingface_hub

    timeouts: list[float] = []

    def no_answer(*_: object, timeout: float | None = None, **__: object) -> None:
        assert timeout is not None
        timeouts.append(timeout)
        raise client.ConnectTimeout("timed out", request=REQUEST)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", no_answer)
    pinned = pin(CheckpointCard(id="lab/tiny", revision="v1.0"))
    assert pinned.revision == TAGGED
    assert pinned.n_parameters
    assert timeouts == [10]


def test_downloads_have_a_timeout(monkeypatch, tmp_path):
    import huggingface_hub

    timeouts: list[float] = []

    def download(*_: object, etag_timeout: float, **__: object) -> str:
        timeouts.append(etag_timeout)
        return str(tmp_path / "config.json")

    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert config_of(CARD) == {"model_type": "llama"}
    fetch_card()
    assert timeouts == [10, 10]


def test_a_cache_with_half_a_checkpoint_is_reported_when_it_is_loaded(hub_cache, shard):
    shard(hub_cache / "snapshots" / MAIN)[0].unlink()
    found = find_on_hub(id="lab/tiny", size_b=0.1)
    assert found.n_parameters == 100_000_000
    with pytest.raises(CheckpointError, match="shards are missing"):
        load_scorer(found)


# --- errors of the hub's client, raised where it would send a request -------------------------------------------------

# httpx or httpx2, by the version of huggingface_hub
client: Any = importlib.import_module(HfHubHTTPError.__bases__[0].__module__.partition(".")[0])
REQUEST = client.Request("GET", "https://huggingface.co/api/models/lab/tiny")


def answer(status: int, error: type[HfHubHTTPError] = HfHubHTTPError) -> HfHubHTTPError:
    return error(f"\n\n{status} for url: {REQUEST.url}.\nmore", response=client.Response(status, request=REQUEST))


@pytest.fixture
def failing(monkeypatch, tmp_path) -> Callable[[Exception], None]:
    """Raise an exception instead of sending a request; the cache is empty."""
    import huggingface_hub

    def fail(error: Exception) -> None:
        def request(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(client.Client, "send", request)
        if isinstance(error, HfHubHTTPError):  # raised where the client reads the answer
            for method in ("model_info", "repo_info", "list_repo_tree"):
                monkeypatch.setattr(huggingface_hub.HfApi, method, request)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *a, **k: real(*a, **{"cache_dir": str(tmp_path / "empty"), **k})
    )
    return fail


CARD = CheckpointCard(id="lab/tiny", revision="v3")


def fetch_card() -> None:
    fetch(CARD, allow_pickle=False)


def pin_card() -> None:
    pin(CARD)


@pytest.mark.parametrize("attempt", [pin_card, fetch_card])
@pytest.mark.parametrize(
    "error",
    [
        client.ConnectError("[Errno -2] Name or service not known", request=REQUEST),
        client.ConnectTimeout("timed out", request=REQUEST),
        client.ReadTimeout("timed out", request=REQUEST),
        client.RemoteProtocolError("Server disconnected", request=REQUEST),
        client.ProxyError("502 Bad Gateway", request=REQUEST),
        ConnectionResetError("Connection reset by peer"),
        answer(429),
        answer(500),
        answer(503),
        answer(504),
    ],
    ids=lambda error: f"{type(error).__name__}{getattr(getattr(error, 'response', None), 'status_code', '')}",
)
def test_a_hub_that_cannot_be_reached_is_a_transient_error(failing, attempt, error):
    failing(error)
    with pytest.raises(UnreachableError) as caught:
        attempt()
    assert str(caught.value) == (
        f"lab/tiny: the hub cannot be reached ({first_line(error)}) and its cache on this machine does not have "
        "revision v3; try again later, or name a copy with checkpoints=local checkpoints.paths=[DIR]"
    )
    assert caught.value.kind is FailureKind.unreachable


def test_an_interrupted_transfer_is_a_transient_error(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import XetDownloadError

    def download(*_: object, **__: object) -> None:
        raise XetDownloadError("connection closed")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UnreachableError, match="connection closed"):
        fetch_card()


@pytest.mark.parametrize("attempt", [pin_card, fetch_card])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (answer(403, GatedRepoError), "the hub gives it only .*, and set HF_TOKEN"),
        (answer(404, RepositoryNotFoundError), "no such checkpoint, or it is private"),
        (answer(404, RevisionNotFoundError), "no revision v3 of it"),
        (answer(401), "cannot be fetched from the hub"),
        (answer(403), "cannot be fetched from the hub"),
        (OSError(28, "No space left on device"), "cannot be fetched .*No space left"),
        (ValueError("Repo id must be in the form"), "cannot be fetched .*Repo id"),
    ],
    ids=lambda value: f"{type(value).__name__}{getattr(getattr(value, 'response', None), 'status_code', '')}",
)
def test_what_the_hub_does_not_have_or_denies_is_a_permanent_error(failing, attempt, error, message):
    failing(error)
    with pytest.raises(CheckpointError, match=rf"^lab/tiny: .*{message}") as caught:
        attempt()
    assert "\n" not in str(caught.value)
    assert caught.value.kind is FailureKind.checkpoint


def test_an_adapter_whose_base_cannot_be_fetched_now_is_a_transient_error(failing, tmp_path):
    failing(client.ConnectError("no route", request=REQUEST))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text('{"base_model_name_or_path": "lab/base"}')
    config = CheckpointsConfig(source=CheckpointSource.local, paths=[str(tmp_path / "adapter")])
    with pytest.raises(
        UnreachableError, match=r"^adapter: it is an adapter on lab/base, .* cannot be reached \(no route\)"
    ):
        find_checkpoints(config)


@pytest.mark.parametrize("asked", [{}, {"allow_pickle": True}, {"trust_remote_code": True}])
def test_neither_pickles_nor_code_are_fetched_unasked(directory, monkeypatch, asked):
    import huggingface_hub

    fetched: dict[str, Any] = {}

    def download(_: str, **options: Any) -> str:
        fetched.update(options)
        return str(directory)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    info = SimpleNamespace(sha=MAIN, safetensors=SimpleNamespace(total=12))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: info)
    trust = asked.get("trust_remote_code", False)
    found = find_on_hub(id="lab/tiny", trust_remote_code=trust)
    assert (found.card.revision, found.n_parameters) == (MAIN, 12)
    load_scorer(found, allow_pickle=asked.get("allow_pickle", False))
    assert fetched["revision"] == MAIN
    assert ("*.bin" in fetched["allow_patterns"]) == ("allow_pickle" in asked)
    assert ("*.py" in fetched["allow_patterns"]) == trust


SHA = "0123456789abcdef0123456789abcdef01234567"
CONTENT = b"x" * 30_000_000
"""Several of the pieces in which files are downloaded."""


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as one file needs."""

    def do_HEAD(self) -> None:
        self.answer(CONTENT)

    def do_GET(self) -> None:
        if self.path.startswith("/api/"):
            file = {"type": "file", "path": "model.safetensors", "size": len(CONTENT), "oid": SHA}
            info = {"id": "lab/tiny", "sha": SHA, "siblings": [{"rfilename": file["path"]}]}
            self.answer(json.dumps([file] if "/tree/" in self.path else info).encode())
        else:
            self.answer(CONTENT)

    def answer(self, content: bytes) -> None:
        self.send_response(200)
        for name, value in {"ETag": f'"{SHA}"', "X-Repo-Commit": SHA, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def test_a_download_shows_progress(monkeypatch, tmp_path):
    import huggingface_hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    endpoint = f"http://127.0.0.1:{server.server_port}"
    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download",
        lambda *a, **k: real(*a, cache_dir=tmp_path, endpoint=endpoint, **k),
    )  # fmt: skip
    steps = []
    try:
        found = fetch(CheckpointCard(id="lab/tiny", revision=SHA), allow_pickle=False, on_bytes=lambda: steps.append(1))
    finally:
        server.shutdown()
        server.server_close()
    assert (found / "model.safetensors").read_bytes() == CONTENT
    assert len(steps) >= 3
