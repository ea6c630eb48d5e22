"""The report of a results store: statistics of its responses, as figures, tables and a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from psych_ray.config import Config
from psych_ray.errors import ResultsError
from psych_ray.results.catalogue import no_sources
from psych_ray.results.reading import open_tasks
from psych_ray.results.refused import read_refused
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import ResultsStore
from psych_ray.results.transcript_facts import transcript_facts
from psych_ray.tracking.events import Reported

if TYPE_CHECKING:
    from psych_ray.report import ReportFiles
    from psych_ray.study.tables import Findings

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class MadeReport:
    """A report that was written."""

    lines: tuple[str, ...]
    """For the user: headline numbers, and where everything was written."""
    found: Findings
    files: ReportFiles


def report(
    config: Config, store: ResultsStore, snapshot: Snapshot, *, on_progress: Progress = lambda what, done, of: None
) -> list[str]:
    """Write the report, as `make_report`; headline numbers, and where everything was written, a line each.

    ResultsError where the store has no responses.
    """
    return list(make_report(config, store, snapshot, on_progress=on_progress).lines)


def reported(made: MadeReport, store: ResultsStore, snapshot: Snapshot) -> Reported:
    """What trackers receive of a report."""
    location = store.location
    return Reported(
        headlines=made.files.headlines,
        tables=made.found.tables(),
        figures=tuple(path for path in made.files.figures if path.suffix == ".png"),
        location=location,
        uri=location if "://" in location else Path(location).as_uri(),
        parts=tuple((str(part.name), part.size) for part in snapshot.parts),
        rows=sum(task.rows for task in snapshot.tasks.values()),
    )


def make_report(
    config: Config, store: ResultsStore, snapshot: Snapshot, *, on_progress: Progress = lambda what, done, of: None
) -> MadeReport:
    """Write the report; `on_progress` is called with what is done, how many of how many.

    ResultsError where the store has no responses.
    """
    from psych_ray.app.viewed import viewed_transcripts
    from psych_ray.report import write_report
    from psych_ray.study import Settings, findings
    from psych_ray.study.domains import load_domains

    facts, not_known = _facts(store)
    settings = Settings(
        domains=load_domains(config.study.domains),
        transcripts=facts,
        mixed_model=config.study.mixed_model,
        parity=snapshot.footers[0].scoring.parity if snapshot.footers else None,
    )
    footers = snapshot.footers
    checkpoints = {footer.checkpoint.slug: footer.checkpoint for footer in footers}
    with open_tasks(store, snapshot.parts) as tasks:
        found = findings(tasks, list(checkpoints.values()), settings, on_progress=on_progress)
        viewed, not_viewed = viewed_transcripts(store, tasks, found, n=config.report.transcripts)
    about = {
        "results": store.location,
        "scoring": ", ".join(f"{name} {value}" for name, value in asdict(footers[0].scoring).items()),
        "engine": ", ".join(sorted({footer.engine for footer in footers})),
        "versions": ", ".join(f"{name} {number}" for name, number in footers[0].versions.items()),
    }
    written = write_report(
        found,
        config.report_root(),
        title=sweep_name(config),
        about=about,
        refused=read_refused(store),
        viewed=viewed,
        figures=config.report.figures,
    )
    lines = (
        *written.headlines,
        f"tables:  {store.location}/responses (Delta Lake)",
        f"figures: {written.figures[0].parent}" if written.figures else "figures: none",
        f"page:    {written.page}",
        *not_known,
        *not_viewed,
    )
    return MadeReport(lines=lines, found=found, files=written)


def _facts(store: ResultsStore) -> tuple[pl.DataFrame | None, list[str]]:
    """Facts of the transcripts; None, with a line for the user, where `sources/` is damaged or absent."""
    none = "groups:  none by age, gender or diagnosis, and no reaction times"
    try:
        facts = transcript_facts(store)
    except ResultsError as error:
        return None, [f"{none}: {error}"]
    return (facts, []) if facts.height else (None, [f"{none}: {no_sources(store)}"])


def sweep_name(config: Config) -> str:
    """Name of the sweep: the configured one, or the last component of the results root."""
    return config.tracking.name or Path(config.results.root.rstrip("/")).name or "sweep"
