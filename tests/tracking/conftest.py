"""The events of a sweep made by hand, a clock that the test moves, and a reader of W&B's offline files."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import wandb

from psych_ray.results.schema import CheckpointFacts, ScoringIdentity, Tally
from psych_ray.sweep.unit import UnitReport
from psych_ray.tracking.events import SweepStarted, TaskPlan, UnitCommitted


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Seconds; a test moves it by `clock.now += 1`."""
    return Clock()


@pytest.fixture
def task() -> Callable[..., TaskPlan]:
    def make(
        slug: str = "m", condition: str = "plain", *, units: int = 4, responses: int = 40, committed: int = 0
    ) -> TaskPlan:
        return TaskPlan(
            checkpoint=slug,
            condition=condition,
            units=units,
            responses=responses,
            responses_committed=committed,
            characters=100 * (responses - committed),
        )

    return make


@pytest.fixture
def started() -> Callable[..., SweepStarted]:
    def make(*tasks: TaskPlan, root: str = "outputs/demo", name: str = "demo") -> SweepStarted:
        slugs = {task.checkpoint for task in tasks}
        return SweepStarted(
            name=name,
            results_root=root,
            scoring=ScoringIdentity(dtype="float32", cut="tokens", cut_at=None, parity=False),
            tasks=tasks,
            checkpoints={
                slug: CheckpointFacts(slug=slug, id=f"org/{slug}", fingerprint="f00", family="qwen", size_b=0.5)
                for slug in slugs
            },
        )

    return make


@pytest.fixture
def committed() -> Callable[..., UnitCommitted]:
    def make(
        slug: str = "m",
        condition: str = "plain",
        *,
        unit: str = "u0",
        responses: int = 10,
        tokens: int = 500,
        seconds: float = 1.0,
        **by_study: Tally,
    ) -> UnitCommitted:
        return UnitCommitted(
            UnitReport(
                checkpoint=slug,
                condition=condition,
                unit=unit,
                tokens=tokens,
                responses=responses,
                seconds=seconds,
                by_study=by_study or {"igt": Tally(responses=responses, nll_nats=responses * 0.5, top1=responses // 2)},
            )
        )

    return make


@pytest.fixture
def isolated_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Isolate wandb from this machine's user, and check that it leaves nothing behind."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    yield
    wandb.teardown()
    for left in Path(tempfile.gettempdir()).glob(f"wandb-{os.getpid()}-*"):  # by a service that was killed
        shutil.rmtree(left)
    assert not [thread for thread in threading.enumerate() if thread.name == "psych-ray-wandb"]
    assert "WANDB_SERVICE" not in os.environ


@pytest.fixture
def read_offline_runs() -> Callable[[Path], list[OfflineRun]]:
    """All files of all runs below a directory, in the order in which they were begun."""

    def read_all(directory: Path) -> list[OfflineRun]:
        paths = directory.glob("wandb/offline-run-*/*.wandb")
        return [_read(path) for path in sorted(paths, key=lambda path: path.stat().st_ctime_ns)]

    return read_all


# An offline file of W&B has a 7-byte header, then records in the format of LevelDB's log: blocks of 32 KiB hold
# fragments (CRC 4 bytes, length 2, type 1: whole, first, middle, last), and each record is a protocol buffer. The
# package writes such files and has no public reader for them.
_BLOCK, _FILE_HEADER, _HEADER = 32 * 1024, 7, struct.Struct("<IHB")
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    """What one file of a run would upload."""

    id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    project: str = ""
    resumed: bool = False
    exit_code: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    step_metrics: dict[str, str] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[dict[str, Any]] = field(default_factory=list)


def _messages(data: bytes) -> Iterator[bytes]:
    assert data[:4] == b":W&B"
    at, pending = _FILE_HEADER, b""
    while at + _HEADER.size <= len(data):
        if _BLOCK - at % _BLOCK < _HEADER.size:
            at += _BLOCK - at % _BLOCK
            continue
        _, length, kind = _HEADER.unpack_from(data, at)
        if kind == 0:
            return
        fragment = data[at + _HEADER.size : at + _HEADER.size + length]
        at += _HEADER.size + length
        pending = fragment if kind in (_WHOLE, _FIRST) else pending + fragment
        if kind in (_WHOLE, _LAST):
            yield pending


def _read(path: Path) -> OfflineRun:
    from wandb.proto.wandb_internal_pb2 import Record

    run = OfflineRun()
    names: dict[int, str] = {}
    for message in _messages(path.read_bytes()):
        record = Record.FromString(message)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found = record.run
            run.id, run.name, run.group, run.job_type = (
                found.run_id,
                found.display_name,
                found.run_group,
                found.job_type,
            )
            run.project, run.resumed = found.project, found.resumed
            run.config |= {item.key: json.loads(item.value_json) for item in found.config.update}
        elif kind == "config":
            run.config |= {item.key: json.loads(item.value_json) for item in record.config.update}
        elif kind == "metric":
            metric = record.metric
            names[len(names) + 1] = metric.name or metric.glob_name
            step = metric.step_metric or names.get(metric.step_metric_index, "")
            run.step_metrics[metric.name or metric.glob_name] = step
        elif kind == "history":
            run.history.append(_items(record.history.item))
        elif kind == "summary":
            run.summary |= _items(record.summary.update)
        elif kind == "artifact":
            entries = record.artifact.manifest.contents
            run.artifacts.append(
                {
                    "type": record.artifact.type,
                    "name": record.artifact.name,
                    "entries": {one.path: (one.ref, one.size) for one in entries},
                }
            )
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _items(items: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
