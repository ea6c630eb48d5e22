"""Fetchers on a real local Ray: they tell what lies on a node's disk, and whatever becomes of one, no call fails."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import ray
from support_disk import found, write_checkpoint

from psych_ray.checkpoints.disk import WeightsDisk
from psych_ray.checkpoints.disk_entry import Entry
from psych_ray.checkpoints.find import simulator_checkpoint
from psych_ray.cluster.fetcher import Fetchers
from psych_ray.cluster.session import ray_session
from psych_ray.config import ClusterConfig, EngineName
from psych_ray.results.schema import ScoringIdentity
from psych_ray.sweep.events import WeightsOnDisk
from psych_ray.worker.spec import ReplicaSpec

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SIZE = 1_000_000
IDENTITY = ScoringIdentity(dtype="float32", cut="tokens", cut_at=None, parity=False)


@pytest.fixture(scope="module")
def node():
    with ray_session(ClusterConfig(cpus=1)):
        yield ray.get_runtime_context().get_node_id()


@pytest.fixture
def sources(tmp_path) -> list[Path]:
    return [write_checkpoint(tmp_path / name, SIZE, seed=k) for k, name in enumerate(("one", "two", "three"))]


def specs(sources: list[Path], disk: Path | None) -> dict[str, ReplicaSpec]:
    """With room for two of the checkpoints."""
    limit = None if disk is None else 2.5 * SIZE / 1e9
    more = {"facts": {}, "identity": IDENTITY, "engine": EngineName.auto, "results_root": ""}
    return {
        c.slug: ReplicaSpec(checkpoints=(c,), disk=disk and str(disk), disk_gb=limit, **more)
        for c in (*found(*sources), simulator_checkpoint())
    }


def wait_for(fetchers: Fetchers, n: int) -> list[WeightsOnDisk]:
    """Events until there are `n`, and none more in a while."""
    events: list[WeightsOnDisk] = []
    deadline = time.monotonic() + 60
    while len(events) < n:
        assert time.monotonic() < deadline, events
        time.sleep(0.05)
        events += fetchers.events()
    time.sleep(0.2)
    return [*events, *fetchers.events()]


def until_all_have_answered(fetchers: Fetchers) -> None:
    """Wait for calls that change nothing, of fetchers that are gone among them."""
    deadline = time.monotonic() + 30
    while fetchers._calls:
        assert fetchers.events() == []
        assert time.monotonic() < deadline
        time.sleep(0.05)


def fetcher_processes() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # ended, or ends
            found += [process] if "NodeFetcher" in " ".join(process.cmdline()) else []
    return found


def test_what_lies_on_a_disk_is_told_and_what_is_removed_from_it(node, sources, tmp_path):
    disk = tmp_path / "disk"
    of = specs(sources, disk)
    with WeightsDisk(disk).fetched(of["one"].checkpoints):
        pass
    fetchers = Fetchers(of)
    began = time.monotonic()
    fetchers.look(node)
    assert fetchers.events() == []
    assert time.monotonic() - began < 2, "it waits for nothing"
    assert wait_for(fetchers, 1) == [WeightsOnDisk(node, "one")]
    fetchers.fetch(node, "two")
    assert wait_for(fetchers, 1) == [WeightsOnDisk(node, "two")]
    fetchers.fetch(node, "three")
    assert wait_for(fetchers, 2) == [WeightsOnDisk(node, "one", is_there=False), WeightsOnDisk(node, "three")]
    with WeightsDisk(disk, of["one"].disk_gb).fetched(of["one"].checkpoints):
        pass  # as a replica does
    fetchers.look(node)
    assert wait_for(fetchers, 2) == [WeightsOnDisk(node, "two", is_there=False), WeightsOnDisk(node, "one")]
    assert len(fetcher_processes()) == 1
    fetchers.close()
    deadline = time.monotonic() + 20
    while fetcher_processes():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert fetchers.events() == []


def test_it_looks_while_it_fetches_and_its_death_hurts_nobody(node, sources, tmp_path):
    of = specs(sources, tmp_path / "disk")
    with WeightsDisk(tmp_path / "disk").fetched(of["one"].checkpoints) as fetched:
        one = Path(str(fetched.checkpoints[0].copy))
    shutil.rmtree(one)
    lock = Entry(one.parent, one.name).try_lock(shared=False)  # as of a process that fetches for very long
    assert lock is not None
    with WeightsDisk(tmp_path / "disk").fetched(of["two"].checkpoints):
        pass
    fetchers = Fetchers(of)
    fetchers.fetch(node, "one")
    fetchers.look(node)
    assert wait_for(fetchers, 1) == [WeightsOnDisk(node, "two")]
    (process,) = fetcher_processes()
    process.kill()
    until_all_have_answered(fetchers)
    os.close(lock)
    fetchers.fetch(node, "one")
    assert wait_for(fetchers, 1) == [WeightsOnDisk(node, "one")]
    fetchers.forget(node)
    fetchers.look(node)
    assert wait_for(fetchers, 2) == [WeightsOnDisk(node, "one"), WeightsOnDisk(node, "two")]
    fetchers.close()


def test_what_cannot_be_fetched_is_not_told_and_raises_nothing(node, sources, tmp_path):
    of = specs(sources, tmp_path / "disk")
    (sources[0] / "model-0.safetensors").unlink()
    fetchers = Fetchers(of)
    fetchers.fetch(node, "one")
    fetchers.fetch("a" * len(node), "two")  # a node that is lost
    fetchers.fetch(node, "simulator")
    fetchers.fetch(node, "three")
    assert wait_for(fetchers, 1) == [WeightsOnDisk(node, "three")]
    until_all_have_answered(fetchers)
    fetchers.close()


def test_without_a_disk_nothing_is_started(node, sources):
    fetchers = Fetchers(specs(sources, None))
    fetchers.look(node)
    fetchers.fetch(node, "one")
    assert fetchers.events() == []
    assert fetchers._actors == {}
