"""Figure of NLL against size: one panel per generation, one line per stage.

A checkpoint with neither stage nor size, such as the simulator of the demo data, is a dashed line across all panels.
`sized_checkpoints` and `reference_checkpoints` decide what is in the figure, for the caption too.
"""

from __future__ import annotations

import math

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from psych_ray.report.style import (
    COLUMN_MM,
    FAINT,
    GRID,
    INK,
    MIDDLE_MM,
    PAGE_MM,
    STAGE_STYLES,
    inches,
    shorten,
    size_label,
    stage_style,
)
from psych_ray.study import Findings

MAX_REFERENCES = 5
_COLUMNS = 4


def sized_checkpoints(found: Findings) -> pl.DataFrame:
    """Rows of `by_checkpoint` with a size, in the main condition."""
    return found.in_main_condition(found.by_checkpoint).filter(pl.col("size_b") > 0)


def reference_checkpoints(found: Findings) -> pl.DataFrame:
    """Rows of `by_checkpoint` without stage and size, in the main condition: the `MAX_REFERENCES` of lowest NLL."""
    return (
        found.in_main_condition(found.by_checkpoint)
        .filter(pl.col("size_b").is_null(), pl.col("stage").is_null())
        .sort("nll")
        .head(MAX_REFERENCES)
    )


def nll_by_size(found: Findings) -> Figure:
    """NLL in nats per response against the number of parameters."""
    rows, lines = sized_checkpoints(found), reference_checkpoints(found)
    panels = rows.partition_by("family", "generation", maintain_order=True) or ([rows] if lines.height else [])
    if not panels:
        return empty_figure("No checkpoint with a size has a scored response")
    columns = min(len(panels), _COLUMNS)
    n_rows = math.ceil(len(panels) / columns)
    width = (COLUMN_MM, MIDDLE_MM, PAGE_MM)[min(columns, 3) - 1]
    height = 15 + 52 * n_rows
    figure = Figure(figsize=(inches(width), inches(height)), layout="constrained")
    grid = figure.subplots(n_rows, columns, sharex=True, sharey=True, squeeze=False)
    axes = [ax for row in grid for ax in row]
    for ax, panel in zip(axes, panels, strict=False):
        _panel(ax, panel)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    _size_axis(axes, rows, columns, len(panels))
    _y_axis(axes[0], rows, lines)
    for index, ax in enumerate(axes[: len(panels)]):
        last = index % columns == columns - 1 or index == len(panels) - 1
        _draw_references(ax, lines, labelled=last)
    figure.supylabel("NLL (nats per response)", fontsize=7)
    if rows.height:
        figure.supxlabel("Parameters", fontsize=7)
    stage_legend(figure, rows["stage"].unique(maintain_order=True).to_list())
    return figure


def empty_figure(text: str) -> Figure:
    """A figure without data, with the reason as text."""
    figure = Figure(figsize=(inches(COLUMN_MM), inches(30)), layout="constrained")
    figure.text(0.5, 0.5, text, ha="center", va="center", color=FAINT)
    return figure


def stage_legend(figure: Figure, stages: list[str | None]) -> None:
    """One row above the panels, base first."""
    order = list(STAGE_STYLES.values())
    styles = sorted(
        {stage_style(stage) for stage in stages}, key=lambda each: order.index(each) if each in order else len(order)
    )
    handles = [
        Line2D(
            [], [], color=each.colour, marker=each.marker, markersize=4.2 * each.scale, linewidth=1, label=each.label
        )
        for each in styles
    ]
    if handles:
        columns = len(handles) if figure.get_figwidth() > 5 else min(len(handles), 4)
        figure.legend(handles=handles, loc="outside upper left", ncols=columns, handlelength=1.8, columnspacing=1.6)


def _panel(ax: Axes, panel: pl.DataFrame) -> None:
    for (stage,), rows in panel.group_by(["stage"], maintain_order=True):
        style = stage_style(stage if isinstance(stage, str) else None)
        line = rows.group_by("size_b").agg(pl.col("nll").mean()).sort("size_b")
        ax.plot(line["size_b"], line["nll"], color=style.colour, linewidth=1, zorder=2)
        ax.plot(
            rows["size_b"],
            rows["nll"],
            linestyle="none",
            marker=style.marker,
            markersize=4.2 * style.scale,
            markerfacecolor=style.colour,
            markeredgecolor="white",
            markeredgewidth=0.4,
            zorder=3,
        )
    if panel.height:
        generation, family = panel["generation"][0], panel["family"][0]
        name = family if generation == "unknown" else generation
        ax.set_title("" if name == "unknown" else shorten(name), loc="left", fontweight="bold", color=INK)
    ax.grid(axis="y", color=GRID, linewidth=0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _size_axis(axes: list[Axes], rows: pl.DataFrame, columns: int, n_panels: int) -> None:
    if not rows.height:
        for ax in axes:
            ax.set_xticks([])
        return
    least, most = float(rows["size_b"].min()), float(rows["size_b"].max())  # type: ignore[arg-type]
    low, high = least / 1.6, most * 1.6
    for index, ax in enumerate(axes):
        ax.set_xscale("log")
        ax.set_xlim(low, high)
        ax.xaxis.set_major_locator(FixedLocator(size_ticks(low, high)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda size, _: size_label(size)))
        ax.tick_params(axis="x", labelbottom=index + columns >= n_panels)


def size_ticks(low: float, high: float) -> list[float]:
    """Round sizes in billions between `low` and `high`: as many per decade as give at most five labels."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 5:
            break
    return ticks


def _y_axis(ax: Axes, rows: pl.DataFrame, lines: pl.DataFrame) -> None:
    values = [*rows["nll"].to_list(), *lines["nll"].to_list()]
    low, high = min(values), max(values)
    pad = 0.08 * (high - low) or 0.1 * abs(high) or 0.1
    ax.set_ylim(low - pad, high + pad)
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def _draw_references(ax: Axes, lines: pl.DataFrame, *, labelled: bool) -> None:
    for nll in lines["nll"]:
        ax.axhline(nll, color=FAINT, linewidth=0.9, linestyle=(0, (4, 2.5)), zorder=1)
    if not labelled:
        return
    low, high = ax.get_ylim()
    at = low
    for name, nll in lines.select("id", "nll").iter_rows():
        at = max(nll, at + 0.055 * (high - low))  # labels must not overlap
        ax.annotate(
            shorten(name),
            xy=(1, at),
            xycoords=("axes fraction", "data"),
            xytext=(2, 0),
            textcoords="offset points",
            va="center",
            fontsize=6.5,
            color="#555555",
            annotation_clip=False,
        )
