"""What each command does, in the order in which the user sees it. Composes the rooms; computes nothing itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from psych_ray.app.cluster import cluster_to_plan_for, cluster_to_run_on
from psych_ray.app.prepare import Prepared, checkpoint_facts, prepare
from psych_ray.config import Config
from psych_ray.errors import UnsupportedError
from psych_ray.results.reading import scan_responses
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import ResultsStore, open_store
from psych_ray.tracking.events import SweepEnded, SweepStarted, TaskPlan, Tracker

INCOMPLETE = 3
_CHECKED_TRANSCRIPTS = 3


def sweep(config: Config) -> int:
    """Score what is missing, then report."""
    from psych_ray.tracking import open_tracker

    began = time.monotonic()
    with cluster_to_run_on(config.cluster) as cluster:
        prepared = prepare(config, cluster, say=_say)
        tracker = open_tracker(config.tracking, config.tracking_root())
        failures = [f"{skipped.where}: {skipped.reason}" for skipped in prepared.skipped]
        failures += _score(prepared, config, tracker, failures)
    for line in failures:
        _say(f"not scored: {line}")
    found = Snapshot.read(prepared.store)
    lines = ["nothing could be scored, so there is no report"]
    if found.parts:
        lines = report_lines(config, prepared.store, found)
    for line in [*lines, *tracker.summary_lines(), f"{time.monotonic() - began:.0f} s in all"]:
        _print(line)
    return INCOMPLETE if failures else 0


def plan(config: Config) -> int:
    """Show what would run; starts nothing and writes nothing."""
    with cluster_to_plan_for(config.cluster) as cluster:
        prepared = prepare(config, cluster, say=_say, write=False)
    table = Table("checkpoint", "condition", *(_right("transcripts", "responses", "missing", "units", "minutes")))
    for task in prepared.tasks:
        numbers = (len(task.transcripts), task.n_responses, task.n_responses_missing, len(task.missing))
        table.add_row(task.checkpoint, task.condition, *(f"{n:,}" for n in numbers), f"{task.seconds_missing / 60:.1f}")
    _show(table)
    held = Table("weights", "engine", *_right("ranks"), "on", "reason")
    for weights, placement in prepared.placements.items():
        device = prepared.devices[weights].name
        held.add_row(weights, str(placement.engine), str(placement.ranks), device, placement.reason)
    _show(held)
    minutes = sum(task.seconds_missing for task in prepared.tasks) / 60
    _print(
        f"about {minutes:,.0f} minutes of one replica after the other, {prepared.slots.ranks} ranks at a time, without "
        f"loading (assumed rates, not measured), on {prepared.cluster}"
    )
    for skipped in prepared.skipped:
        _say(f"skipped: {skipped.where}: {skipped.reason}")
    return 0


def status(config: Config) -> int:
    """Tell what is committed and what is missing."""
    from psych_ray.app.status import status_of

    found = status_of(open_store(config.results.root))
    table = Table("checkpoint", "condition", *_right("transcripts", "missing", "rows", "not scored", "parts"))
    for task in found.tasks:
        numbers = (task.transcripts, task.transcripts_missing, task.rows, task.rows_not_scored, task.parts)
        table.add_row(task.checkpoint, task.condition, *(f"{n:,}" for n in numbers))
    _show(table)
    missing = sum(task.transcripts_missing for task in found.tasks)
    verdict = (
        f"{missing:,} transcripts x checkpoints are missing, the sweep's command goes on" if missing else "complete"
    )
    rows = sum(task.rows for task in found.tasks)
    _print(f"{config.results.root}: {rows:,} rows of {found.n_transcripts:,} transcripts; {verdict}")
    return 0


def report(config: Config) -> int:
    """Write statistics, figures and page from the parts."""
    store = open_store(config.results.root)
    for line in report_lines(config, store, Snapshot.read(store)):
        _print(line)
    return 0


def check(config: Config) -> int:
    """Load every checkpoint, show what its self-check sees and how transcripts align with its tokens."""
    from psych_ray.app.check import check as run_check
    from psych_ray.cluster.check import NotLoaded
    from psych_ray.transcripts.sources import read_transcripts

    limit = min(config.transcripts.limit or _CHECKED_TRANSCRIPTS, _CHECKED_TRANSCRIPTS)
    transcripts = list(read_transcripts(replace(config.transcripts, limit=limit), on_skipped=lambda _: None))
    seen = Table("checkpoint", "check", "passed", "seen")
    edges = Table("checkpoint", "study", *_right("responses", "edges inside a token"))
    not_loaded = 0
    with cluster_to_run_on(config.cluster) as cluster:
        prepared = prepare(config, cluster, say=_say, write=False)
        for found in run_check(prepared, config, transcripts):
            if isinstance(found, NotLoaded):
                not_loaded += 1
                seen.add_row(", ".join(found.checkpoints), "loading", "no", found.reason)
                continue
            for one in found.checks:
                seen.add_row(found.checkpoint, one.name, "yes" if one.passed else "no", one.detail)
            seen.add_row(found.checkpoint, "engine", "", found.engine, end_section=True)
            for study, n in found.straddling_edges.items():
                if n:
                    edges.add_row(found.checkpoint, study, f"{found.responses[study]:,}", f"{n:,}")
    _show(seen)
    if edges.row_count:
        _show(edges)
    return 1 if not_loaded else 0


def not_yet(what: str) -> Callable[[Config], int]:
    """Make a command of a later version answer with one line."""

    def refuse(_: Config) -> int:
        raise UnsupportedError(f"psych-ray {what}: this version does not do that yet")

    return refuse


COMMANDS: dict[str, Callable[[Config], int]] = {
    "sweep": sweep,
    "plan": plan,
    "status": status,
    "report": report,
    "check": check,
    "compact": not_yet("compact"),
}


def report_lines(config: Config, store: ResultsStore, snapshot: Snapshot) -> list[str]:
    """Write the report and return the closing lines: headline numbers, and where everything lies."""
    from psych_ray.report import write_report
    from psych_ray.study import findings

    responses = scan_responses(store, snapshot.parts)
    made_by = snapshot.footers
    facts = {footer.checkpoint.slug: footer.checkpoint for footer in made_by}
    about = {
        "results": store.location,
        "scoring": ", ".join(f"{name} {value}" for name, value in asdict(made_by[0].scoring).items()),
        "engine": ", ".join(sorted({footer.engine for footer in made_by})),
        "versions": ", ".join(f"{name} {number}" for name, number in made_by[0].versions.items()),
    }
    written = write_report(
        findings(responses, list(facts.values())), config.report_root(), title=_title(config), about=about
    )
    return [
        *written.headlines,
        f"tables:  {store.location}/responses/**/*.parquet",
        f"figures: {written.figures[0].parent}" if written.figures else "figures: none",
        f"page:    {written.page}",
    ]


def _score(prepared: Prepared, config: Config, tracker: Tracker, skipped: list[str]) -> list[str]:
    """Run the sweep with its tracker; the tracker learns how it ended, whatever happens."""
    from psych_ray.app.sweep import run_sweep

    began = time.monotonic()
    tracker.handle(_start(prepared, config))
    failures: list[str] = []
    interrupted = False
    try:
        failures = run_sweep(prepared, config, tracker)
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        seconds = time.monotonic() - began
        tracker.handle(SweepEnded(seconds=seconds, failures=(*skipped, *failures), interrupted=interrupted))
    return failures


def _start(prepared: Prepared, config: Config) -> SweepStarted:
    tasks = [
        TaskPlan(
            checkpoint=task.checkpoint,
            condition=task.condition,
            units=len(task.missing),
            responses=task.n_responses,
            responses_committed=task.n_responses - task.n_responses_missing,
            characters=task.n_characters_missing,
            tallies=prepared.snapshot.tallies.get((task.checkpoint, task.condition), {}),
        )
        for task in prepared.tasks
    ]
    return SweepStarted(
        name=_title(config),
        results_root=config.results.root,
        scoring=prepared.scoring,
        tasks=tuple(tasks),
        checkpoints={slug: checkpoint_facts(checkpoint) for slug, checkpoint in prepared.checkpoints.items()},
    )


def _title(config: Config) -> str:
    return config.tracking.name or Path(config.results.root.rstrip("/")).name or "sweep"


def _right(*names: str) -> list[Column | str]:
    return [Column(name, justify="right") for name in names]


def _show(table: Table) -> None:
    Console().print(table)


def _print(line: str) -> None:
    print(line)  # noqa: T201  the command's result


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201  progress and complaints
