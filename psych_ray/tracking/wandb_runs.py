"""The runs of a sweep in Weights & Biases: one per checkpoint and condition, and one of the report, with ids that every
sweep over the same results root computes again.

The x axis of every curve is `responses`, the committed responses of the task, including those of earlier sweeps. It
never decreases, whatever was retried or interrupted, and it is also W&B's step, so that the files of a resumed run
line up when they are uploaded. `tokens` counts this sweep only. Runs in the tracker's thread, may be slow and may
raise. No text of a transcript reaches this module.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from psych_ray.compat.wandb import (
    WANDB_PRIVATE_SETTINGS,
    restart_wandb_service,
    wandb_data_in,
    wandb_offline_directory,
    wandb_settings,
)
from psych_ray.config import TrackingConfig, TrackingMode
from psych_ray.sweep.unit import UnitReport
from psych_ray.tracking import events, text
from psych_ray.tracking.events import Event
from psych_ray.tracking.progress import SweepProgress, TaskProgress
from psych_ray.tracking.wandb_report import log_report
from psych_ray.tracking.wandb_server import no_answer_from
from psych_ray.worker.heartbeat import GpuUse

if TYPE_CHECKING:
    import wandb

_FAILS = "W&B fails online, runs are kept offline from here on"
_CURVES = (
    "nll_nats",
    "top1",
    "tokens",
    "tokens_per_second",
    "failures",
    "gpu_utilization",
    "gpu_memory_gb",
    "nll_nats_by_study/*",
)
_REPORT = "report"
_SETTINGS: Mapping[str, Any] = {
    **WANDB_PRIVATE_SETTINGS,
    "silent": True,
    "console": "off",
    # Code and patch of the working directory did not make the scores.
    "disable_code": True,
    "disable_git": True,
    "label_disable": True,
    "symlink": False,
    "init_timeout": 30.0,
    "finish_timeout": 30.0,
}


def wandb_run_id(results_root: str, slug: str, condition: str) -> str:
    """Hash of the results root (absolute path, or URI), slug and condition: 16 hexadecimal digits."""
    root = results_root.rstrip("/") if "://" in results_root else str(Path(results_root).resolve())
    return hashlib.blake2b("\n".join((root, slug, condition)).encode(), digest_size=8).hexdigest()


class WandbRuns:
    """Opens a run at the first unit of a task and closes it at the last. `warn` gets one line for the user.

    Where W&B fails to open a run online, this run and all later ones are kept offline.
    """

    def __init__(
        self, config: TrackingConfig, directory: Path, start: events.SweepStarted, *, warn: Callable[[str], None]
    ) -> None:
        import wandb

        self._wandb = wandb
        self._config = config
        self._directory = directory
        self._start = start
        self._warn = warn
        self._mode = config.mode
        self._progress = SweepProgress(start.tasks)
        self._open: dict[tuple[str, str], wandb.Run] = {}
        self._gpus: defaultdict[tuple[str, str], list[GpuUse]] = defaultdict(list)
        """What heartbeats told since the last point, by task."""
        self._described: set[tuple[str, str]] = set()
        """Tasks of which the engine, versions and device are in the configuration of the run."""
        self.offline_ids: set[str] = set()
        self.online_ids: set[str] = set()
        self.offline_directory: Path | None = None
        self.url: str | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self._base_url = wandb.setup(settings=wandb_settings({"silent": True})).settings.base_url
        self.online_directory: Path | None = None

    def handle(self, event: Event, at: float) -> None:
        """Record the event of time `at`, in seconds."""
        self._progress.handle(event, at)
        match event:
            case events.UnitStarted(checkpoint, condition):
                task = self._progress.tasks[checkpoint, condition]
                if not task.settled:
                    self._run(task)
            case events.Progressed(units):
                for unit in units:
                    self._gpus[unit.checkpoint, unit.condition] += unit.gpus
            case events.UnitCommitted(report):
                task = self._progress.tasks[report.checkpoint, report.condition]
                self._describe(task, report)
                self._log(task, studies=report.by_study)
                self._finish_if_settled(task)
            case events.ResponsesSkipped(checkpoint, condition):
                self._finish_if_settled(self._progress.tasks[checkpoint, condition])
            case events.SweepEnded():
                # A run that is still open is not complete.
                for key in tuple(self._open):
                    self._finish(self._progress.tasks[key], exit_code=130 if event.interrupted else 1)
            case events.Reported():
                self._report(event)

    @property
    def uses_server(self) -> bool:
        """Whether a run is online or is about to be."""
        return self._mode == TrackingMode.online or bool(self.online_ids)

    def unanswered(self) -> str | None:
        """Why W&B's server does not answer; None where it does."""
        return no_answer_from(self._base_url)

    def abandon(self) -> None:
        """Leave open runs unfinished. Does not raise."""
        self._open.clear()
        restart_wandb_service()

    def _log(self, task: TaskProgress, *, studies: Iterable[str]) -> None:
        means = task.means
        point: dict[str, object] = {
            "responses": task.responses_committed,
            "tokens": task.pace.tokens,
            "tokens_per_second": task.pace.tokens_per_second,
            "nll_nats": means.nll_nats,
            "top1": means.top1,
            "failures": self._progress.failures,
        }
        point |= {f"nll_nats_by_study/{study}": means.nll_nats_of(study) for study in studies}
        point |= _means_of(self._gpus.pop(task.plan.key, []))
        present = {name: value for name, value in point.items() if value is not None}
        self._run(task).log(present, step=task.responses_committed, commit=True)

    def _describe(self, task: TaskProgress, report: UnitReport) -> None:
        """Add to the configuration what is known only from a part."""
        if report.part is None or task.plan.key in self._described:
            return
        self._described.add(task.plan.key)
        footer = report.part.footer
        made_by = {"engine": footer.engine, "versions": footer.versions, "device": footer.device}
        config: Any = self._run(task).config
        config.update(made_by, allow_val_change=True)

    def _report(self, event: events.Reported) -> None:
        run = self._opened(self._init_report)
        # Seconds since 1970 grow from report to report, whatever was lost of the run before this one.
        with wandb_data_in(self._directory):
            log_report(run, event, at=int(time.time()))
            run.finish(exit_code=0)

    def _run(self, task: TaskProgress) -> wandb.Run:
        run = self._open.get(task.plan.key)
        if run is None:
            run = self._open[task.plan.key] = self._opened(lambda: self._init_task(task))
        return run

    def _opened(self, init: Callable[[], wandb.Run]) -> wandb.Run:
        """Open a run, offline where that fails online."""
        if self._mode == TrackingMode.online and (reason := self.unanswered()):
            self._mode = TrackingMode.offline
            self._warn(f"{_FAILS}: {self._base_url}: {reason}")
        try:
            return init()
        except Exception as error:
            if self._mode == TrackingMode.offline:
                raise
            # The service does not release the id of a run that failed to open; a new service does.
            self.abandon()
            self._mode = TrackingMode.offline
            run = init()
            self._warn(f"{_FAILS}: {error_text_without_key(error)}")
            return run

    def _init_task(self, task: TaskProgress) -> wandb.Run:
        plan = task.plan
        config = {
            "checkpoint": asdict(self._start.checkpoints[plan.checkpoint]),
            "condition": plan.condition,
            "scoring": asdict(self._start.scoring),
        }
        run_id = wandb_run_id(self._start.results_root, plan.checkpoint, plan.condition)
        run = self._init(run_id, text.task_name(task), plan.condition, config)
        run.define_metric("responses")
        for curve in _CURVES:
            run.define_metric(curve, step_metric="responses")
        return run

    def _init_report(self) -> wandb.Run:
        run_id = wandb_run_id(self._start.results_root, "", _REPORT)
        config = {"scoring": asdict(self._start.scoring)}
        return self._init(run_id, f"{self._start.name} · {_REPORT}", _REPORT, config)

    def _init(self, run_id: str, name: str, job_type: str, config: Mapping[str, Any]) -> wandb.Run:
        tracking = self._config
        # A project in the environment replaces the configuration's default, but not a project that the user configured.
        inherits = "WANDB_PROJECT" in os.environ and tracking.project == TrackingConfig().project
        run: wandb.Run = self._wandb.init(
            project=None if inherits else tracking.project,
            entity=tracking.entity,
            mode=self._mode.value,
            dir=self._directory,
            id=run_id,
            resume="allow",
            reinit="create_new",
            group=self._start.name,
            job_type=job_type,
            name=name,
            config=dict(config),
            allow_val_change=True,
            settings=wandb_settings({**_SETTINGS, "stop_fn": self._warn_of_stop}),
        )
        if self._mode == TrackingMode.offline:
            self.offline_ids.add(run.id)
            self.offline_directory = wandb_offline_directory(run)
        else:
            self.online_ids.add(run.id)
            self.online_directory = wandb_offline_directory(run)
            self.url = run.project_url
        return run

    def _finish_if_settled(self, task: TaskProgress) -> None:
        if task.settled and task.plan.key in self._open:
            self._finish(task, exit_code=0 if task.complete else 1)

    def _finish(self, task: TaskProgress, *, exit_code: int) -> None:
        run = self._open.pop(task.plan.key)
        summary: dict[str, object] = {
            "responses": task.responses_committed,
            "responses_planned": task.plan.responses,
            "complete": task.complete,
            "scored": task.means.scored,
            "nll_nats": task.means.nll_nats,
            "top1": task.means.top1,
            "tokens": task.pace.tokens,
            "tokens_per_second": task.pace.tokens_per_second,
            "seconds": task.pace.seconds,
            "loading_seconds": self._progress.loading_seconds.get(task.plan.checkpoint),
            "failures": self._progress.failures,
        }
        summary |= {f"nll_nats_by_study/{study}": task.means.nll_nats_of(study) for study in task.means.tallies}
        run.summary.update({name: value for name, value in summary.items() if value is not None})
        run.finish(exit_code=exit_code)

    def _warn_of_stop(self) -> None:
        self._warn("W&B: a sweep is not stopped from the web page; Ctrl-C stops it, and what is committed stays")


def _means_of(gpus: Sequence[GpuUse]) -> dict[str, float]:
    """Means over heartbeats of all ranks: percent, and 10^9 bytes; those that were measured."""
    means = {}
    if gpus:
        means["gpu_memory_gb"] = mean(gpu.memory_bytes for gpu in gpus) / 1e9
    if utilizations := [gpu.utilization for gpu in gpus if gpu.utilization is not None]:
        means["gpu_utilization"] = mean(utilizations)
    return means


def error_text_without_key(error: BaseException) -> str:
    """Message of an exception on one line, without the API key."""
    message = text.error_text(error)
    key = os.environ.get("WANDB_API_KEY")
    return message.replace(key, "…") if key else message
