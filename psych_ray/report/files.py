"""The report as files: figures, tables, and the page last, because it links to the others.

Files are written atomically: an interrupted report leaves no incomplete file. Names are untrusted data, which a
spreadsheet must not run: see `harmless`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import polars as pl

from psych_ray.atomic import write_atomically
from psych_ray.errors import ResultsError
from psych_ray.report.figures import render_figures
from psych_ray.report.headlines import headlines
from psych_ray.report.page import render
from psych_ray.report.tables import refused_table
from psych_ray.results.refused import Refusal
from psych_ray.study import Findings


@dataclass(frozen=True)
class ReportFiles:
    """The files that were written, and the headlines."""

    page: Path
    figures: tuple[Path, ...]
    """PNG and PDF of each figure."""
    tables: tuple[Path, ...]
    headlines: tuple[str, ...]
    """Plain text, one sentence each."""


def write_report(
    found: Findings, root: Path, *, title: str, about: Mapping[str, str], refused: Sequence[Refusal] = ()
) -> ReportFiles:
    """Write figures/, tables/ and index.html under `root`, replacing those of an earlier report.

    `about`: facts of the sweep, shown unchanged. `refused`: what of the sources was not scored. The page
    needs no other file and no network. ResultsError where a file cannot be written.
    """
    sentences = headlines(found)
    rendered = render_figures(found)
    figures = []
    for figure in rendered:
        figures.append(_write(root / "figures" / f"{figure.name}.png", figure.png))
        figures.append(_write(root / "figures" / f"{figure.name}.pdf", figure.pdf))
    tables = []
    for field in fields(found):
        frame: pl.DataFrame = getattr(found, field.name)
        tables.append(_write(root / "tables" / f"{field.name}.csv", harmless(frame).write_csv().encode()))
    not_used = refused_table(refused)
    tables.append(_write(root / "tables" / "refused.csv", harmless(not_used).write_csv().encode()))
    page = render(found, title=title, about=about, headlines=sentences, figures=rendered, refused=not_used)
    written = _write(root / "index.html", page.encode())
    return ReportFiles(page=written, figures=tuple(figures), tables=tuple(tables), headlines=sentences)


def harmless(frame: pl.DataFrame) -> pl.DataFrame:
    """The table with an apostrophe before every text that a spreadsheet would take for a formula; numbers stay."""
    return frame.with_columns(pl.col(pl.String).str.replace(r"^([=+\-@\t\r\n])", "'$1"))


def _write(path: Path, content: bytes) -> Path:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise ResultsError(
            f"{path}: the report cannot be written there ({error.strerror or error}); free space or name another "
            "report.root, then run psych-ray report; the results are not affected"
        ) from error
    return path
