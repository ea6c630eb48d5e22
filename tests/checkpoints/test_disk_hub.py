"""Checkpoints of the hub on a node's own disk, from a hub on loopback that breaks off, and from its cache without."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support_disk import SHA, content, hub_of, write_checkpoint

from psych_ray.checkpoints.disk import WeightsDisk
from psych_ray.checkpoints.disk_entry import entries
from psych_ray.checkpoints.find import Checkpoint
from psych_ray.config import CheckpointCard
from psych_ray.errors import CheckpointError, UnreachableError

READ = {"config.json", "model-0.safetensors", "model-1.safetensors", "model.safetensors.index.json", "tokenizer.json"}
SIZE = 30_000_000
"""Several of the pieces in which the hub's client downloads."""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("hub") / "tiny", SIZE, 1_000)


@pytest.fixture
def hub(files, tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub import constants

    with hub_of(files) as (endpoint, served):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        real, api = huggingface_hub.snapshot_download, huggingface_hub.HfApi
        monkeypatch.setattr(
            huggingface_hub, "snapshot_download",
            lambda *a, **k: real(*a, **{"cache_dir": tmp_path / "cache", "endpoint": endpoint, **k}),
        )  # fmt: skip
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api(endpoint=endpoint))
        yield served


@pytest.fixture
def checkpoint() -> Checkpoint:
    card = CheckpointCard(id="lab/tiny", revision=SHA)
    return Checkpoint(card=card, slug="lab--tiny", fingerprint=SHA, n_parameters=SIZE)


def in_cache(files: Path, tmp_path: Path) -> Path:
    snapshot = tmp_path / "cache/models--lab--tiny/snapshots" / SHA
    return Path(shutil.copytree(files, snapshot))


def test_it_is_downloaded_once_and_not_to_the_cache_of_the_hub(hub, checkpoint, files, tmp_path):
    disk, steps = WeightsDisk(tmp_path / "disk"), []
    with disk.fetched([checkpoint], on_bytes=lambda: steps.append(1)) as fetched:
        (local,) = fetched.checkpoints
    assert local.copy is not None
    assert content(Path(local.copy)) == {name: data for name, data in content(files).items() if name in READ}
    assert sorted(hub.requests) == [(name, 0) for name in sorted(READ)]
    assert len(steps) > len(READ)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    assert (local.fingerprint, local.card) == (SHA, checkpoint.card)
    hub.requests.clear()
    assert disk.holds([checkpoint])
    with disk.fetched([checkpoint]) as fetched:
        assert fetched.checkpoints == (local,)
    assert hub.requests == []


def test_a_download_that_breaks_off_is_continued(hub, checkpoint, files, tmp_path):
    hub.breaks_at.append(12_000_000)
    with WeightsDisk(tmp_path / "disk").fetched([checkpoint]) as fetched:
        copy = fetched.checkpoints[0].copy
    assert copy is not None
    assert content(Path(copy)) == {name: data for name, data in content(files).items() if name in READ}
    first, second = (start for name, start in hub.requests if name == "model-0.safetensors")
    assert first < second <= 12_000_000


def test_after_a_failure_only_the_files_that_are_missing_are_downloaded(hub, checkpoint, files, tmp_path):
    disk = WeightsDisk(tmp_path / "disk")
    hub.refused.add("model-0.safetensors")
    with pytest.raises(UnreachableError, match=r"^lab/tiny: the hub cannot be reached"), disk.fetched([checkpoint]):
        pass
    assert not disk.holds([checkpoint])
    (entry,) = entries(disk._root)
    # What a process that is killed leaves of a file; no other process can continue it.
    unfinished = entry.files / ".cache/huggingface/download/model-0.incomplete"
    unfinished.write_bytes(b"x")
    hub.requests.clear()
    hub.refused.clear()
    seen = []
    with disk.fetched([checkpoint], on_bytes=lambda: seen.append(unfinished.exists())) as fetched:
        assert fetched.checkpoints[0].copy == str(entry.files)
    assert content(entry.files) == {name: data for name, data in content(files).items() if name in READ}
    assert {name for name, _ in hub.requests} < READ
    assert ("model-0.safetensors", 0) in hub.requests
    assert set(seen) == {False}


def test_without_a_network_it_is_copied_from_the_cache_of_the_hub(hub, checkpoint, files, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    disk = WeightsDisk(tmp_path / "disk")
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"), disk.fetched([checkpoint]):
        pass
    in_cache(files, tmp_path)
    with disk.fetched([checkpoint]) as fetched:
        copy = fetched.checkpoints[0].copy
    assert fetched.notes == ()
    assert copy is not None
    assert content(Path(copy)) == {name: data for name, data in content(files).items() if name in READ}
    assert hub.requests == []


def test_one_that_finds_no_room_is_read_in_the_cache_of_the_hub_or_refused(hub, checkpoint, files, tmp_path):
    disk = WeightsDisk(tmp_path / "disk", 0.01)
    line = r"^lab/tiny: checkpoints.disk=.* cannot take it: it has 0\.03 GB, and checkpoints\.disk_gb=0\.01 is less; "
    with pytest.raises(CheckpointError, match=line), disk.fetched([checkpoint]):
        pass
    assert entries(disk._root) == []
    in_cache(files, tmp_path)
    with disk.fetched([checkpoint]) as fetched:
        assert fetched.checkpoints == (checkpoint,)
    assert "lab/tiny: read where it lies" in fetched.notes[0]
    (tmp_path / "file").write_text("")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(UnreachableError, match="Not a directory"), WeightsDisk(tmp_path / "file").fetched([checkpoint]):
        pass
