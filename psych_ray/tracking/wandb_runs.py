"""The runs of a sweep in Weights & Biases: one for each checkpoint and condition, under an id of its own that every
sweep over the same results root finds again.

The x axis of every curve is `responses`: those of the task that are committed in total, by earlier sweeps too. It only
ever grows, whatever was retried or interrupted, and it is W&B's step as well, so that the pieces of a resumed run line
up when they are uploaded. `tokens` counts this sweep only. Everything here runs in the tracker's thread, may be slow
and may raise; no text of a transcript comes this far.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psych_ray.config import Config, TrackingConfig, TrackingMode
from psych_ray.sweep.unit import UnitReport
from psych_ray.tracking import wording
from psych_ray.tracking.base import SweepEnd, SweepStart
from psych_ray.tracking.progress import SweepProgress, TaskProgress

if TYPE_CHECKING:
    import wandb

_CURVES = ("nll_nats", "top1", "tokens", "tokens_per_second", "failures", "nll_nats_by_study/*")


def wandb_run_id(results_root: str, slug: str, condition: str) -> str:
    """Hash of the results root (absolute path, or URI), slug and condition: 16 hexadecimal digits."""
    root = results_root.rstrip("/") if "://" in results_root else str(Path(results_root).resolve())
    return hashlib.blake2b("\n".join((root, slug, condition)).encode(), digest_size=8).hexdigest()


class WandbRuns:
    """Opens a run with the task's first unit, closes it with its last. `warn` gets one line that the user should see.

    Where W&B refuses to work online, this and all later runs are kept offline.
    """

    def __init__(self, config: Config, start: SweepStart, *, warn: Callable[[str], None]) -> None:
        import wandb

        self._wandb = wandb
        self._config = config
        self._start = start
        self._warn = warn
        self._mode = config.tracking.mode
        self._progress = SweepProgress(start.tasks)
        self._open: dict[tuple[str, str], wandb.Run] = {}
        self.offline_ids: set[str] = set()
        self.online_ids: set[str] = set()
        self.offline_directory: Path | None = None
        self.url: str | None = None
        root = config.tracking_root()
        root.mkdir(parents=True, exist_ok=True)
        wandb.setup(settings=_settings("silent"))

    def ready(self, slug: str, seconds: float) -> None:
        """A replica of the checkpoint has loaded."""
        self._progress.ready(slug, seconds)

    def unit_started(self, key: tuple[str, str], at: float) -> None:
        """A unit of the task was taken."""
        task = self._progress.begin(key, at)
        if not task.settled:
            self._run(task)

    def trouble(self) -> None:
        """Something failed, somewhere in the sweep."""
        self._progress.troubles += 1

    def unit_done(self, report: UnitReport, at: float) -> None:
        """A part is committed: a point on each curve."""
        task = self._progress.advance(report, at)
        means = task.means
        point: dict[str, object] = {
            "responses": task.responses,
            "tokens": task.pace.tokens,
            "tokens_per_second": task.pace.tokens_per_second,
            "nll_nats": means.nll_nats,
            "top1": means.top1,
            "failures": self._progress.troubles,
        }
        point |= {f"nll_nats_by_study/{study}": means.nll_nats_of(study) for study in report.by_study}
        known = {name: value for name, value in point.items() if value is not None}
        self._run(task).log(known, step=task.responses, commit=True)
        self._finish_if_settled(task)

    def set_aside(self, key: tuple[str, str], responses: int) -> None:
        """Responses of the task will not come."""
        self._finish_if_settled(self._progress.set_aside(key, responses))

    def ended(self, end: SweepEnd) -> None:
        """Finish what is still open, which is what is not complete."""
        for key in tuple(self._open):
            self._finish(self._progress.tasks[key], exit_code=130 if end.interrupted else 1)

    def abandon(self) -> None:
        """Leave open runs as they are; a service that died would otherwise complain when the interpreter exits."""
        self._open.clear()
        with suppress(Exception, SystemExit):
            self._wandb.teardown()

    def _run(self, task: TaskProgress) -> wandb.Run:
        run = self._open.get(task.task.key)
        if run is None:
            try:
                run = self._init(task)
            except Exception as error:
                if self._mode == TrackingMode.offline:
                    raise
                # The service keeps the id of a refused run occupied; a new service does not.
                self.abandon()
                self._mode = TrackingMode.offline
                run = self._init(task)
                self._warn(f"W&B refuses to work online, runs are kept offline from here on: {because(error)}")
            self._open[task.task.key] = run
        return run

    def _init(self, task: TaskProgress) -> wandb.Run:
        tracking, facts = self._config.tracking, task.task.checkpoint
        # A project in the environment gives way to one in the configuration, not to the configuration's default.
        inherits = "WANDB_PROJECT" in os.environ and tracking.project == TrackingConfig().project
        run: wandb.Run = self._wandb.init(
            project=None if inherits else tracking.project,
            entity=tracking.entity,
            mode=self._mode.value,
            dir=self._config.tracking_root(),
            id=wandb_run_id(self._start.results_root, facts.slug, task.task.condition),
            resume="allow",
            reinit="create_new",
            group=self._start.name,
            job_type=task.task.condition,
            name=wording.name_of(task),
            config={
                "checkpoint": asdict(facts),
                "condition": task.task.condition,
                "scoring": asdict(self._start.scoring),
            },
            allow_val_change=True,
            settings=_settings(stop_fn=self._asked_to_stop),
        )
        run.define_metric("responses")
        for curve in _CURVES:
            run.define_metric(curve, step_metric="responses")
        if self._mode == TrackingMode.offline:
            self.offline_ids.add(run.id)
            self.offline_directory = Path(run.dir).parents[1]
        else:
            self.online_ids.add(run.id)
            self.url = run.project_url
        return run

    def _finish_if_settled(self, task: TaskProgress) -> None:
        if task.settled and task.task.key in self._open:
            self._finish(task, exit_code=0 if task.complete else 1)

    def _finish(self, task: TaskProgress, *, exit_code: int) -> None:
        run = self._open.pop(task.task.key)
        summary: dict[str, object] = {
            "responses": task.responses,
            "responses_planned": task.task.responses,
            "complete": task.complete,
            "scored": task.means.scored,
            "nll_nats": task.means.nll_nats,
            "top1": task.means.top1,
            "tokens": task.pace.tokens,
            "tokens_per_second": task.pace.tokens_per_second,
            "seconds": task.pace.seconds,
            "loading_seconds": self._progress.loading_seconds.get(task.task.checkpoint.slug),
            "failures": self._progress.troubles,
        }
        summary |= {f"nll_nats_by_study/{study}": task.means.nll_nats_of(study) for study in task.means.by_study}
        run.summary.update({name: value for name, value in summary.items() if value is not None})
        run.finish(exit_code=exit_code)

    def _asked_to_stop(self) -> None:
        self._warn("W&B: a sweep is not stopped from the web page; Ctrl-C stops it, and what is committed stays")


def because(error: BaseException) -> str:
    """What an exception says, without the key."""
    text = wording.because(error)
    key = os.environ.get("WANDB_API_KEY")
    return text.replace(key, "…") if key else text


_SETTINGS: dict[str, Any] = {
    "silent": True,
    "console": "off",
    # Code, patch and packages of whatever directory the driver stands in did not make the scores.
    "disable_code": True,
    "disable_git": True,
    "label_disable": True,
    "x_save_requirements": False,
    "symlink": False,
    # Of the driver's machine, which does not score.
    "x_disable_stats": True,
    "init_timeout": 30.0,
    "finish_timeout": 30.0,
}


def _settings(*only: str, **more: object) -> wandb.Settings:
    """Quiet settings, so far as the environment does not ask for others and this version of wandb knows them."""
    import wandb

    wanted = {name: value for name, value in _SETTINGS.items() if not only or name in only} | more
    return wandb.Settings(
        **{
            name: value
            for name, value in wanted.items()
            if name in wandb.Settings.model_fields
            and ("WANDB_" + name.upper()).replace("WANDB_X_", "WANDB__") not in os.environ
        }
    )
