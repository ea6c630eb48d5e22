"""Figure of misalignment by pair and domain, a heat map, and the colours of its cells.

`heat_rows` and `heat_columns` decide what is in it, for the page too. Layout only: every number is in `Findings`.
"""

from __future__ import annotations

from typing import Any

import polars as pl
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from psych_ray.report.marks import checkpoint_ids
from psych_ray.report.style import FAINT, INK, MINUS, PAGE_MM, inches, shorten
from psych_ray.study.tables import Findings

MAX_ROWS = 60
MAX_COLUMNS = 20
LEVEL = 0.05
_COLOURS = LinearSegmentedColormap.from_list("misalignment", ["#0072B2", "#ffffff", "#D55E00"])
_MEAN = "all pairs"
Cells = dict[tuple[str, str], dict[str, Any]]


def heat_columns(found: Findings) -> list[str]:
    """Domains in the order of their mean d, largest first."""
    rows = found.in_main_condition(found.by_domain).sort("d", descending=True, nulls_last=True, maintain_order=True)
    return rows["domain"].to_list()[:MAX_COLUMNS]


def heat_cells(found: Findings) -> tuple[list[tuple[str, str]], Cells]:
    """Keys and labels of the rows, first the mean over pairs, and the cells by key of the row and domain.

    At most `MAX_ROWS` pairs, those of largest mean absolute d.
    """
    ids = checkpoint_ids(found)
    pairs = found.in_main_condition(found.by_pair_and_domain).drop_nulls("d")
    strength = pairs.group_by("post", maintain_order=True).agg(pl.col("d").abs().mean())
    kept = set(strength.sort("d", descending=True, maintain_order=True).head(MAX_ROWS)["post"])
    posts = [post for post in strength["post"] if post in kept]
    cells: Cells = {(row["post"], row["domain"]): row for row in pairs.iter_rows(named=True) if row["post"] in kept}
    for row in found.in_main_condition(found.by_domain).drop_nulls("d").iter_rows(named=True):
        cells["", row["domain"]] = row
    return [("", _MEAN), *((post, ids.get(post, post)) for post in posts)], cells


def n_pairs(found: Findings) -> int:
    """Pairs that have a cell."""
    return int(found.in_main_condition(found.by_pair_and_domain).drop_nulls("d")["post"].n_unique())


def reach(cells: Cells) -> float:
    """The absolute d of the strongest colour; the few largest cells may be beyond it."""
    values = sorted(abs(cell["d"]) for cell in cells.values())
    return max(values[int(0.97 * (len(values) - 1))], 0.05) if values else 0.05


def is_told(cell: dict[str, Any]) -> bool:
    """Whether a cell differs from zero at a false discovery rate of 0.05."""
    return cell["q"] is not None and cell["q"] < LEVEL


def heat_map(found: Findings) -> Figure | None:
    """Rows: pairs, first their mean; columns: domains."""
    columns = heat_columns(found)
    rows, cells = heat_cells(found)
    if not columns:
        return None
    row_mm = 4.4 if len(rows) <= 40 else 3.5
    figure = Figure(figsize=(inches(PAGE_MM), inches(36 + row_mm * len(rows))), layout="constrained")
    ax = figure.subplots()
    norm = TwoSlopeNorm(0, -reach(cells), reach(cells))
    for y, (key, _) in enumerate(rows):
        for x, domain in enumerate(columns):
            cell = cells.get((key, domain))
            colour = "#ededed" if cell is None else _COLOURS(norm(cell["d"]))
            ax.add_patch(Rectangle((x - 0.5, y - 0.5 + (0.25 if y else 0)), 1, 1, facecolor=colour, edgecolor="white",
                                   linewidth=0.6))  # fmt: skip
            if cell is not None:
                _write(ax, x, y + (0.25 if y else 0), cell, norm(cell["d"]))
    ax.set_xlim(-0.5, len(columns) - 0.5)
    ax.set_ylim(len(rows) - 0.25, -0.5)
    ax.set_yticks([y + (0.25 if y else 0) for y in range(len(rows))], [shorten(label, 34) for _, label in rows])
    ax.set_xticks(range(len(columns)), [shorten(domain, 24) for domain in columns], rotation=35, ha="left")
    ax.xaxis.tick_top()
    ax.tick_params(length=0, labelsize=6)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    hidden = n_pairs(found) - (len(rows) - 1)
    note = f"; {len(rows) - 1} of {n_pairs(found)} pairs, those of largest d" if hidden > 0 else ""
    text = f"Cohen's d, post-trained minus base; • q < 0.05; grey: no study{note}"
    figure.supxlabel(text, fontsize=6, color=FAINT, x=0.01, ha="left")
    return figure


def _write(ax: Any, x: float, y: float, cell: dict[str, Any], strength: float) -> None:
    told = is_told(cell)
    text = f"{cell['d']:z.2f}".replace("-", MINUS) + (" •" if told else "")
    colour = "white" if strength < 0.2 else INK  # on either end, that of more contrast
    ax.text(x, y, text, ha="center", va="center", fontsize=5.6, color=colour, fontweight="bold" if told else "normal")
