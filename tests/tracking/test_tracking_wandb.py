"""The real wandb, offline, and what becomes of a sweep when it misbehaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from offline_log import OfflineRun, read_all
from scripted import Clock, report, start, task

from psych_ray.config import Config, ResultsConfig, TrackingConfig, TrackingKind, TrackingMode
from psych_ray.results.schema import Tally
from psych_ray.tracking import open_tracker, wandb_run_id
from psych_ray.tracking.base import SweepEnd, SweepStart
from psych_ray.tracking.wandb_tracker import WandbTracker


@pytest.fixture(autouse=True)
def own_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A W&B that knows nothing of this machine's user, and of which nothing is left afterwards."""
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
def config(tmp_path: Path) -> Config:
    return Config(results=ResultsConfig(root=str(tmp_path / "demo")))


Warnings = list[str]


def drive(tracker: WandbTracker, begin: SweepStart, *reports: tuple[str, str, int], interrupted: bool = False) -> None:
    """Every report is (slug, condition, responses)."""
    tracker.started(begin)
    for slug in {slug for slug, _, _ in reports}:
        tracker.loading(slug)
        tracker.ready(slug, 2.5)
    for n, (slug, condition, responses) in enumerate(reports):
        tracker.unit_started(slug, condition, f"u{n}")
        tracker.unit_done(report(slug, condition, unit=f"u{n}", responses=responses))
    tracker.ended(SweepEnd(seconds=9.0, interrupted=interrupted))


def written(config: Config) -> list[OfflineRun]:
    """Every piece of every run; the service has written all of them once it has ended."""
    wandb.teardown()
    return read_all(config.tracking_root())


def by_id(config: Config) -> dict[str, list[OfflineRun]]:
    found: dict[str, list[OfflineRun]] = {}
    for piece in written(config):
        found.setdefault(piece.id, []).append(piece)
    return found


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


def test_a_sweep_is_read_back(config: Config, capfd: pytest.CaptureFixture[str]) -> None:
    warnings: Warnings = []
    clock = Clock()
    tracker = WandbTracker(config, warn=warnings.append, clock=clock)
    root = config.results.root
    tracker.started(start(task("a", units=2, responses=20), task("b", "chat", units=2, responses=20), root=root))
    tracker.ready("a", 2.5)
    tracker.unit_started("a", "plain", "u0")
    tracker.unit_started("b", "chat", "u0")
    clock.now += 10
    igt, goal = Tally(responses=8, nll_nats=8.0, top1=4), Tally(responses=2, nll_nats=6.0, top1=0)
    tracker.unit_done(report("a", tokens=500, **{"igt/exp1.csv": igt}))
    tracker.trouble("no text of a message reaches W&B")
    clock.now += 10
    tracker.unit_done(report("a", tokens=700, goal=goal))
    tracker.ended(SweepEnd(seconds=20.0))
    assert warnings == []
    assert capfd.readouterr() == ("", "")

    pieces = by_id(config)
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


def test_a_second_sweep_goes_on_in_the_same_run(config: Config) -> None:
    warnings: Warnings = []
    root = config.results.root
    first = WandbTracker(config, warn=warnings.append)
    drive(first, start(task(responses=40), root=root), ("m", "plain", 10), ("m", "plain", 10), interrupted=True)
    second = WandbTracker(config, warn=warnings.append)
    drive(second, start(task(responses=40, committed=20), root=root), ("m", "plain", 10), ("m", "plain", 10))
    assert warnings == []
    ((run_id, pieces),) = by_id(config).items()
    assert run_id == wandb_run_id(root, "m", "plain")
    assert [piece.exit_code for piece in pieces] == [130, 0]
    assert [point["responses"] for piece in pieces for point in piece.history] == [10, 20, 30, 40]
    assert [point["_step"] for piece in pieces for point in piece.history] == [10, 20, 30, 40]
    assert pieces[-1].summary["responses"] == 40


