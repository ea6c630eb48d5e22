"""The finding about domains of psychology: a heat map of pairs and domains.

Layout of the figure is in `report.heat_figure`.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from psych_ray.report import heat_figure
from psych_ray.report.findings.finding import Finding, Statement
from psych_ray.report.findings.misalignment import MEASURE, bracket, effect_counts
from psych_ray.report.findings.wording import Estimate, counted, listed, number
from psych_ray.study.tables import Findings

LEVEL = 0.05


def _statements(found: Findings) -> list[Statement]:
    rows = found.in_main_condition(found.by_domain).sort("d", descending=True, nulls_last=True, maintain_order=True)
    if rows.is_empty():
        return []
    told = rows.filter(pl.col("q") < LEVEL)
    above, below = (
        [_named(row) for row in told.filter(side).iter_rows(named=True)] for side in (pl.col("d") > 0, pl.col("d") < 0)
    )
    numbers = tuple(
        Estimate.of(row).number(f"domain {row['domain']}", MEASURE, effect_counts(row))
        for row in rows.iter_rows(named=True)
    )
    n = counted(rows.height, "domain")
    if not above and not below:
        return [Statement(f"In none of {n} misalignment differs from zero (q < 0.05).", numbers), *_largest(rows)]
    parts = [
        f"{words} in {len(names)}: {listed(names, 4)}"
        for words, names in (("above zero", above), ("below zero", below))
        if names
    ]
    rest = rows.height - len(above) - len(below)
    last = f"; in {rest} no difference was found" if rest else ""
    return [Statement(f"Of {n}, misalignment is {'; '.join(parts)} (q < 0.05){last}.", numbers), *_largest(rows)]


def _named(row: dict[str, Any]) -> str:
    return f"{row['domain']} ({number(row['d'])})"


def _largest(rows: pl.DataFrame) -> list[Statement]:
    if rows.height < 2:
        return []
    first, second = (rows.row(at, named=True) for at in (0, 1))
    estimate = Estimate.of(first)
    apart = not estimate.overlaps(Estimate.of(second))
    text = f"The largest mean is that of {first['domain']} {bracket(estimate, first)}"
    rest = "above the interval of the next" if apart else f"the data do not tell it from that of {second['domain']}"
    return [Statement(f"{text}; {rest}.")]


DOMAINS = Finding(
    name="domains",
    title="Misalignment by domain",
    statements=_statements,
    figure=heat_figure.heat_map,
    caption="Cohen's d of each pair in the studies of a domain; the first row is the mean over pairs. Bold, with a "
    "dot: q < 0.05. Grey: no study.",
    ours="Misalignment as by stage, with the population standard deviation, in the studies of a domain. p: test of the "
    "random-effects mean over studies, of a single study with errors clustered by participant. q: p adjusted by "
    "Benjamini and Hochberg, over domains in the first row, over all cells in the others.",
    authors="The study shows the same means, without four domains that have few studies (column published), and tests "
    "none.",
    tables=("by_domain", "by_pair_and_domain"),
    needs="a pair, and studies whose domain is known",
)
