"""The report of a results store: statistics of its responses, as figures, tables and a page."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path

from psych_ray.config import Config
from psych_ray.results.reading import open_responses
from psych_ray.results.refused import read_refused
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import ResultsStore


def report(config: Config, store: ResultsStore, snapshot: Snapshot) -> list[str]:
    """Write the report; headline numbers, and where everything was written, a line each.

    ResultsError where the store has no responses.
    """
    from psych_ray.app.viewed import viewed_transcripts
    from psych_ray.report import write_report
    from psych_ray.study import findings
    from psych_ray.study.domains import load_domains, with_domain
    from psych_ray.study.schemas import table
    from psych_ray.study.tables import Findings

    domains = load_domains(config.study.domains)
    footers = snapshot.footers
    checkpoints = {footer.checkpoint.slug: footer.checkpoint for footer in footers}
    with open_responses(store, snapshot.parts) as responses:
        earlier = findings(responses, list(checkpoints.values()))
        earlier = replace(earlier, by_study=with_domain(earlier.by_study, domains))
        found = Findings(**{one.name: table(one.name, getattr(earlier, one.name)) for one in fields(earlier)})
        viewed, not_viewed = viewed_transcripts(store, responses, found, n=config.report.transcripts)
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
        *not_viewed,
    ]


def sweep_name(config: Config) -> str:
    """Name of the sweep: the configured one, or the last component of the results root."""
    return config.tracking.name or Path(config.results.root.rstrip("/")).name or "sweep"
