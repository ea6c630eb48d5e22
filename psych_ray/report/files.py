"""The report as files: figures, tables, summary, and the page last, because it links to the others.

Files are written atomically: an interrupted report leaves no incomplete file. Names are untrusted data, which a
spreadsheet must not run: see `harmless`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from psych_ray.atomic import write_atomically
from psych_ray.errors import ResultsError
from psych_ray.report import findings
from psych_ray.report.figures import KINDS, RenderedFigure, render_figure
from psych_ray.report.findings import Finding, Statement
from psych_ray.report.headlines import headlines
from psych_ray.report.page import Told, render
from psych_ray.report.summary import FILE, SCHEMA_FILE, schema, summary
from psych_ray.report.tables import refused_table
from psych_ray.report.viewer import ViewedTranscript
from psych_ray.results.refused import Refusal
from psych_ray.study.tables import Findings


@dataclass(frozen=True)
class ReportFiles:
    """The files that were written, and the headlines."""

    page: Path
    figures: tuple[Path, ...]
    """PNG, PDF and SVG of each figure."""
    tables: tuple[Path, ...]
    """CSV and Parquet of each table."""
    summary: Path
    headlines: tuple[str, ...]
    """Plain text, one sentence each."""


def write_report(
    found: Findings,
    root: Path,
    *,
    title: str,
    about: Mapping[str, str],
    refused: Sequence[Refusal] = (),
    viewed: Sequence[ViewedTranscript] = (),
    figures: Sequence[str] = (),
) -> ReportFiles:
    """Write figures/, tables/, summary.json and index.html under `root`, replacing those of an earlier report.

    `about`: facts of the sweep, shown unchanged. `refused`: what of the sources was not scored. `viewed`: for the
    page's viewer. `figures`: names of the findings with a figure and a place on the page; empty: all. The page needs
    no other file and no network. ResultsError where a file cannot be written.
    """
    statements = {finding.name: finding.statements(found) for finding in findings.ALL}
    shown = [_told(finding, statements[finding.name], found) for finding in findings.chosen(figures)]
    not_used = refused_table(refused)
    lines = headlines(found)
    told = [(finding, statements[finding.name]) for finding in findings.ALL]
    _write(root / SCHEMA_FILE, schema().encode())
    page = render(found, shown, title=title, about=about, headlines=lines, refused=not_used, viewed=viewed)
    return ReportFiles(
        figures=tuple(_write_figures(root / "figures", [one.figure for one in shown if one.figure is not None])),
        tables=tuple(_write_tables(root / "tables", {**found.tables(), "refused": not_used})),
        summary=_write(root / FILE, summary(found, told, title=title, about=about).encode()),
        page=_write(root / "index.html", page.encode()),
        headlines=lines,
    )


def harmless(frame: pl.DataFrame) -> pl.DataFrame:
    """The table with an apostrophe before every text that a spreadsheet would take for a formula; numbers stay."""
    return frame.with_columns(pl.col(pl.String).str.replace(r"^([=+\-@\t\r\n])", "'$1"))


def _told(finding: Finding, statements: list[Statement], found: Findings) -> Told:
    return Told(finding, statements, render_figure(finding, found) if statements else None)


def _write_figures(folder: Path, figures: Sequence[RenderedFigure]) -> list[Path]:
    written = [_write(folder / f"{figure.name}.{kind}", figure.content[kind]) for figure in figures for kind in KINDS]
    for path in (folder / f"{finding.name}.{kind}" for finding in findings.ALL for kind in KINDS):
        if path not in written:
            _remove(path)  # of an earlier report
    return written


def _write_tables(folder: Path, tables: Mapping[str, pl.DataFrame]) -> list[Path]:
    written = []
    for name, frame in tables.items():
        written.append(_write(folder / f"{name}.csv", harmless(frame).write_csv().encode()))
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        written.append(_write(folder / f"{name}.parquet", buffer.getvalue()))
    return written


def _write(path: Path, content: bytes) -> Path:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise _not_written(path, error) from error
    return path


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> ResultsError:
    return ResultsError(
        f"{path}: the report cannot be written there ({error.strerror or error}); free space or name another "
        "report.root, then run psych-ray report; the results are not affected"
    )
