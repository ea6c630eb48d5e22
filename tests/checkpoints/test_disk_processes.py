"""Several processes and one disk: each file once, continued after a kill, and a disk that is full."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import support_disk
from support_disk import content, fetching_process, found, tell, write_checkpoint

from psych_ray.checkpoints import copying
from psych_ray.checkpoints.disk import WeightsDisk
from psych_ray.checkpoints.disk_entry import entries

READ = {"config.json", "model-0.safetensors", "model.safetensors.index.json", "tokenizer.json"}
SIZE = 3_000_000


@pytest.fixture
def source(tmp_path) -> Path:
    return write_checkpoint(tmp_path / "shared/one", SIZE)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def until_some_bytes_are_there(disk: WeightsDisk, least: int) -> None:
    deadline = time.monotonic() + 20
    while sum(entry.present_bytes for entry in entries(disk._root)) < least:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_processes_that_fetch_the_same_copy_each_file_once(source, tmp_path):
    log, disk = tmp_path / "log", WeightsDisk(tmp_path / "disk")
    processes = [fetching_process(source, tmp_path / "disk", log=log, pause=0.02) for _ in range(2)]
    for process in processes:
        tell(process)
    until_some_bytes_are_there(disk, 200_000)
    steps: list[float] = []
    with disk.fetched(found(source), on_bytes=lambda: steps.append(time.monotonic())) as fetched:
        copy = fetched.checkpoints[0].copy
        assert {first_line(process) for process in processes} == {copy}
        assert copy is not None
        assert content(Path(copy)) == {name: data for name, data in content(source).items() if name in READ}
    for process in processes:
        process.communicate("\n", timeout=20)
        assert process.returncode == 0
    assert sorted(log.read_text().split()) == sorted(READ)
    assert len(steps) >= 2, "what another process fetches is progress, too"


def test_a_killed_process_is_continued_by_another(source, tmp_path, monkeypatch):
    disk = WeightsDisk(tmp_path / "disk")
    with fetching_process(source, tmp_path / "disk", log=tmp_path / "log", pause=0.1) as process:
        tell(process)
        until_some_bytes_are_there(disk, 800_000)
        assert not disk.holds(found(source))
        process.kill()
    (entry,) = entries(disk._root)
    there = (entry.files / "model-0.safetensors").stat().st_size
    assert 0 < there < SIZE
    monkeypatch.setattr(copying, "_CHUNK_BYTES", 10_000)
    chunks: list[int] = []
    with disk.fetched(found(source), on_bytes=lambda: chunks.append(10_000)) as fetched:
        copy = fetched.checkpoints[0].copy
    assert copy == str(entry.files)
    assert content(Path(copy)) == {name: data for name, data in content(source).items() if name in READ}
    assert sum(chunks) < SIZE - there + 100_000, "only the rest was read"


def test_what_a_killed_process_began_goes_where_there_is_no_room_for_the_rest(source, tmp_path):
    with fetching_process(source, tmp_path / "disk", log=tmp_path / "log", pause=0.1) as process:
        tell(process)
        until_some_bytes_are_there(WeightsDisk(tmp_path / "disk"), 800_000)
        process.kill()
    disk = WeightsDisk(tmp_path / "disk", 0.5 * SIZE / 1e9)
    with disk.fetched(found(source)) as fetched:
        assert fetched.notes
    assert entries(disk._root) == []
    assert not list(disk._root.rglob("model*"))


def test_a_killed_process_uses_nothing_any_more(source, tmp_path):
    other = write_checkpoint(tmp_path / "other", SIZE, seed=3)
    disk = WeightsDisk(tmp_path / "disk", 1.5 * SIZE / 1e9)
    with fetching_process(source, tmp_path / "disk", log=tmp_path / "log", limit=1.5 * SIZE / 1e9) as process:
        tell(process)
        assert first_line(process)
        with disk.fetched(found(other)) as fetched:
            assert fetched.notes
        process.kill()
    with disk.fetched(found(other)) as fetched:
        assert not fetched.notes
    assert not disk.holds(found(source))


_ON_A_SMALL_DISK = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from support_disk import found
from psych_ray.checkpoints import copying
from psych_ray.checkpoints.disk import WeightsDisk

copying._CHUNK_BYTES = 100_000
disk = WeightsDisk({disk!r})
filler = Path({disk!r}) / "filler"

def somebody_fills_the_disk():
    with filler.open("ab") as file:
        file.write(bytes(1_000_000))

for name, on_bytes in (("too large", lambda: None), ("filled meanwhile", somebody_fills_the_disk)):
    checkpoints = found(Path({large!r} if name == "too large" else {source!r}))
    with disk.fetched(checkpoints, on_bytes=on_bytes) as fetched:
        assert fetched.checkpoints == tuple(checkpoints), name
        print(*fetched.notes, sep="\\n")
    left = [p for p in disk._root.rglob("*") if p.is_file() and p.stat().st_size]
    assert not left, left
filler.unlink()
with disk.fetched(found(Path({source!r}))) as fetched:
    assert not fetched.notes
"""


def test_a_full_disk_is_one_line_and_leaves_nothing_half_made(source, tmp_path):
    mounted = tmp_path / "disk"
    mounted.mkdir()
    mount = ["unshare", "--mount", "--map-root-user", "sh", "-c", 'mount -t tmpfs -o size=8m none "$0" && exec "$@"']
    if subprocess.run([*mount, mounted, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a file system of a few megabytes cannot be mounted here")
    large = write_checkpoint(tmp_path / "large", 9_000_000)
    code = _ON_A_SMALL_DISK.format(
        here=str(Path(support_disk.__file__).parent), disk=str(mounted), large=str(large), source=str(source)
    )
    done = subprocess.run(
        [*mount, mounted, sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    too_large, filled = done.stdout.splitlines()
    assert "large: read where it lies" in too_large
    assert too_large.endswith("it has 0.009 GB; of 0.00755 GB there, 0 GB are in use or being fetched")
    assert filled.endswith("No space left on device")
