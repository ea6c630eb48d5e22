"""Figure of NLL against size: one panel per generation, one line per stage.

A checkpoint with neither stage nor size, such as the simulator of the demo data, is a dashed line across all panels.
`sized_checkpoints` and `reference_checkpoints` decide what is in the figure, for the caption too.
"""

from __future__ import annotations

import math

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from psych_ray.report.marks import is_reference, stage_legend
from psych_ray.report.panels import COLUMNS, MAX_PANELS, panel_title, panels
from psych_ray.report.style import FAINT, shorten, size_label, stage_style
from psych_ray.study.tables import Findings

MAX_REFERENCES = 5
_APART = 1.09
"""Factor between the places of two stages of one size, so that their intervals are apart."""


def sized_checkpoints(found: Findings) -> pl.DataFrame:
    """Rows of `by_checkpoint` with a size, in the main condition."""
    return found.in_main_condition(found.by_checkpoint).filter(pl.col("size_b") > 0)


def reference_checkpoints(found: Findings) -> pl.DataFrame:
    """Rows of `by_checkpoint` without stage and size, in the main condition: the `MAX_REFERENCES` of lowest NLL.

    Only of those that have all studies: a mean over other studies is no line to compare with.
    """
    rows = found.in_main_condition(found.by_checkpoint)
    n_studies = found.in_main_condition(found.by_study)["study"].n_unique()
    complete = rows.filter(is_reference(), pl.col("n_studies") == n_studies)
    return complete.sort("nll").head(MAX_REFERENCES)


def nll_by_size(found: Findings) -> Figure | None:
    """NLL in nats per response against the number of parameters."""
    rows, lines = sized_checkpoints(found), reference_checkpoints(found)
    groups = rows.partition_by("family", "generation", maintain_order=True)[:MAX_PANELS]
    groups = groups or ([rows] if lines.height else [])
    if not groups:
        return None
    figure, axes = panels(len(groups))
    for ax, group in zip(axes, groups, strict=True):
        _panel(ax, group)
    _size_axis(axes, rows)
    _y_axis(axes[0], rows, lines)
    for index, ax in enumerate(axes):
        last = index == len(axes) - 1 if len(axes) < COLUMNS else index % COLUMNS == COLUMNS - 1
        _draw_references(ax, lines, labelled=last)
    figure.supylabel("NLL (nats per response)", fontsize=7)
    if rows.height:
        figure.supxlabel("Parameters", fontsize=7)
    stage_legend(figure, rows["stage"].unique(maintain_order=True).to_list())
    return figure


def _panel(ax: Axes, panel: pl.DataFrame) -> None:
    stages = panel["stage"].unique(maintain_order=True).to_list()
    for index, stage in enumerate(stages):
        rows = panel.filter(pl.col("stage").eq_missing(pl.lit(stage, pl.String)))
        rows = rows.with_columns(pl.col("size_b") * _APART ** (index - (len(stages) - 1) / 2))
        style = stage_style(stage)
        line = rows.group_by("size_b").agg(pl.col("nll").mean()).sort("size_b")
        ax.plot(line["size_b"], line["nll"], color=style.colour, linewidth=1, zorder=2)
        known = rows.drop_nulls(["low", "high"])
        ax.vlines(known["size_b"], known["low"], known["high"], color=style.colour, linewidth=0.7, alpha=0.5, zorder=1)
        ax.plot(
            rows["size_b"],
            rows["nll"],
            linestyle="none",
            marker=style.marker,
            markersize=3.8 * style.scale,
            markerfacecolor=style.colour,
            markeredgecolor="white",
            markeredgewidth=0.4,
            zorder=3,
        )
    if panel.height:
        panel_title(ax, panel["family"][0], panel["generation"][0])


def _size_axis(axes: list[Axes], rows: pl.DataFrame) -> None:
    if not rows.height:
        for ax in axes:
            ax.set_xticks([])
        return
    least, most = float(rows["size_b"].min()), float(rows["size_b"].max())  # type: ignore[arg-type]
    low, high = least / 1.6, most * 1.6
    for ax in axes:
        ax.set_xscale("log")
        ax.set_xlim(low, high)
        ax.xaxis.set_major_locator(FixedLocator(size_ticks(low, high)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda size, _: size_label(size)))


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
    ends = [value for name in ("low", "high") for value in rows[name].drop_nulls()]
    values = [*rows["nll"].to_list(), *lines["nll"].to_list(), *ends]
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
