"""Panels side by side, one for each generation, and which checkpoints are in them.

Layout only; independent of what is drawn in a panel.
"""

from __future__ import annotations

import math

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from psych_ray.report.marks import is_reference
from psych_ray.report.style import COLUMN_MM, GRID, INK, MIDDLE_MM, PAGE_MM, inches, shorten
from psych_ray.study.tables import Findings

COLUMNS = 4
MAX_PANELS = 24


def panels(n: int, *, height_mm: float = 52) -> tuple[Figure, list[Axes]]:
    """A figure with `n` panels that share their axes; four in a row."""
    columns = min(n, COLUMNS)
    n_rows = math.ceil(n / columns)
    width = (COLUMN_MM, MIDDLE_MM, PAGE_MM)[min(columns, 3) - 1]
    figure = Figure(figsize=(inches(width), inches(15 + height_mm * n_rows)), layout="constrained")
    grid = figure.subplots(n_rows, columns, sharex=True, sharey=True, squeeze=False)
    axes = [ax for row in grid for ax in row]
    for index, ax in enumerate(axes):
        ax.tick_params(axis="x", labelbottom=index + columns >= n)
        ax.grid(axis="y", color=GRID, linewidth=0.6)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        if index >= n:
            ax.set_visible(False)
    return figure, axes[:n]


def panel_title(ax: Axes, family: str, generation: str) -> None:
    """The generation, or the family where it is unknown."""
    name = family if generation == "unknown" else generation
    ax.set_title("" if name == "unknown" else shorten(name), loc="left", fontweight="bold", color=INK)


def largest_by_stage(found: Findings, table: pl.DataFrame) -> pl.DataFrame:
    """Rows of `by_checkpoint`, main condition: of each generation and stage the largest that has rows in `table`."""
    present = table["checkpoint"].unique().to_list()
    rows = found.in_main_condition(found.by_checkpoint).filter(pl.col("checkpoint").is_in(present), ~is_reference())
    largest = rows.with_columns(pl.col("size_b").fill_null(0)).sort("size_b", descending=True, maintain_order=True)
    kept = largest.unique(["family", "generation", "stage"], keep="first", maintain_order=True)["checkpoint"].to_list()
    return rows.filter(pl.col("checkpoint").is_in(kept))
