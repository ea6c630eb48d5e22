"""The commands: each calls `app` and shows what comes back, as tables and lines. Computes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from rich.table import Table

from psych_ray.app.cluster import cluster_to_run_on
from psych_ray.app.prepare import find_sweep, prepare
from psych_ray.cli.plan import plan
from psych_ray.cli.show import print_line, progress, right, say, show
from psych_ray.config import Config
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import open_store

INCOMPLETE = 3
_CHECKED_TRANSCRIPTS = 3


def sweep(config: Config) -> int:
    """Score what is missing, then report."""
    from psych_ray.app.sweep import sweep as run_sweep

    began = time.monotonic()
    result = run_sweep(config, say=say)
    for line in [*result.lines, f"{time.monotonic() - began:.0f} s in all"]:
        print_line(line)
    return INCOMPLETE if result.skipped else 0


def status(config: Config) -> int:
    """Show what is committed and what is missing."""
    from psych_ray.app.status import held_by, status_of
    from psych_ray.cli.held import held_lines

    store = open_store(config.results.root)
    held = held_by(store)
    for line in held_lines(held) if held else ():
        print_line(line)
    found = status_of(store)
    table = Table("checkpoint", "condition", *right("transcripts", "missing", "rows", "not scored", "parts"))
    for task in found.tasks:
        numbers = (task.transcripts, task.transcripts_missing, task.rows, task.rows_not_scored, task.parts)
        table.add_row(task.checkpoint, task.condition, *(f"{n:,}" for n in numbers))
    show(table)
    missing = sum(task.transcripts_missing for task in found.tasks)
    verdict = "complete"
    if missing:
        verdict = f"{missing:,} transcripts x tasks are missing, the sweep's command continues it"
    rows = sum(task.rows for task in found.tasks)
    print_line(f"{config.results.root}: {rows:,} rows of {found.n_transcripts:,} transcripts; {verdict}")
    return 0


def report(config: Config) -> int:
    """Write statistics, figures and page from the parts."""
    from psych_ray.app.report import report as write_report

    store = open_store(config.results.root)
    with progress() as on_progress:
        lines = write_report(config, store, Snapshot.read(store), on_progress=on_progress)
    for line in lines:
        print_line(line)
    return 0


def check(config: Config) -> int:
    """Load every checkpoint; show its self-check and how transcripts align with its tokens."""
    from psych_ray.app.check import check as run_check
    from psych_ray.cluster.check import NotLoaded
    from psych_ray.transcripts.sources import read_transcripts

    limit = min(config.transcripts.limit or _CHECKED_TRANSCRIPTS, _CHECKED_TRANSCRIPTS)
    transcripts = list(read_transcripts(replace(config.transcripts, limit=limit), on_skipped=lambda _: None))
    checks = Table("checkpoint", "check", "passed", "found")
    edges = Table("checkpoint", "study", *right("responses", "edges inside a token"))
    not_loaded = 0
    with cluster_to_run_on(config.cluster) as cluster:
        in_sweep = find_sweep(config, say=say)
        for name, reason in in_sweep.missing.items():
            not_loaded += 1
            checks.add_row(name, "loading", "no", reason)
        store = open_store(config.results.root)
        prepared = prepare(
            config, in_sweep.checkpoints, Snapshot.read(store), store, cluster, write=False, place_all=True
        )
        for found in run_check(prepared, config, transcripts):
            if isinstance(found, NotLoaded):
                not_loaded += 1
                checks.add_row(", ".join(found.checkpoints), "loading", "no", found.reason)
                continue
            for one in found.checks:
                checks.add_row(found.checkpoint, one.name, "yes" if one.passed else "no", one.detail)
            checks.add_row(found.checkpoint, "engine", "", found.engine, end_section=True)
            for study, n in found.straddling_edges.items():
                if n:
                    edges.add_row(found.checkpoint, study, f"{found.responses[study]:,}", f"{n:,}")
    show(checks)
    if edges.row_count:
        show(edges)
    return 1 if not_loaded else 0


def verify(config: Config) -> int:
    """Check every file of the results root, and repair it where that is asked for."""
    from psych_ray.app.verify import verify as run_verify

    return _show_lines(*run_verify(config, say=say))


def compact(config: Config) -> int:
    """Rewrite many parts into few large ones."""
    from psych_ray.app.compact import compact as run_compact

    return _show_lines(*run_compact(config, say=say))


def track(config: Config) -> int:
    """Rebuild tracking from the parts."""
    from psych_ray.app.track import track as run_track

    return _show_lines(*run_track(config, say=say))


COMMANDS: dict[str, Callable[[Config], int]] = {
    "sweep": sweep,
    "plan": plan,
    "status": status,
    "report": report,
    "check": check,
    "verify": verify,
    "compact": compact,
    "track": track,
}


def _show_lines(lines: Sequence[str], is_well: bool) -> int:
    for line in lines:
        print_line(line)
    return 0 if is_well else 1
