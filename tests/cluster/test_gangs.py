"""Checkpoints held by several ranks on a real local Ray: whatever becomes of a rank, nothing is lost, doubled or left.

GPUs are declared, not there: they are what Ray schedules by. The ranks work on the CPU and meet over gloo.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import psutil
import pyarrow.parquet as pq
import pytest
import ray
from support_sweeps import assert_same, finish, n_parts, processes_of, start, table, wait_for_parts, wait_until_gone

from psych_ray.checkpoints.find import Checkpoint, find_checkpoints
from psych_ray.cluster.gang import Gang
from psych_ray.cluster.session import ray_session
from psych_ray.cluster.shape import local_shape, memory_here, running_shape
from psych_ray.config import (
    CheckpointsConfig,
    CheckpointSource,
    ClusterConfig,
    ClusterKind,
    EngineName,
)
from psych_ray.results.schema import ScoringIdentity
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import open_store
from psych_ray.sweep.cluster_shape import Slots
from psych_ray.worker.spec import LoadReport, ReplicaSpec

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def model(tiny_checkpoint, byte_tokenizer_directory) -> Path:
    made = tiny_checkpoint("Olmo2", byte_tokenizer_directory)
    return made.rename(made.with_name("olmo"))


def sweep(model: Path, root: Path, *more: str) -> list[str]:
    import sys

    return [
        sys.executable, "-m", "psych_ray.cli.main", "sweep", "checkpoints=local", f"checkpoints.paths=[{model}]",
        "transcripts.participants=6", "scoring.unit_seconds=0.2", f"results.root={root}", "tracking=console",
        "checkpoints.references=[]", *more,
    ]  # fmt: skip


GANG = ("scoring.engine=deepspeed_tp", "cluster.ranks=2", "cluster.gpus=2", "scoring.device=cpu")


@pytest.fixture(scope="module")
def alone(model, scratch, tmp_path_factory) -> pl.DataFrame:
    """The table of the one-process engine."""
    root = tmp_path_factory.mktemp("alone")
    code, _, err = finish(start(sweep(model, root), scratch))
    assert code == 0, err
    wait_until_gone(scratch)
    return table(root)


def ranks_of(scratch: Path) -> list[psutil.Process]:
    return [p for p in processes_of(scratch) if "RankProcess" in " ".join(p.cmdline())]


@pytest.mark.timeout(400)
def test_a_gang_scores_as_one_process_and_survives_a_killed_and_a_stalled_rank(alone, model, scratch, tmp_path):
    process = start(sweep(model, tmp_path, *GANG, "cluster.stall_seconds=20"), scratch)
    wait_for_parts(process, tmp_path, 1)
    first = ranks_of(scratch)
    assert len(first) == 2
    first[1].send_signal(signal.SIGKILL)
    before = n_parts(tmp_path)
    wait_for_parts(process, tmp_path, before + 1)
    second = ranks_of(scratch)
    assert len(second) == 2
    assert not {p.pid for p in first} & {p.pid for p in second}, "the rank that lived was not taken down with the other"
    second[0].send_signal(signal.SIGSTOP)
    code, _, err = finish(process, timeout=300)
    assert code == 0, err
    assert err.count("replica of olmo ended while scoring") == 2, err
    assert_same(table(tmp_path), alone)
    assert {footer.engine for footer in Snapshot.read(open_store(str(tmp_path))).footers} == {"deepspeed_tp, 2 ranks"}
    wait_until_gone(scratch)


def test_zero_on_two_ranks_scores_as_one_process_whatever_one_rank_lacks_and_every_rank_refuses(
    alone, model, scratch, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    arguments = ("scoring.engine=deepspeed_zero", "conditions=[refusing:Refusing]", *GANG[1:])
    code, _, err = finish(start(sweep(model, tmp_path, *arguments), scratch))
    (scratch / "greedy").unlink()
    assert code == 3, err
    assert err.count("ended while scoring") == 1
    assert "replica of olmo ended while scoring: rank 1: OutOfMemoryError: CUDA out of memory" in err
    assert "its next gang reads 0.5 of the tokens per pass" in err
    assert "of demo_bandit: this one is not for us" in err
    assert err.count("not scored: ") == 1
    kept = ~((pl.col("study") == "demo_bandit") & (pl.col("participant") == "3"))
    assert_same(table(tmp_path).drop("condition"), alone.filter(kept).drop("condition"))
    assert {footer.engine for footer in Snapshot.read(open_store(str(tmp_path))).footers} == {"deepspeed_zero, 2 ranks"}
    wait_until_gone(scratch)


def test_auto_puts_large_checkpoints_on_gangs_and_small_ones_on_one_gpu_in_one_sweep(
    model, tiny_checkpoint, byte_tokenizer_directory, scratch, tmp_path
):
    shape = {"hidden_size": 128, "intermediate_size": 256, "initializer_range": 0.1}
    made = tiny_checkpoint("Llama", byte_tokenizer_directory, **shape)
    wide = made.rename(made.with_name("wide"))
    both = ("checkpoints=local", f"checkpoints.paths=[{model},{wide}]", "scoring.device=cpu", "cluster.gpus=2")
    # What all need whatever they read, and a little: 16,384 tokens of the wide one take 117 MB, of the other one 29.
    code, _, err = finish(start(sweep(model, tmp_path, *both, "cluster.gpu_memory_gb=1.68"), scratch))
    assert code == 0, err
    assert {(footer.checkpoint.slug, footer.engine) for footer in Snapshot.read(open_store(str(tmp_path))).footers} == {
        ("olmo", "transformers, packed, oneDNN"), ("wide", "deepspeed_tp, 2 ranks")
    }  # fmt: skip
    one_by_one = tmp_path / "one by one"
    code, _, err = finish(start(sweep(model, one_by_one, *both, "scoring.engine=transformers"), scratch))
    assert code == 0, err
    assert_same(table(tmp_path), table(one_by_one))
    wait_until_gone(scratch)


OUT_OF_MEMORY_ONCE = """
import os, sys, threading

