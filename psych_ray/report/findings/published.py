"""The finding about published values: those of the study beside those of this run.

Layout of the figure is in `report.published_figure`.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from psych_ray.report import published_figure
from psych_ray.report.findings.finding import Finding, Statement
from psych_ray.report.findings.wording import Estimate, counted, number
from psych_ray.report.style import size_label
from psych_ray.study.tables import Findings

_NOT_COMPARABLE = "not comparable"


def _statements(found: Findings) -> list[Statement]:
    rows = found.published.drop_nulls(["value", "published"])
    if rows.is_empty():
        return []
    comparable = rows.filter(pl.col("verdict") != _NOT_COMPARABLE)
    n_not = rows.height - comparable.height
    rest = f" {counted(n_not, 'value')} of this run {'is' if n_not == 1 else 'are'} not comparable." if n_not else ""
    if comparable.is_empty():
        text = f"No published value can be compared with this run, which has other checkpoints or data.{rest}"
        return [Statement(text, _numbers(rows))]
    parts = comparable.group_by("verdict", maintain_order=True).len()
    counts = ", ".join(f"{verdict} in {n}" for verdict, n in parts.sort("verdict").iter_rows())
    of = counted(comparable.height, "published value")
    text = f"Of {of} that can be compared, this run {counts}.{rest}"
    differing = [_difference(row) for row in comparable.filter(pl.col("verdict") == "differs").iter_rows(named=True)]
    return [Statement(text, _numbers(rows)), *differing]


def _numbers(rows: pl.DataFrame) -> tuple[Any, ...]:
    return tuple(Estimate.of(row, "value").number(_name(row), row["finding"]) for row in rows.iter_rows(named=True))


def _name(row: dict[str, Any]) -> str:
    size = "" if row["size_b"] is None else f" {size_label(row['size_b'])}"
    return f"{row['group']}{size}"


def _difference(row: dict[str, Any]) -> Statement:
    estimate = Estimate.of(row, "value")
    inside = (
        estimate.low is not None and estimate.high is not None and estimate.low <= row["published"] <= estimate.high
    )
    covered = "; the interval includes the published value" if inside else ""
    text = (
        f"{row['finding']}, {_name(row)}: {estimate.text('this run')}; published {number(row['published'])}{covered}."
    )
    return Statement(text)


PUBLISHED = Finding(
    name="published",
    title="Beside the published values",
    statements=_statements,
    figure=published_figure.published,
    caption="Markers: this run with its 95 % interval, filled where it is comparable; black lines: the published "
    "value, with its reading error.",
    ours="Published values were read from the plots of the study (arXiv 2605.07632), with the error in the table; "
    "those of this run are by the authors' definitions. They are compared where checkpoints and data are those of the "
    "study; a difference beyond the reading error is told.",
    authors="As published.",
    tables=("published",),
    needs="checkpoints of the study",
)