def test_runs_close_when_their_task_is_complete(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
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
    tracker = WandbTracker(config, warn=print)
    drive(tracker, start(*tasks, root=config.results.root), *((*one.key, 10) for one in tasks))
    assert (most, open_at_once) == (1, 0)
    assert len(by_id(config)) == 12
    (line,) = tracker.summary_lines()
    directory = config.tracking_root() / "wandb"
    assert line == f"W&B: 12 offline runs in {directory}; `wandb sync {directory}` uploads them"


def test_wandb_sync_takes_the_directory_that_is_named(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(config.results.root).parent)
    tracker = WandbTracker(config, warn=print)
    drive(tracker, start(task(responses=10, units=1), root=config.results.root), ("m", "plain", 10))
    (line,) = tracker.summary_lines()
    assert line == "W&B: 1 offline run in demo/tracking/wandb; `wandb sync demo/tracking/wandb` uploads them"
    command = [sys.executable, "-m", "wandb", *line.split("`")[1].split()[1:], "--dry-run"]
    assert "Would sync 1 run(s)" in subprocess.run(command, capture_output=True, text=True, check=True).stderr


def test_an_init_that_raises_costs_one_warning(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)

    def refuse(**_: object) -> wandb.Run:
        raise RuntimeError(f"no thanks\nto {'k' * 40}")

    monkeypatch.setattr(wandb, "init", refuse)
    warnings: Warnings = []
    tracker = WandbTracker(config, warn=warnings.append)
    drive(tracker, start(task(), root=config.results.root), *[("m", "plain", 10)] * 4)
    assert warnings == ["W&B failed and is switched off: no thanks to …"]
    assert tracker.summary_lines() == []


def test_an_init_that_hangs_stalls_nobody(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, release = threading.Event(), threading.Event()

    def hang(**_: object) -> wandb.Run:
        entered.set()
        release.wait(30)
        raise RuntimeError("too late to be heard")

    monkeypatch.setattr(wandb, "init", hang)
    warnings: Warnings = []
    tracker = WandbTracker(config, warn=warnings.append, patience_s=0.2)
    begun = time.monotonic()
    tracker.started(start(task(responses=10_000), root=config.results.root))
    tracker.unit_started("m", "plain", "u0")
    for _ in range(1000):
        tracker.unit_done(report())
    told = time.monotonic() - begun
    assert entered.wait(10)
    tracker.ended(SweepEnd(seconds=1.0))
    tracker.ended(SweepEnd(seconds=1.0))
    assert told < 0.5
    assert warnings == ["W&B did not finish within 0.2 s; its last points may be missing"]
    release.set()
    wait_for(lambda: all(thread.name != "psych-ray-wandb" for thread in threading.enumerate()))
    assert len(warnings) == 1


def test_a_backlog_that_grows_too_long_is_given_up(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, release = threading.Event(), threading.Event()

    def hang(**_: object) -> wandb.Run:
        entered.set()
        release.wait(30)
        raise RuntimeError("too late to be heard")

    monkeypatch.setattr(wandb, "init", hang)
    warnings: Warnings = []
    tracker = WandbTracker(config, warn=warnings.append, patience_s=0.1, backlog=50)
    tracker.started(start(task(responses=10_000), root=config.results.root))
    tracker.unit_started("m", "plain", "u0")
    assert entered.wait(10)
    for _ in range(100):
        tracker.unit_done(report())
    tracker.ended(SweepEnd(seconds=1.0))
    release.set()
    wait_for(lambda: all(thread.name != "psych-ray-wandb" for thread in threading.enumerate()))
    assert warnings == ["W&B is 50 events behind and is switched off"]


def test_a_service_that_dies_costs_one_warning(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    services: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            services.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    warnings: Warnings = []
    tracker = WandbTracker(config, warn=warnings.append)
    tracker.started(start(task(responses=1000), root=config.results.root))
    tracker.unit_started("m", "plain", "u0")
    wait_for(lambda: bool(list(config.tracking_root().glob("wandb/offline-run-*"))))
    (service,) = [process for process in services if "wandb-core" in str(process.args)]
    service.kill()
    service.wait()
    for _ in range(50):
        tracker.unit_done(report())
        time.sleep(0.01)
    tracker.ended(SweepEnd(seconds=1.0))
    assert len(warnings) == 1
    assert warnings[0].startswith("W&B failed and is switched off: ")


def test_a_directory_that_cannot_be_made_costs_one_warning(config: Config) -> None:
    Path(config.results.root).write_text("a file where the directory should be")
    warnings: Warnings = []
    tracker = WandbTracker(config, warn=warnings.append)
    drive(tracker, start(task(), root=config.results.root), ("m", "plain", 10))
    assert len(warnings) == 1
    assert "switched off" in warnings[0]


@pytest.mark.parametrize("key", [None, "k" * 40])
def test_online_without_a_server_is_kept_offline(
    config: Config, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], key: str | None
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    if key is not None:
        monkeypatch.setenv("WANDB_API_KEY", key)
    config.tracking = TrackingConfig(mode=TrackingMode.online)
    warnings: Warnings = []
    tracker = WandbTracker(config, warn=warnings.append)
    tasks = [task("a", responses=10, units=1), task("b", responses=10, units=1)]
    drive(tracker, start(*tasks, root=config.results.root), ("a", "plain", 10), ("b", "plain", 10))
    assert len(warnings) == 1
    assert warnings[0].startswith("W&B refuses to work online, runs are kept offline from here on: ")
    assert "kkkk" not in warnings[0]
    assert {run_id: len(pieces) for run_id, pieces in by_id(config).items()} == {
        wandb_run_id(config.results.root, slug, "plain"): 1 for slug in "ab"
    }
    assert "2 offline runs" in tracker.summary_lines()[0]
    assert capfd.readouterr() == ("", "")


def test_the_users_environment_is_heard(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "from-the-environment")
    drive(WandbTracker(config, warn=print), start(task("a"), root=config.results.root), ("a", "plain", 10))
    config.tracking = TrackingConfig(project="from-the-configuration")
    drive(WandbTracker(config, warn=print), start(task("b"), root=config.results.root), ("b", "plain", 10))
    found = {piece.name: piece.project for piece in written(config)}
    assert found == {"a · plain": "from-the-environment", "b · plain": "from-the-configuration"}


def test_disabled_in_the_environment_is_off(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert config.tracking.kind == TrackingKind.wandb
    tracker = open_tracker(config)
    tracker.started(start(task(), root=config.results.root))
    tracker.ended(SweepEnd(seconds=1.0))
    assert tracker.summary_lines() == []
    assert not config.tracking_root().exists()


def test_terminal_and_wandb_together(config: Config, capfd: pytest.CaptureFixture[str]) -> None:
    tracker = open_tracker(config)
    tracker.started(start(task(responses=10, units=1), root=config.results.root))
    tracker.loading("m")
    tracker.ready("m", 1.0)
    tracker.unit_started("m", "plain", "u0")
    tracker.unit_done(report())
    tracker.ended(SweepEnd(seconds=1.0))
    said = capfd.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 4
    assert len(tracker.summary_lines()) == 1


def test_importing_tracking_loads_neither_rich_nor_wandb() -> None:
    code = "import sys, json, psych_ray.tracking; print(json.dumps([m for m in ('rich', 'wandb') if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
