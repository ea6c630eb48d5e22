"""Checkpoints on a node's own disk, in one process: what is copied, what is removed, what is read where it lies."""

from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from support_disk import content, found, weights, write_adapter, write_checkpoint

from psych_ray.checkpoints import copying
from psych_ray.checkpoints.disk import WeightsDisk
from psych_ray.checkpoints.disk_entry import entries
from psych_ray.checkpoints.find import simulator_checkpoint
from psych_ray.config import CheckpointsConfig
from psych_ray.errors import CheckpointError, FailureKind

READ = {"config.json", "model-0.safetensors", "model-1.safetensors", "model.safetensors.index.json", "tokenizer.json"}


@pytest.fixture
def source(tmp_path) -> Path:
    return write_checkpoint(tmp_path / "shared/one", 300_000, 50_000)


@pytest.fixture
def disk(tmp_path) -> WeightsDisk:
    return WeightsDisk(tmp_path / "disk")


def fetch(disk: WeightsDisk, *directories: Path) -> list[str | None]:
    with disk.fetched(found(*directories)) as fetched:
        assert (not fetched.notes) == all(checkpoint.copy for checkpoint in fetched.checkpoints)
        return [checkpoint.copy for checkpoint in fetched.checkpoints]


def test_a_copy_has_what_loading_reads_and_is_the_same_checkpoint(source, disk):
    (checkpoint,) = found(source)
    assert not disk.holds([checkpoint])
    steps = []
    with disk.fetched([checkpoint], on_bytes=lambda: steps.append(1)) as fetched:
        (local,) = fetched.checkpoints
    assert fetched.notes == ()
    assert local.copy is not None
    assert content(Path(local.copy)) == {name: data for name, data in content(source).items() if name in READ}
    assert len(steps) >= len(READ)
    assert (local.card, local.slug, local.fingerprint) == (checkpoint.card, checkpoint.slug, checkpoint.fingerprint)
    assert found(Path(local.copy))[0].fingerprint == checkpoint.fingerprint
    assert disk.holds([checkpoint])
    assert Path(local.copy).parent.stat().st_mode & 0o077 == 0


