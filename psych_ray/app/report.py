"""The report of a results store: statistics of its responses, as figures, tables and a page."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import polars as pl

from psych_ray.config import Config
from psych_ray.errors import ResultsError
from psych_ray.results.catalogue import no_sources
from psych_ray.results.reading import open_tasks
from psych_ray.results.refused import read_refused
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import ResultsStore
from psych_ray.results.transcript_facts import transcript_facts


def report(config: Config, store: ResultsStore, snapshot: Snapshot) -> list[str]:
    """Write the report; headline numbers, and where everything was written, a line each.

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
        found = findings(tasks, list(checkpoints.values()), settings)
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
    return [
        *written.headlines,
        f"tables:  {store.location}/responses (Delta Lake)",
        f"figures: {written.figures[0].parent}" if written.figures else "figures: none",
        f"page:    {written.page}",
        *not_known,
        *not_viewed,
    ]


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
