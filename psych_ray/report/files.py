"""The report as files: figures, tables, and the page last, so that it never shows what is not there.

Each file is written beside its place and then moved there: an interrupted report leaves whole files only. This module
knows names and bytes, not what stands in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import polars as pl

from psych_ray.atomic import write_atomically
from psych_ray.report.figures import draw
from psych_ray.report.headlines import headlines
from psych_ray.report.page import render
from psych_ray.study import Findings


@dataclass(frozen=True)
class ReportFiles:
    """What was written, and the findings in sentences."""

    page: Path
    figures: tuple[Path, ...]
    """PNG and PDF of each figure."""
    tables: tuple[Path, ...]
    headlines: tuple[str, ...]
    """Plain text, a finding a line."""


def write_report(found: Findings, root: Path, *, title: str, about: Mapping[str, str]) -> ReportFiles:
    """Write figures/, tables/ and index.html under `root`, replacing those of an earlier report.

    `about` are facts of the run, shown as they are. The page needs no other file and no network.
    """
    sentences = headlines(found)
    drawn = draw(found)
    figures = []
    for figure in drawn:
        figures.append(_write(root / "figures" / f"{figure.name}.png", figure.png))
        figures.append(_write(root / "figures" / f"{figure.name}.pdf", figure.pdf))
    tables = []
    for field in fields(found):
        frame: pl.DataFrame = getattr(found, field.name)
        tables.append(_write(root / "tables" / f"{field.name}.csv", frame.write_csv().encode()))
    page = render(found, title=title, about=about, headlines=sentences, figures=drawn)
    written = _write(root / "index.html", page.encode())
    return ReportFiles(page=written, figures=tuple(figures), tables=tuple(tables), headlines=sentences)


def _write(path: Path, content: bytes) -> Path:
    write_atomically(path, content)
    return path