class Once:
    # refuses memory to rank 1, once, when it opens the weights that it is to load
    def __call__(self, event, arguments):
        if event != "open" or os.environ.get("RANK") != "1":
            return
        once = os.path.join(os.environ["TMPDIR"], "once")
        if str(arguments[0]).endswith("olmo/model.safetensors") and not os.path.exists(once):
            os.close(os.open(once, os.O_CREAT))
            raise MemoryError("cannot allocate memory")

sys.addaudithook(Once())
"""


def test_running_out_of_memory_while_loading_on_one_rank_of_two_is_resolved_in_seconds(
    alone, model, scratch, tmp_path, monkeypatch
):
    """The other rank waits in a collective, up to stall_seconds=600, if nobody ends it."""
    (tmp_path / "sitecustomize.py").write_text(OUT_OF_MEMORY_ONCE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    root = tmp_path / "root"
    began = time.monotonic()
    code, _, err = finish(start(sweep(model, root, *GANG, "cluster.attempts=2"), scratch))
    seconds = time.monotonic() - began
    (scratch / "once").unlink()
    assert code == 0, err
    assert err.count("olmo ended while loading: rank 1: olmo: out of memory while loading") == 1, err
    assert "its next gang reads 0.5 of the tokens per pass" in err
    assert seconds < 200, "it waited for the time-out of a collective"
    assert_same(table(root), alone)
    wait_until_gone(scratch)


@pytest.fixture
def node(monkeypatch) -> Iterator[None]:
    directory = f"/tmp/pg{os.getpid()}"  # a socket's path must be short
    Path(directory).mkdir()
    monkeypatch.setenv("TMPDIR", directory)
    ray.init(
        num_cpus=4, num_gpus=4, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1",
        object_store_memory=80 * 2**20, _temp_dir=directory,
    )  # fmt: skip
    yield
    ray.shutdown()
    shutil.rmtree(directory)


def spec(checkpoint: Checkpoint, root: Path, *, ranks: int) -> ReplicaSpec:
    return ReplicaSpec(
        checkpoints=(checkpoint,),
        facts={},
        identity=ScoringIdentity(dtype="float32", cut="tokens", cut_at=None, parity=False),
        engine=EngineName.deepspeed_tp,
        device="cpu",
        results_root=str(root),
        threads=1,
        ranks=ranks,
        stall_seconds=60,
    )


def test_nothing_is_left_of_a_gang_whose_rank_died(node, model, tmp_path):
    (checkpoint,) = find_checkpoints(CheckpointsConfig(source=CheckpointSource.local, paths=[str(model)]))
    slots = Slots(ranks=4, cpus=1, gpus=1)
    for moment in ("while they load", "when they are ready"):
        gang = Gang(spec(checkpoint, tmp_path, ranks=2), slots, name="gang")
        loading = gang.load()
        if moment == "when they are ready":
            for values in progress_until(gang, loading):
                assert len(values) > 5, "a rank that loads shows no progress"
            assert all(isinstance(report, LoadReport) for report in ray.get(loading))
        else:
            ray.wait(loading, timeout=3)
        pids = rank_pids()
        assert len(pids) == 2
        os.kill(pids[1], signal.SIGKILL)
        gang.kill()
        deadline = time.monotonic() + 30
        while left := what_is_left(pids):
            assert time.monotonic() < deadline, f"{moment}: {left}"
            time.sleep(0.1)


def progress_until(gang: Gang, references: list) -> list[set[int]]:
    """Ask every rank for its progress until the calls are done: the answers of each."""
    answers: list[set[int]] = [set() for _ in references]
    while len(ray.wait(references, num_returns=len(references), timeout=0)[0]) < len(references):
        for rank, seen in enumerate(answers):
            seen.add(ray.get(gang.progress(rank), timeout=60).work)
    return answers


@pytest.mark.timeout(300)
def test_nothing_is_left_on_a_running_cluster_of_a_sweep_that_was_killed_and_the_next_one_goes_on(
    node, alone, model, scratch, tmp_path
):
    running = ("cluster=existing", f"cluster.address={ray.get_runtime_context().gcs_address}", *GANG[:2], *GANG[3:])
    killed = start(sweep(model, tmp_path, *running), scratch)
    wait_for_parts(killed, tmp_path, 1)
    pids = rank_pids()
    assert len(pids) == 2
    killed.kill()
    finish(killed)
    deadline = time.monotonic() + 30
    while left := what_is_left(pids):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    written = sum(pq.read_metadata(path).num_rows for path in tmp_path.glob("responses/*/*/*.parquet"))
    assert 0 < written < alone.height
    code, _, err = finish(start(sweep(model, tmp_path, *running), scratch))
    assert code == 0, err
    assert_same(table(tmp_path), alone)


def rank_pids() -> list[int]:
    return [
        process.pid
        for process in psutil.Process().children(recursive=True)
        if "RankProcess" in " ".join(process.cmdline() or [""])
    ]


def what_is_left(pids: list[int]) -> list[str]:
    groups = ray.util.placement_group_table().values()
    left = [f"process {pid}" for pid in pids if psutil.pid_exists(pid)]
    left += [f"placement group {group['state']}" for group in groups if group["state"] != "REMOVED"]
    gpus = ray.available_resources().get("GPU", 0)
    return left + ([] if gpus == 4 else [f"{4 - gpus} GPUs held"])


def test_a_gang_that_no_node_can_hold_is_refused_at_once(node, model, scratch, tmp_path):
    address = f"cluster.address={ray.get_runtime_context().gcs_address}"
    arguments = ("cluster=existing", address, "scoring.engine=deepspeed_zero", "cluster.ranks=8", "scoring.device=cpu")
    code, _, err = finish(start(sweep(model, tmp_path, *arguments), scratch))
    assert code == 2, err
    assert "needs 8 ranks of a GPU and 1 CPU core each together, no node holds more than 4" in err
    assert err.count("\n") == 1
    assert n_parts(tmp_path) == 0


def test_a_local_session_has_the_shape_that_was_planned_for(scratch, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    config = ClusterConfig(gpus=3)
    (planned,) = (shape := local_shape(config)).nodes
    with ray_session(config, shape):
        have = ray.cluster_resources()
        assert (have["CPU"], have["GPU"]) == (planned.cpus, 3)


def test_the_shape_of_a_running_cluster_is_read(node):
    (found,) = running_shape(ClusterConfig(kind=ClusterKind.existing)).nodes
    assert (found.cpus, found.gpus, found.gpu_memory_bytes) == (4, 4, 0.0)
    assert found.memory_bytes == memory_here() > 1e9
    (told,) = running_shape(ClusterConfig(kind=ClusterKind.existing, gpu_memory_gb=80, memory_gb=500)).nodes
    assert (told.gpu_memory_bytes, told.memory_bytes) == (80e9, 500e9)
