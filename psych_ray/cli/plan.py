"""The command `plan`: shows what `app.plan` found, as tables and lines. Computes nothing."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from psych_ray.app.plan import SweepPlan, write_picture
from psych_ray.app.plan import plan as plan_sweep
from psych_ray.app.plan_groups import planned_groups
from psych_ray.app.report import sweep_name
from psych_ray.cli.show import print_line, right, say, show
from psych_ray.config import Config

UNFIT = 3
_MANY = 20
"""Checkpoints that are still shown each."""


def plan(config: Config) -> int:
    """Show what would run, on what, how long and at what price; starts nothing."""
    planned = plan_sweep(config, say=say)
    if planned.found.described:
        show(_proposals(planned))
    if len(planned.prepared.checkpoints) > _MANY and not config.plan.all:
        show(_groups(planned))
        print_line(_extent(planned))
    else:
        show(_tasks(planned))
        show(_placements(planned))
        show(_weights(planned))
    for line in planned.lines:
        print_line(line)
    if config.plan.picture is not None:
        path = Path(config.plan.picture).expanduser()
        write_picture(planned, path, title=f"Plan of {sweep_name(config)}")
        print_line(f"picture: {path}")
    for left in planned.prepared.left_out:
        say(str(left))
    for record in planned.prepared.skipped:
        say(f"skipped: {record.where}: {record.reason}")
    return UNFIT if planned.prepared.unfit or planned.found.missing else 0


def _proposals(planned: SweepPlan) -> Table:
    table = Table("checkpoint", "family", "generation", *right("size_b"), "stage", "base", "follows from")
    for one in planned.found.described:
        card = one.card
        size = "" if card.size_b is None else f"{card.size_b:g}"
        stage = card.stage.value if card.stage else "not known"
        table.add_row(card.id, card.family, card.generation, size, stage, card.base or "", one.sources)
    return table


def _groups(planned: SweepPlan) -> Table:
    names = ("checkpoints", "size_b", "responses missing")
    table = Table("generation", *right(*names), "engine", "replica on", *right("starts", "replica-hours", "GPU-hours"))
    for one in planned_groups(planned):
        sizes = [f"{size:g}" for size in (*one.sizes_b[:1], *one.sizes_b[1:][-1:])]
        numbers = (f"{one.checkpoints:,}", " to ".join(sizes), f"{one.responses_missing:,}")
        hours = (f"{one.starts:,}", f"{one.hours:,.2f}", f"{one.gpu_hours:,.2f}")
        table.add_row(one.generation, *numbers, one.engine, one.device, *hours)
    return table


def _extent(planned: SweepPlan) -> str:
    """What the rows of groups leave out, and where it is."""
    tasks, n_checkpoints = planned.prepared.tasks, len(planned.prepared.checkpoints)
    conditions = ", ".join(dict.fromkeys(task.condition for task in tasks))
    n_complete = sum(not task.missing for task in tasks)
    return (
        f"{n_checkpoints:,} checkpoints, {len(tasks):,} tasks under {conditions}, {n_complete:,} of them complete; "
        f"each task has {len(tasks[0].transcripts):,} transcripts with {tasks[0].n_responses:,} "
        "responses. plan.all=true shows every task and checkpoint"
    )


def _tasks(planned: SweepPlan) -> Table:
    table = Table("checkpoint", "condition", *(right("transcripts", "responses", "missing", "units", "minutes")))
    for task in planned.prepared.tasks:
        numbers = (len(task.transcripts), task.n_responses, task.n_responses_missing, len(task.missing))
        is_planned = task.checkpoint in planned.prepared.rates or not task.missing
        minutes = f"{task.seconds_missing / 60:.1f}" if is_planned else "does not fit"
        table.add_row(task.checkpoint, task.condition, *(f"{n:,}" for n in numbers), minutes)
    return table


def _placements(planned: SweepPlan) -> Table:
    table = Table("weights", "engine", *right("ranks"), "on", "reason")
    for weights, placement in planned.prepared.placements.items():
        device = planned.prepared.devices[weights].name
        table.add_row(weights, str(placement.engine), str(placement.ranks), device, placement.reason)
    return table


def _weights(planned: SweepPlan) -> Table:
    table = Table("weights", *right("units", "replicas", "starts", "loading", "GPU-hours"), "rate")
    for one in planned.weights:
        numbers = (f"{one.units:,}", f"{one.replicas:,}", f"{one.starts:,}", f"{one.load_seconds:,.0f} s")
        rate = "measured" if one.is_measured else "assumed"
        table.add_row(one.weights, *numbers, f"{one.gpu_hours:,.2f}", rate)
    return table
