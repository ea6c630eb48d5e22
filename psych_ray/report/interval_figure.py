"""A figure of estimates with their intervals, one row each, under headings: what most findings are shown as.

Independent of what the estimates are of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from psych_ray.report.marks import draw_mean, draw_points, include_zero, label_directions, stage_legend
from psych_ray.report.style import FAINT, GRID, INK, MIDDLE_MM, MINUS, inches, shorten

MAX_ROWS = 64
"""More do not fit on a page."""
_ROW_MM, _HEADING_MM = 3.4, 4.4


@dataclass(frozen=True, kw_only=True)
class Row:
    """One estimate."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    stage: str | None = None
    heading: str = ""
    """Rows of one heading follow one another."""
    points: tuple[float, ...] = ()
    """Shown small, such as the pairs of a mean."""
    band: tuple[float, float] | None = None
    """A wider interval, such as that of prediction."""
    kept: bool = False
    """Also shown where there are too many rows, such as a mean."""


def interval_figure(
    rows: Sequence[Row],
    *,
    x_label: str,
    right: str = "",
    left: str = "",
    width_mm: float = MIDDLE_MM,
    noun: str = "rows",
    legend: bool = False,
    decimals: int = 2,
) -> Figure | None:
    """The rows from top to bottom, as many as fit on a page: those furthest from zero, which is told. None of none."""
    if not rows:
        return None
    shown = limited(rows)
    headings = [at for at, row in enumerate(shown) if row.heading and (at == 0 or shown[at - 1].heading != row.heading)]
    height = (
        14
        + (7 if legend else 0)
        + (6 if right or left else 0)
        + _ROW_MM * len(shown)
        + _HEADING_MM * len(headings)
        + (4 if len(shown) < len(rows) else 0)
    )
    figure = Figure(figsize=(inches(width_mm), inches(height)), layout="constrained")
    ax = figure.subplots()
    at, ticks = 0.0, []
    for index, row in enumerate(shown):
        if index in headings:
            at += (_HEADING_MM / _ROW_MM) if index else 0.2
            _heading(ax, row.heading, at)
            at += 1
        _draw(ax, row, at, decimals)
        ticks.append(at)
        at += 1
    ax.set_yticks(ticks, [shorten(row.label, 34) for row in shown])
    ax.set_ylim(at - 0.3, -0.7)
    _finish(ax, x_label, right, left)
    if legend:
        stage_legend(figure, list(dict.fromkeys(row.stage for row in shown if row.stage is not None)))
    if len(shown) < len(rows):
        text = f"{len(shown)} of {len(rows)} {noun}, those furthest from zero; all are in the tables"
        figure.text(0.01, 0.002, text, fontsize=5.5, color=FAINT, ha="left", va="bottom")
        figure.set_layout_engine("constrained", rect=(0, 0.018, 1, 0.982))
    return figure


def limited(rows: Sequence[Row]) -> list[Row]:
    """The rows furthest from zero that fit on a page, in their order; a heading takes the place of a row and more."""
    n_headings = len({row.heading for row in rows if row.heading})
    most = max(MAX_ROWS // 2, MAX_ROWS - math.ceil(n_headings * _HEADING_MM / _ROW_MM))
    far = sorted(range(len(rows)), key=lambda at: (not rows[at].kept, -abs(rows[at].value)))[:most]
    return [rows[at] for at in sorted(far)]


def _draw(ax: Axes, row: Row, at: float, decimals: int) -> None:
    if row.band is not None:
        ax.plot(row.band, [at, at], color="#c4c4c4", linewidth=3.4, solid_capstyle="butt", zorder=1)
    if row.points:
        draw_points(ax, row.points, [at + 0.3] * len(row.points), row.stage)
    draw_mean(ax, row.value, at, row.stage, low=row.low, high=row.high, size=4.2)
    ax.annotate(
        f"{row.value:z.{decimals}f}".replace("-", MINUS),
        xy=(1, at),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=6,
        annotation_clip=False,
    )


def _heading(ax: Axes, text: str, at: float) -> None:
    ax.annotate(
        shorten(text, 48),
        xy=(0, at),
        xycoords=("axes fraction", "data"),
        xytext=(-3, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=6.5,
        fontweight="bold",
        color=INK,
        annotation_clip=False,
    )


def _finish(ax: Axes, x_label: str, right: str, left: str) -> None:
    ax.tick_params(axis="y", length=0, labelsize=6)
    ax.spines["left"].set_visible(False)
    ax.axvline(0, color=INK, linewidth=0.8, zorder=1)
    ax.grid(axis="x", color=GRID, linewidth=0.6)
    ax.set_xlabel(x_label)
    include_zero(ax, "x")
    if right or left:
        label_directions(ax, right, left)
