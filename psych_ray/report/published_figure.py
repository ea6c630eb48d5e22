"""Figure of published values beside those of this run, a panel for each kind of value.

Layout only: every number is in `Findings`.
"""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from psych_ray.report.style import FAINT, GRID, INK, MIDDLE_MM, inches, shorten, size_label
from psych_ray.study.tables import Findings

MAX_ROWS = 70
_RUN = "#0072B2"
_ROW_MM = 3.8


def published(found: Findings) -> Figure | None:
    """One row a published value that this run has, at most `MAX_ROWS`."""
    every = found.published.filter(pl.col("value").is_not_null(), pl.col("published").is_not_null())
    groups = every.head(MAX_ROWS).partition_by("finding", maintain_order=True)
    if not groups:
        return None
    heights = [_ROW_MM * rows.height + 4 for rows in groups]
    figure = Figure(figsize=(inches(MIDDLE_MM), inches(8 + sum(heights) + 9 * len(groups))), layout="constrained")
    axes = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)
    for ax, rows in zip([row[0] for row in axes], groups, strict=True):
        _panel(ax, rows)
    note = "filled: comparable; black lines: published, with reading error"
    if every.height > MAX_ROWS:
        note += f"; the first {MAX_ROWS} of {every.height}"
    figure.supxlabel(note, fontsize=6, color=FAINT, x=0.01, ha="left")
    return figure


def _panel(ax: Axes, rows: pl.DataFrame) -> None:
    labels = []
    for at, row in enumerate(rows.iter_rows(named=True)):
        labels.append(shorten(row["group"], 28) + ("" if row["size_b"] is None else f" {size_label(row['size_b'])}"))
        error = row["reading_error"] or 0
        ax.plot([row["published"] - error, row["published"] + error], [at, at], color=FAINT, linewidth=4, alpha=0.5,
                solid_capstyle="butt", zorder=1)  # fmt: skip
        ax.plot([row["published"]], [at], linestyle="none", color=INK, marker="|", markersize=8, markeredgewidth=1.2)
        if row["low"] is not None and row["high"] is not None:
            ax.plot([row["low"], row["high"]], [at, at], color=_RUN, linewidth=1)
        filled = _RUN if row["verdict"] != "not comparable" else "white"
        ax.plot([row["value"]], [at], linestyle="none", marker="o", markersize=4, markerfacecolor=filled,
                markeredgecolor=_RUN, markeredgewidth=0.9, zorder=4)  # fmt: skip
    ax.set_yticks(range(rows.height), labels)
    ax.set_ylim(rows.height - 0.4, -0.6)
    ax.tick_params(axis="y", length=0, labelsize=6)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x", color=GRID, linewidth=0.6)
    ax.margins(x=0.12)
    ax.set_title(shorten(rows["finding"][0], 48), loc="left", fontweight="bold")