def test_a_kernel_that_copies_no_files_makes_the_same_copy(source, disk, monkeypatch):
    def refuses(*_: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(copying.os, "sendfile", refuses)
    monkeypatch.setattr(copying, "_CHUNK_BYTES", 70_000)
    (copy,) = fetch(disk, source)
    assert copy is not None
    assert content(Path(copy)) == {name: data for name, data in content(source).items() if name in READ}


def test_the_simulator_has_no_files(disk):
    with disk.fetched([simulator_checkpoint()]) as fetched:
        assert fetched.checkpoints == (simulator_checkpoint(),)
    assert disk.holds([simulator_checkpoint()])


def test_what_is_there_is_not_read_again(source, disk, monkeypatch):
    copies = fetch(disk, source)
    monkeypatch.setattr(copying, "_copy", None)
    assert fetch(disk, source) == copies


def test_the_base_of_an_adapter_is_fetched_with_it(source, disk, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", source, 2_000)
    with disk.fetched(found(source, adapter)) as fetched:
        base, own = fetched.checkpoints
    assert own.base_of_adapter is not None
    assert own.base_of_adapter.copy == base.copy != own.copy
    assert own.copy is not None
    assert set(content(Path(own.copy))) == {"adapter_config.json", "adapter_model.safetensors"}
    assert disk.holds(found(adapter))


def test_other_files_that_tokenizers_and_own_code_read_are_copied(source, disk, tmp_path):
    for name in ("additional_chat_templates/tools.jinja", "code.py", "more/code.py"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("#")
    listed = {f.name for f in copying.files_of(source, adapter=False, allow_pickle=False, code=True)}
    assert listed == READ | {"additional_chat_templates/tools.jinja", "code.py", "more/code.py"}
    (copy,) = fetch(disk, source)
    assert copy is not None
    assert set(content(Path(copy))) == READ | {"additional_chat_templates/tools.jinja"}


def test_pickles_are_copied_where_they_are_allowed(source, tmp_path):
    for shard in source.glob("model*.safetensors*"):
        shard.unlink()
    (source / "pytorch_model.bin").write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError, match="only pickled weights"):
        copying.files_of(source, adapter=False, allow_pickle=False, code=False)
    listed = {f.name for f in copying.files_of(source, adapter=False, allow_pickle=True, code=False)}
    assert listed == {"config.json", "pytorch_model.bin", "tokenizer.json"}


@pytest.mark.parametrize("seed", range(3))
def test_the_least_recently_used_go_first_as_in_a_plain_list(tmp_path, seed):
    """Against a list of the copies in the order of their last use."""
    rng = random.Random(seed)
    directories = [write_checkpoint(tmp_path / f"m{k}", rng.randrange(1_000, 60_000), seed=k) for k in range(6)]
    sizes = {d: sum(len(data) for name, data in content(d).items() if name in READ) for d in directories}
    limit = int(sum(sizes.values()) * 0.5)
    disk = WeightsDisk(tmp_path / "disk", limit / 1e9)
    expected: list[Path] = []
    for _ in range(25):
        wanted = rng.choice(directories)
        (copy,) = fetch(disk, wanted)
        if sizes[wanted] > limit:
            assert copy is None
            continue
        expected = [*(d for d in expected if d != wanted), wanted]
        while sum(sizes[d] for d in expected) > limit:
            expected.pop(0)
        assert {d.name for d in directories if disk.holds(found(d))} == {d.name for d in expected}
    assert {entry.files.name.rpartition("-")[0] for entry in entries(disk._root)} == {d.name for d in expected}


def test_what_is_in_use_is_not_removed_and_the_next_is_read_where_it_lies(tmp_path):
    one, two = (write_checkpoint(tmp_path / name, 50_000, seed=k) for k, name in enumerate(("one", "two")))
    disk = WeightsDisk(tmp_path / "disk", 80_000 / 1e9)
    with disk.fetched(found(one)) as first:
        with disk.fetched(found(two)) as second:
            assert second.checkpoints == tuple(found(two))
        (note,) = second.notes
        assert disk.holds(found(one))
        assert first.checkpoints[0].copy is not None
    assert note.startswith(f"two: read where it lies, not from checkpoints.disk={tmp_path}/disk on ")
    assert note.endswith("it has 5.02e-05 GB; of 8e-05 GB there, 5.02e-05 GB are in use or being fetched")
    assert fetch(disk, two) != [None]
    assert not disk.holds(found(one))


def test_nothing_is_removed_for_what_never_fits(source, tmp_path):
    small, disk = write_checkpoint(tmp_path / "small", 1_000), WeightsDisk(tmp_path / "disk", 0.0001)
    fetch(disk, small)
    assert fetch(disk, source) == [None]
    assert disk.holds(found(small))


@pytest.mark.parametrize("damage", ["shorter", "longer", "missing", "another byte", "marker"])
def test_a_damaged_copy_is_fetched_again(source, disk, damage):
    (copy,) = fetch(disk, source)
    assert copy is not None
    path = Path(copy) / "model-0.safetensors"
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "marker":
        (marker,) = Path(copy).parent.glob(".state/*.whole")
        marker.write_text(marker.read_text()[:-5])
    else:
        path.write_bytes({"shorter": data[:-1], "longer": data + b"x", "another byte": b"x" + data[1:]}[damage])
    assert disk.holds(found(source)) == (damage == "another byte"), "which only content shows"
    assert fetch(disk, source) == [copy]
    assert path.read_bytes() == data


def test_a_beginning_that_the_disk_did_not_keep_is_not_continued(source, disk, monkeypatch):
    def stops(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(copying, "_copy", stops)
        with pytest.raises(KeyboardInterrupt):
            fetch(disk, source)
    (entry,) = entries(disk._root)
    entry.files.mkdir()
    (entry.files / "model-0.safetensors").write_bytes(bytes(200_000))
    (copy,) = fetch(disk, source)
    assert copy is not None
    assert content(Path(copy))["model-0.safetensors"] == content(source)["model-0.safetensors"]


def test_a_beginning_from_before_the_machine_started_is_not_continued(source, disk, monkeypatch):
    large = write_checkpoint(source.parent / "large", 40_000_000)

    def stops(_: Path, target: Path, *more: object) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((large / target.name).read_bytes()[:30_000_000])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(copying, "_copy", stops)
        with pytest.raises(KeyboardInterrupt):
            fetch(disk, large)
    (entry,) = entries(disk._root)
    with (entry.files / "model-0.safetensors").open("r+b") as file:
        file.seek(1_000_000)
        file.write(bytes(100_000))  # no sample of the fingerprint is of this place
    os.utime(entry.files / "model-0.safetensors", (1e9, 1e9))
    (copy,) = fetch(disk, large)
    assert copy is not None
    assert content(Path(copy))["model-0.safetensors"] == content(large)["model-0.safetensors"]


def test_a_source_that_changes_while_it_is_copied_is_read_where_it_lies(source, disk, monkeypatch):
    large, real = write_checkpoint(source.parent / "large", 40_000_000), copying._copy
    planned = found(large)

    def changes(*args: Any) -> None:
        real(*args)
        with (large / "model-0.safetensors").open("r+b") as file:
            file.seek(1_000_000)
            file.write(b"changed, where no sample of the fingerprint is")

    monkeypatch.setattr(copying, "_copy", changes)
    with disk.fetched(planned) as fetched:
        assert fetched.checkpoints == tuple(planned)
    assert "changed while it was copied" in fetched.notes[0]
    assert entries(disk._root) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give away a link")
def test_a_directory_that_another_user_linked_to_one_of_ours_is_not_used(source, disk, tmp_path):
    ours = tmp_path / "ours"
    ours.mkdir()
    mode = ours.stat().st_mode
    disk._directory.mkdir()
    disk._root.symlink_to(ours)
    os.chown(disk._root, 12345, -1, follow_symlinks=False)
    with disk.fetched(found(source)) as fetched:
        assert fetched.checkpoints == tuple(found(source))
    assert "belongs to another user" in fetched.notes[0]
    assert (list(ours.iterdir()), ours.stat().st_mode) == ([], mode)


def test_a_source_that_changed_has_a_copy_of_its_own_and_not_under_an_old_plan(source, disk):
    planned = found(source)
    (old,) = fetch(disk, source)
    (source / "model-0.safetensors").write_bytes(weights(300_000, seed=5))
    with pytest.raises(CheckpointError, match="no longer those that the sweep was planned with"), disk.fetched(planned):
        pass
    (new,) = fetch(disk, source)
    assert None is not new != old
    assert content(Path(new))["model-0.safetensors"] == weights(300_000, seed=5)


def test_without_a_directory_to_write_to_it_is_read_where_it_lies(source, tmp_path):
    (tmp_path / "file").write_text("")
    with WeightsDisk(tmp_path / "file").fetched(found(source)) as fetched:
        assert fetched.checkpoints == tuple(found(source))
    assert "Not a directory" in fetched.notes[0]


def test_a_source_that_cannot_be_read_is_left_to_loading(source, disk, monkeypatch):
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(copying, "_copy", fails)
    with disk.fetched(found(source)) as fetched:
        assert fetched.checkpoints == tuple(found(source))
    assert "Input/output error" in fetched.notes[0]


def test_a_missing_shard_is_the_error_of_the_checkpoint(source, disk):
    planned = found(source)
    (source / "model-1.safetensors").unlink()
    assert not disk.holds(planned)
    with pytest.raises(CheckpointError, match="1 of 2 shards are missing") as caught, disk.fetched(planned):
        pass
    assert caught.value.kind is FailureKind.checkpoint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"disk": "relative"}, "checkpoints.disk=relative: must be an absolute path"),
        ({"disk": "/d", "disk_gb": 0}, "checkpoints.disk_gb=0: must be above 0"),
        ({"disk_gb": 3}, "checkpoints.disk_gb=3: .* checkpoints.disk be set"),
    ],
    ids=json.dumps,
)
def test_settings_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CheckpointsConfig(**settings)
