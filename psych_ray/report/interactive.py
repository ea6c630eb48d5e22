"""Data of the page's heat map and forest plot, which show their numbers on hover, focus and tap.

Values only, as text and numbers; the template escapes them. Independent of how they are laid out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import polars as pl

from psych_ray.report.findings.misalignment import forest_pair
from psych_ray.report.findings.wording import Estimate, counted
from psych_ray.report.heat_figure import Cells, heat_cells, heat_columns, is_told, n_pairs, reach
from psych_ray.report.marks import checkpoint_ids
from psych_ray.report.style import MINUS
from psych_ray.study.tables import Findings

MAX_PAIRS = 100
MAX_FOREST_ROWS = 16_000


@dataclass(frozen=True)
class HeatCell:
    """A cell of the heat map; `text` is empty where no study is in it."""

    text: str
    detail: str
    side: str
    """pos, neg or none: of the colour."""
    strength: float
    """0 to 1, of the colour."""
    told: bool


@dataclass(frozen=True)
class HeatTable:
    """The heat map of the page."""

    columns: list[str]
    rows: list[tuple[str, list[HeatCell]]]
    n_pairs: int
    """Of all; `rows` may be fewer, and has the mean first."""


def heat_table(found: Findings) -> HeatTable | None:
    """The cells with their numbers as text; None without domains."""
    columns = heat_columns(found)
    rows, cells = heat_cells(found)
    if not columns:
        return None
    most = reach(cells)
    shown = [(label, [_cell(cells, key, label, domain, most) for domain in columns]) for key, label in rows]
    return HeatTable(columns, shown, n_pairs(found))


def _cell(cells: Cells, key: str, label: str, domain: str, most: float) -> HeatCell:
    cell = cells.get((key, domain))
    if cell is None:
        return HeatCell("", f"{label} · {domain}: no study", "none", 0.0, told=False)
    values = [_p(cell, "p"), _p(cell, "q")]
    estimate = Estimate.of(cell).text() if "low" in cell else f"d = {cell['d']:z.3f}"
    counts = counted(cell["n_studies"], "study", "studies")
    detail = f"{label} · {domain}: {'; '.join([estimate, *filter(None, values), counts])}"
    side = "pos" if cell["d"] > 0 else "neg"
    text = f"{cell['d']:z.2f}".replace("-", MINUS)
    return HeatCell(text, detail, side, round(min(1.0, abs(cell["d"]) / most), 2), told=is_told(cell))


def _p(cell: dict[str, Any], name: str) -> str:
    value = cell[name]
    return "" if value is None else f"{name} < 0.001" if value < 0.001 else f"{name} = {value:.3f}"


def forest_data(found: Findings) -> dict[str, Any] | None:
    """Each pair with its studies, for the script; at most `MAX_PAIRS`: the figure's, then those of largest |d|."""
    pairs = found.in_main_condition(found.misalignment).drop_nulls("d")
    first = forest_pair(found)
    if pairs.is_empty() or first is None:
        return None
    ids = checkpoint_ids(found)
    is_first = (pl.col("post") == first["post"]) & (pl.col("base") == first["base"])
    ordered = pairs.sort(is_first, pl.col("d").abs(), descending=True, maintain_order=True).head(MAX_PAIRS)
    rows = found.in_main_condition(found.misalignment_by_study).drop_nulls("d")
    by_pair = rows.partition_by("post", as_dict=True, maintain_order=True)
    names = rows["study"].unique(maintain_order=True).to_list()
    place = {name: at for at, name in enumerate(names)}
    made: list[dict[str, Any]] = []
    n = 0
    for pair in ordered.iter_rows(named=True):
        own = by_pair.get((pair["post"],), rows.clear()).filter(pl.col("base") == pair["base"])
        n += own.height
        if made and n > MAX_FOREST_ROWS:
            break
        made.append(
            {
                "label": f"{ids.get(pair['post'], pair['post'])} against {ids.get(pair['base'], pair['base'])}",
                **{name: _short(pair[name]) for name in ("re_d", "re_low", "re_high", "pi_low", "pi_high")},
                "rows": [
                    [place[study], *(_short(value) for value in values), participants, responses]
                    for study, *values, participants, responses in own.sort("d", descending=True, maintain_order=True)
                    .select("study", "d", "low", "high", "n_participants", "n_responses")
                    .iter_rows()
                ],
            }
        )
    return {"studies": names, "pairs": made, "n_pairs": pairs.height}


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)
