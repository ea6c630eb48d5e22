"""The real wandb, offline, and a sweep while wandb fails or hangs."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import wandb
from PIL import Image
from support_wandb_server import Server, serving

from psych_ray.config import Config, ResultsConfig, TrackingConfig, TrackingKind, TrackingMode
from psych_ray.results.schema import Tally
from psych_ray.tracking import open_tracker, wandb_report, wandb_run_id
from psych_ray.tracking.events import (
    CheckpointLoaded,
    CheckpointLoading,
    Failed,
    Progressed,
    Reported,
    SweepEnded,
    SweepStarted,
    UnitReading,
    UnitStarted,
)
from psych_ray.tracking.wandb_tracker import WandbTracker
from psych_ray.worker.heartbeat import GpuUse


def wandb_tracker(config: Config, **more: Any) -> WandbTracker:
    return WandbTracker(config.tracking, config.tracking_root(), **more)


pytestmark = pytest.mark.usefixtures("isolated_wandb")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(results=ResultsConfig(root=str(tmp_path / "demo")))


Warnings = list[str]


@pytest.fixture
def drive(committed):
    """A whole sweep for a tracker; every report is (slug, condition, responses)."""

    def drive_tracker(
        tracker: WandbTracker, start: SweepStarted, *reports: tuple[str, str, int], interrupted: bool = False
    ) -> None:
        tracker.handle(start)
        for slug in {slug for slug, _, _ in reports}:
            tracker.handle(CheckpointLoading(slug))
            tracker.handle(CheckpointLoaded(slug, 2.5))
        for n, (slug, condition, responses) in enumerate(reports):
            tracker.handle(UnitStarted(slug, condition, f"u{n}"))
            tracker.handle(committed(slug, condition, unit=f"u{n}", responses=responses))
        tracker.handle(SweepEnded(seconds=9.0, interrupted=interrupted))

    return drive_tracker


@pytest.fixture
def written(config: Config, read_offline_runs):
    """Every file of every run; the service has written all of them once it has ended."""

    def read():
        wandb.teardown()
        return read_offline_runs(config.tracking_root())

    return read


@pytest.fixture
def by_id(written):
    """The same, as lists by the id of the run."""

    def read():
        found = {}
        for file in written():
            found.setdefault(file.id, []).append(file)
        return found

    return read


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ids_are_fixed_by_root_checkpoint_and_condition(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    same = wandb_run_id("outputs/demo", "m", "plain")
    assert (
        same
        == wandb_run_id(str(tmp_path / "outputs" / "demo"), "m", "plain")
        == wandb_run_id("outputs/demo/", "m", "plain")
    )
    assert same != wandb_run_id("outputs/demo", "m", "chat")
    assert same != wandb_run_id("outputs/other", "m", "plain")
    assert (
        wandb_run_id("s3://bucket/a", "m", "plain")
        == wandb_run_id("s3://bucket/a/", "m", "plain")
        == "ff27e0a45551c9db"
    )


def test_a_sweep_is_read_back(
    clock, task, started, committed, by_id, config: Config, capfd: pytest.CaptureFixture[str]
) -> None:
    warnings: Warnings = []
    tracker = wandb_tracker(config, warn=warnings.append, clock=clock)
    root = config.results.root
    tracker.handle(started(task("a", units=2, responses=20), task("b", "chat", units=2, responses=20), root=root))
    tracker.handle(CheckpointLoaded("a", 2.5))
    tracker.handle(UnitStarted("a", "plain", "u0"))
    tracker.handle(UnitStarted("b", "chat", "u0"))
    clock.now += 10
    igt, goal = Tally(responses=8, nll_nats=8.0, top1=4), Tally(responses=2, nll_nats=6.0, top1=0)
    tracker.handle(committed("a", tokens=500, **{"igt/exp1.csv": igt}))
    tracker.handle(Failed("no text of a message reaches W&B"))
    clock.now += 10
    tracker.handle(committed("a", tokens=700, goal=goal))
    tracker.handle(SweepEnded(seconds=20.0))
    assert warnings == []
    assert capfd.readouterr() == ("", "")

    pieces = by_id()
    (a,) = pieces[wandb_run_id(root, "a", "plain")]
    assert (a.name, a.group, a.job_type, a.project) == ("a · plain", "demo", "plain", "psych-ray")
    assert a.config["condition"] == "plain"
    assert a.config["checkpoint"]["fingerprint"] == "f00"
    assert a.config["checkpoint"]["size_b"] == 0.5
    assert a.config["scoring"] == {"dtype": "float32", "cut": "tokens", "cut_at": None, "parity": False}
    assert a.step_metrics["nll_nats"] == "responses"
    assert a.step_metrics["nll_nats_by_study/*"] == "responses"
    assert [point["responses"] for point in a.history] == [point["_step"] for point in a.history] == [10, 20]
    assert [point["nll_nats"] for point in a.history] == [1.0, 2.0]
    assert [point["top1"] for point in a.history] == [0.5, 0.25]
    assert [point["tokens"] for point in a.history] == [500, 1200]
    assert [point["tokens_per_second"] for point in a.history] == [50.0, 60.0]
    assert [point["failures"] for point in a.history] == [0, 1]
    assert a.history[0]["nll_nats_by_study/igt/exp1.csv"] == 1.0
    assert a.history[1]["nll_nats_by_study/goal"] == 3.0
    assert a.summary["nll_nats"] == 2.0
    assert a.summary["nll_nats_by_study/igt/exp1.csv"] == 1.0
    assert a.summary["complete"] is True
    assert (a.summary["responses"], a.summary["scored"], a.summary["seconds"]) == (20, 10, 20.0)
    assert a.summary["loading_seconds"] == 2.5
    assert a.exit_code == 0

    (b,) = pieces[wandb_run_id(root, "b", "chat")]
    assert (b.exit_code, b.summary["complete"], b.history) == (1, False, [])
    everything = "".join(map(repr, (a, b)))
    assert "no text of a message" not in everything


def test_a_second_sweep_resumes_the_same_run(task, started, drive, by_id, config: Config) -> None:
    warnings: Warnings = []
    root = config.results.root
    first = wandb_tracker(config, warn=warnings.append)
    drive(first, started(task(responses=40), root=root), ("m", "plain", 10), ("m", "plain", 10), interrupted=True)
    second = wandb_tracker(config, warn=warnings.append)
    drive(second, started(task(responses=40, committed=20), root=root), ("m", "plain", 10), ("m", "plain", 10))
    assert warnings == []
    ((run_id, pieces),) = by_id().items()
    assert run_id == wandb_run_id(root, "m", "plain")
    assert [piece.exit_code for piece in pieces] == [130, 0]
    assert [point["responses"] for piece in pieces for point in piece.history] == [10, 20, 30, 40]
    assert [point["_step"] for piece in pieces for point in piece.history] == [10, 20, 30, 40]
    assert pieces[-1].summary["responses"] == 40


def test_runs_close_when_their_task_is_complete(
    task, started, drive, by_id, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [task(f"m{n}", condition, units=1, responses=10) for n in range(6) for condition in ("plain", "chat")]
    open_at_once, most = 0, 0
    init, finish = wandb.init, wandb.Run.finish

    def counted_init(**settings: object) -> wandb.Run:
        nonlocal open_at_once, most
        open_at_once += 1
        most = max(most, open_at_once)
        return init(**settings)

    def counted_finish(run: wandb.Run, exit_code: int | None = None) -> None:
        nonlocal open_at_once
        open_at_once -= 1
        finish(run, exit_code)

    monkeypatch.setattr(wandb, "init", counted_init)
    monkeypatch.setattr(wandb.Run, "finish", counted_finish)
    tracker = wandb_tracker(config, warn=print)
    drive(tracker, started(*tasks, root=config.results.root), *((*one.key, 10) for one in tasks))
    assert (most, open_at_once) == (1, 0)
    assert len(by_id()) == 12
    (line,) = tracker.summary_lines()
    directory = config.tracking_root() / "wandb"
    assert line == f"W&B: 12 offline runs in {directory}; `wandb sync {directory}` uploads them"


def test_wandb_sync_takes_the_directory_that_is_named(
    task, started, drive, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(config.results.root).parent)
    tracker = wandb_tracker(config, warn=print)
    drive(tracker, started(task(responses=10, units=1), root=config.results.root), ("m", "plain", 10))
    (line,) = tracker.summary_lines()
    assert line == "W&B: 1 offline run in demo/tracking/wandb; `wandb sync demo/tracking/wandb` uploads them"
    command = [sys.executable, "-m", "wandb", *line.split("`")[1].split()[1:], "--dry-run"]
    assert "Would sync 1 run(s)" in subprocess.run(command, capture_output=True, text=True, check=True).stderr


def test_an_init_that_raises_costs_one_warning(
    task, started, drive, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)

    def fail(**_: object) -> wandb.Run:
        raise RuntimeError(f"no thanks\nto {'k' * 40}")

    monkeypatch.setattr(wandb, "init", fail)
    warnings: Warnings = []
    tracker = wandb_tracker(config, warn=warnings.append)
    drive(tracker, started(task(), root=config.results.root), *[("m", "plain", 10)] * 4)
    assert warnings == ["W&B failed and is switched off: no thanks to …"]
    assert tracker.summary_lines() == []


def test_an_init_that_hangs_delays_nothing(
    task, started, committed, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, release = threading.Event(), threading.Event()

    def hang(**_: object) -> wandb.Run:
        entered.set()
        release.wait(30)
        raise RuntimeError("too late to matter")

    monkeypatch.setattr(wandb, "init", hang)
    warnings: Warnings = []
    tracker = wandb_tracker(config, warn=warnings.append, finish_seconds=0.2)
    begun = time.monotonic()
    tracker.handle(started(task(responses=10_000), root=config.results.root))
    tracker.handle(UnitStarted("m", "plain", "u0"))
    for _ in range(1000):
        tracker.handle(committed())
    elapsed = time.monotonic() - begun
    assert entered.wait(10)
    tracker.handle(SweepEnded(seconds=1.0))
    tracker.handle(SweepEnded(seconds=1.0))
    assert elapsed < 0.5
    assert warnings == ["W&B did not finish within 0.2 s; its last points may be missing"]
    release.set()
    wait_for(lambda: all(thread.name != "psych-ray-wandb" for thread in threading.enumerate()))
    assert len(warnings) == 1


def test_a_full_queue_switches_wandb_off(
    task, started, committed, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, release = threading.Event(), threading.Event()

    def hang(**_: object) -> wandb.Run:
        entered.set()
        release.wait(30)
        raise RuntimeError("too late to matter")

    monkeypatch.setattr(wandb, "init", hang)
    warnings: Warnings = []
    tracker = WandbTracker(
        config.tracking, config.tracking_root(), warn=warnings.append, finish_seconds=0.1, queue_size=50
    )
    tracker.handle(started(task(responses=10_000), root=config.results.root))
    tracker.handle(UnitStarted("m", "plain", "u0"))
    assert entered.wait(10)
    for _ in range(100):
        tracker.handle(committed())
    tracker.handle(SweepEnded(seconds=1.0))
    release.set()
    wait_for(lambda: all(thread.name != "psych-ray-wandb" for thread in threading.enumerate()))
    assert warnings == ["W&B is 50 events behind and is switched off"]


def test_a_service_that_dies_costs_one_warning(
    task, started, committed, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    services: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            services.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    warnings: Warnings = []
    tracker = wandb_tracker(config, warn=warnings.append)
    tracker.handle(started(task(responses=1000), root=config.results.root))
    tracker.handle(UnitStarted("m", "plain", "u0"))
    wait_for(lambda: bool(list(config.tracking_root().glob("wandb/offline-run-*"))))
    (service,) = [process for process in services if "wandb-core" in str(process.args)]
    service.kill()
    service.wait()
    for _ in range(50):
        tracker.handle(committed())
        time.sleep(0.01)
    tracker.handle(SweepEnded(seconds=1.0))
    assert len(warnings) == 1
    assert warnings[0].startswith("W&B failed and is switched off: ")


def test_a_directory_that_cannot_be_made_costs_one_warning(task, started, drive, config: Config) -> None:
    Path(config.results.root).write_text("a file where the directory should be")
    warnings: Warnings = []
    tracker = wandb_tracker(config, warn=warnings.append)
    drive(tracker, started(task(), root=config.results.root), ("m", "plain", 10))
    assert len(warnings) == 1
    assert "switched off" in warnings[0]


@pytest.mark.parametrize("key", [None, "k" * 40])
def test_online_without_a_server_is_kept_offline(
    task,
    started,
    drive,
    by_id,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    key: str | None,
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    if key is not None:
        monkeypatch.setenv("WANDB_API_KEY", key)
    config.tracking = TrackingConfig(mode=TrackingMode.online)
    warnings: Warnings = []
    tracker = wandb_tracker(config, warn=warnings.append)
    tasks = [task("a", responses=10, units=1), task("b", responses=10, units=1)]
    drive(tracker, started(*tasks, root=config.results.root), ("a", "plain", 10), ("b", "plain", 10))
    assert len(warnings) == 1
    assert warnings[0].startswith("W&B fails online, runs are kept offline from here on: ")
    assert "kkkk" not in warnings[0]
    assert {run_id: len(pieces) for run_id, pieces in by_id().items()} == {
        wandb_run_id(config.results.root, slug, "plain"): 1 for slug in "ab"
    }
    assert "2 offline runs" in tracker.summary_lines()[0]
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def online(config: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    config.tracking = TrackingConfig(mode=TrackingMode.online)
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        yield server


def test_online_with_a_server_is_uploaded(task, started, drive, config: Config, online: Server) -> None:
    warnings: Warnings = []
    tracker = wandb_tracker(config, warn=warnings.append)
    drive(tracker, started(task("a", responses=10, units=1), root=config.results.root), ("a", "plain", 10))
    assert warnings == []
    assert online.opened
    assert tracker.summary_lines() == [f"W&B: 1 run at {online.url}/e/psych-ray"]


def test_a_server_that_never_answers_costs_three_seconds(
    task, started, drive, by_id, config: Config, online: Server
) -> None:
    online.mute.set()
    warnings: Warnings = []
    tracker = wandb_tracker(config, warn=warnings.append)
    begun = time.monotonic()
    drive(tracker, started(task("a", responses=10, units=1), root=config.results.root), ("a", "plain", 10))
    assert time.monotonic() - begun < 8  # with the import of wandb
    assert len(warnings) == 1
    assert "no answer within 2.5 s" in warnings[0] or "timed out" in warnings[0]
    if tracker.summary_lines():  # the end of the sweep did not come before the answer
        assert list(by_id()) == [wandb_run_id(config.results.root, "a", "plain")]
    wait_for(lambda: all(thread.name != "psych-ray-wandb" for thread in threading.enumerate()))


@pytest.mark.parametrize("way", ["mute", "refuses"])
def test_a_network_that_is_lost_costs_less_than_five_seconds_at_the_end(
    task, started, config: Config, online: Server, way: str
) -> None:
    warnings: Warnings = []
    tracker = wandb_tracker(config, warn=warnings.append)
    tracker.handle(started(task("a", responses=10, units=1), root=config.results.root))
    tracker.handle(UnitStarted("a", "plain", "u"))
    wait_for(lambda: len(tracker.summary_lines()) == 1)
    if way == "mute":
        online.mute.set()
    else:
        online.shutdown()
        online.server_close()
    begun = time.monotonic()
    tracker.handle(SweepEnded(seconds=1.0))
    assert time.monotonic() - begun < 5.5
    assert len(warnings) == 1
    assert warnings[0].startswith("W&B does not answer (")
    assert f"wandb sync {config.tracking_root()}/wandb/run-*" in warnings[0]
    assert list(config.tracking_root().glob("wandb/run-*/*.wandb"))
    wait_for(lambda: all(not thread.name.startswith("psych-ray-wandb") for thread in threading.enumerate()))


def test_a_project_in_the_environment_replaces_the_default(
    task, started, drive, written, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "from-the-environment")
    drive(
        wandb_tracker(config, warn=print),
        started(task("a"), root=config.results.root),
        ("a", "plain", 10),
    )
    config.tracking = TrackingConfig(project="from-the-configuration")
    drive(
        wandb_tracker(config, warn=print),
        started(task("b"), root=config.results.root),
        ("b", "plain", 10),
    )
    found = {piece.name: piece.project for piece in written()}
    assert found == {"a · plain": "from-the-environment", "b · plain": "from-the-configuration"}


def test_disabled_in_the_environment_is_off(task, started, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert config.tracking.kind == TrackingKind.wandb
    tracker = open_tracker(config.tracking, config.tracking_root())
    tracker.handle(started(task(), root=config.results.root))
    tracker.handle(SweepEnded(seconds=1.0))
    assert tracker.summary_lines() == []
    assert not config.tracking_root().exists()


def test_terminal_and_wandb_together(
    task, started, committed, config: Config, capfd: pytest.CaptureFixture[str]
) -> None:
    tracker = open_tracker(config.tracking, config.tracking_root())
    tracker.handle(started(task(responses=10, units=1), root=config.results.root))
    tracker.handle(CheckpointLoading("m"))
    tracker.handle(CheckpointLoaded("m", 1.0))
    tracker.handle(UnitStarted("m", "plain", "u0"))
    tracker.handle(committed())
    tracker.handle(SweepEnded(seconds=1.0))
    printed = capfd.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 4
    assert len(tracker.summary_lines()) == 1


def test_importing_tracking_loads_neither_rich_nor_wandb() -> None:
    code = "import sys, json, psych_ray.tracking; print(json.dumps([m for m in ('rich', 'wandb') if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.fixture
def reported(tmp_path: Path) -> Reported:
    """A report with a table of aggregates, one of transcripts and a figure."""
    figure = tmp_path / "figures" / "nll_by_size.png"
    figure.parent.mkdir()
    Image.new("RGB", (4, 3)).save(figure)
    return Reported(
        headlines=("A sentence.",),
        tables={
            "by_study": pl.DataFrame({"study": ["igt", "goal"], "nll": [1.5, None]}),
            "transcript_differences": pl.DataFrame({"transcript": ["secret"], "difference": [1.0]}),
            "influence": pl.DataFrame(schema={"study": pl.String}),
        },
        figures=(figure,),
        location="/data/demo",
        uri="file:///data/demo",
        parts=(("responses/checkpoint=a/condition=plain/u-1.parquet", 70),),
        rows=20,
    )


def test_the_report_is_a_run_of_its_own(task, started, drive, by_id, config: Config, reported: Reported) -> None:
    warnings: Warnings = []
    root = config.results.root
    tracker = wandb_tracker(config, warn=warnings.append)
    drive(tracker, started(task("a", responses=10, units=1), root=root), ("a", "plain", 10))
    tracker.handle(reported)
    assert warnings == []
    pieces = by_id()
    (run,) = pieces.pop(wandb_run_id(root, "", "report"))
    assert list(pieces) == [wandb_run_id(root, "a", "plain")]
    assert (run.name, run.group, run.job_type, run.exit_code) == ("demo · report", "demo", "report", 0)
    assert run.summary["headlines"] == ["A sentence."]
    (point,) = run.history
    assert {name.split("/")[1] for name in point if name.startswith("tables/")} == {"by_study"}
    assert point["figures/nll_by_size/width"] == 4
    (table,) = config.tracking_root().glob(f"wandb/*{run.id}/files/{point['tables/by_study/path']}")
    assert json.loads(table.read_text())["data"] == [["igt", 1.5], ["goal", None]]
    references = [one for one in run.artifacts if one["type"] == "responses"]
    assert references == [
        {
            "type": "responses",
            "name": f"responses-{run.id}",
            "entries": {
                "responses/checkpoint=a/condition=plain/u-1.parquet": (
                    "file:///data/demo/responses/checkpoint=a/condition=plain/u-1.parquet",
                    70,
                )
            },
        }
    ]
    assert b"secret" not in b"".join(path.read_bytes() for path in config.tracking_root().rglob("*") if path.is_file())
    assert "WANDB_DATA_DIR" not in os.environ


def test_more_parts_than_an_artifact_should_hold_are_referred_to_by_folder(
    task, started, drive, by_id, config: Config, reported: Reported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_report, "MAX_PARTS", 2)
    parts = tuple((f"responses/checkpoint={slug}/condition=plain/u{n}.parquet", 1) for slug in "ab" for n in range(2))
    tracker = wandb_tracker(config, warn=print)
    drive(tracker, started(task("a", responses=10, units=1), root=config.results.root), ("a", "plain", 10))
    tracker.handle(dataclasses.replace(reported, parts=parts))
    (run,) = by_id()[wandb_run_id(config.results.root, "", "report")]
    (entries,) = [one["entries"] for one in run.artifacts if one["type"] == "responses"]
    assert entries == {
        f"responses/checkpoint={slug}/condition=plain": (
            f"file:///data/demo/responses/checkpoint={slug}/condition=plain", 0
        )
        for slug in "ab"
    }  # fmt: skip


def test_a_server_that_is_lost_before_the_report_costs_seconds(
    task, started, drive, config: Config, online: Server, reported: Reported
) -> None:
    warnings: Warnings = []
    tracker = wandb_tracker(config, warn=warnings.append)
    drive(tracker, started(task("a", responses=10, units=1), root=config.results.root), ("a", "plain", 10))
    assert warnings == []
    online.mute.set()
    begun = time.monotonic()
    tracker.handle(reported)
    assert time.monotonic() - begun < 8
    assert len(warnings) == 1
    wait_for(lambda: all(not thread.name.startswith("psych-ray-wandb") for thread in threading.enumerate()))


def test_points_have_the_means_of_the_gpus_since_the_last_one(task, started, committed, by_id, config: Config) -> None:
    tracker = wandb_tracker(config, warn=print)
    tracker.handle(started(task("a", responses=20, units=2), root=config.results.root))
    tracker.handle(UnitStarted("a", "plain", "u0", characters=10, responses=10))
    for utilization in (50.0, 100.0):
        reading = UnitReading("a", "plain", "u0", 1.0, 1.0, gpus=(GpuUse(4 * 10**9, utilization), GpuUse(2 * 10**9)))
        tracker.handle(Progressed((reading,), ranks=2))
    tracker.handle(committed("a"))
    tracker.handle(committed("a", unit="u1"))
    tracker.handle(SweepEnded(seconds=1.0))
    (run,) = by_id()[wandb_run_id(config.results.root, "a", "plain")]
    first, second = run.history
    assert (first["gpu_utilization"], first["gpu_memory_gb"]) == (75.0, 3.0)
    assert "gpu_utilization" not in second
    assert run.step_metrics["gpu_memory_gb"] == "responses"
