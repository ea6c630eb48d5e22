"""Parts that several figures share: a point with its interval, a legend of stages, a figure without data.

Layout only; independent of what is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from psych_ray.report.style import COLUMN_MM, FAINT, STAGE_STYLES, inches, stage_style
from psych_ray.study.tables import Findings

_GOLDEN = 0.6180339887


def checkpoint_ids(found: Findings) -> dict[str, str]:
    """Id by slug, of the checkpoints that have means."""
    return dict(found.by_checkpoint.select("checkpoint", "id").iter_rows())


def is_reference() -> pl.Expr:
    """Rows of checkpoints without stage and size: floors, ceilings and simulators."""
    return pl.col("stage").is_null() & pl.col("size_b").is_null()


def empty_figure(text: str) -> Figure:
    """A figure without data, with the reason as text."""
    figure = Figure(figsize=(inches(COLUMN_MM), inches(30)), layout="constrained")
    figure.text(0.5, 0.5, text, ha="center", va="center", color=FAINT)
    return figure


def stage_legend(figure: Figure, stages: Sequence[str | None], more: Sequence[Line2D] = ()) -> None:
    """Above the panels, base first."""
    order = list(STAGE_STYLES.values())
    styles = sorted(
        {stage_style(stage) for stage in stages}, key=lambda each: order.index(each) if each in order else len(order)
    )
    handles = [
        Line2D(
            [],
            [],
            color=each.colour,
            marker=each.marker,
            markersize=4.2 * each.scale,
            linewidth=1,
            label=each.label,
        )
        for each in styles
    ]
    handles += more
    if handles:
        columns = len(handles) if figure.get_figwidth() > 5 else min(len(handles), 4)
        figure.legend(handles=handles, loc="outside upper left", ncols=columns, handlelength=1.8, columnspacing=1.6)


def draw_mean(
    ax: Axes,
    x: float,
    y: float,
    stage: str | None,
    *,
    low: float | None = None,
    high: float | None = None,
    across: bool = True,
    size: float = 5.4,
) -> None:
    """A marker with its interval, along x where `across`, otherwise along y; the interval may exclude the value."""
    style = stage_style(stage)
    if low is not None and high is not None:
        ends = ([low, high], [y, y]) if across else ([x, x], [low, high])
        ax.plot(*ends, color=style.colour, linewidth=1.1, solid_capstyle="butt", zorder=4)
    ax.plot(
        [x],
        [y],
        linestyle="none",
        color=style.colour,
        marker=style.marker,
        markersize=size * style.scale,
        markeredgecolor="white",
        markeredgewidth=0.5,
        zorder=5,
    )


def draw_points(ax: Axes, x: Sequence[float], y: Sequence[float], stage: str | None) -> None:
    """Small markers behind the means."""
    style = stage_style(stage)
    ax.plot(
        x,
        y,
        linestyle="none",
        color=style.colour,
        alpha=0.45,
        marker=style.marker,
        markersize=3 * style.scale,
        markeredgewidth=0,
        zorder=2,
    )


def offsets(n: int) -> Sequence[float]:
    """`n` offsets between 0 and 1, evenly distributed, with consecutive ones far apart."""
    return [index * _GOLDEN % 1 for index in range(n)]


def include_zero(ax: Axes, axis: str) -> None:
    """Widen the limits of an axis so that zero is in them, with space beside it."""
    low, high = ax.get_xlim() if axis == "x" else ax.get_ylim()
    pad = 0.06 * (max(high, 0) - min(low, 0))
    limits = (min(low, -pad), max(high, pad))
    if axis == "x":
        ax.set_xlim(limits)
    else:
        ax.set_ylim(limits)


def label_directions(ax: Axes, right: str, left: str) -> None:
    """Above the axes, on both sides of zero, or where there is no space for one of them, over its end."""
    low, high = ax.get_xlim()
    share = -low / (high - low)
    for text, side, at, space in ((f"{right} →", "left", 3, 1 - share), (f"← {left}", "right", -3, share)):
        beside_zero = space > 0.3
        x, align = (0.0, side) if beside_zero else ((high, "right") if side == "left" else (low, "left"))
        row = 1 if beside_zero or space < 0.08 else 9
        if space < 0.08:
            continue
        ax.annotate(
            text,
            xy=(x, 1),
            xycoords=("data", "axes fraction"),
            xytext=(at if beside_zero else 0, row),
            textcoords="offset points",
            ha=align,
            va="bottom",
            fontsize=6,
            color=FAINT,
            annotation_clip=False,
        )
