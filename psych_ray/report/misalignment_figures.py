"""Figures of misalignment: Cohen's d of post-trained checkpoints against their bases.

Means with their 95 % intervals are drawn in front of the single pairs. At zero, a checkpoint predicts people as well
as its base. Layout only: every number is in `Findings`.
"""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from psych_ray.report.marks import draw_mean, draw_points, include_zero, label_directions, offsets, stage_legend
from psych_ray.report.style import (
    COLUMN_MM,
    GRID,
    INK,
    MINUS,
    PAGE_MM,
    inches,
    shorten,
    stage_style,
    two_decimals,
)
from psych_ray.study.tables import Findings

_AXIS = "Misalignment (Cohen's d, post-trained minus base)"
_LETTER_MM = 1.45


def by_stage(found: Findings) -> Figure | None:
    """One row per stage: the mean over its pairs with its interval, and the pairs."""
    stages, pairs = found.in_main_condition(found.by_stage), found.in_main_condition(found.misalignment)
    if not stages.height:
        return None
    figure = Figure(figsize=(inches(COLUMN_MM), inches(24 + 10 * stages.height)), layout="constrained")
    ax = figure.subplots()
    labels = []
    for at, (stage, d, low, high, n_pairs) in enumerate(
        stages.select("stage", "d", "low", "high", "n_pairs").iter_rows()
    ):
        if n_pairs > 1:
            single = pairs.filter(pl.col("stage") == stage)["d"].sort().to_list()
            draw_points(ax, single, [at - 0.14 - 0.26 * offset for offset in offsets(n_pairs)], stage)
        draw_mean(ax, d, at, stage, low=low, high=high)
        _label_value(ax, at, two_decimals(d).replace("-", MINUS))
        labels.append(f"{stage_style(stage).label}\n{n_pairs} {'pair' if n_pairs == 1 else 'pairs'}")
    ax.set_yticks(range(stages.height), labels)
    ax.set_ylim(stages.height - 0.45, -0.55)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.axvline(0, color=INK, linewidth=0.8, zorder=1)
    ax.grid(axis="x", color=GRID, linewidth=0.6)
    ax.set_xlabel(_AXIS)
    include_zero(ax, "x")
    label_directions(ax, "higher NLL than its base", "lower NLL")
    return figure


def by_generation(found: Findings) -> Figure | None:
    """Generations from left to right, one line per stage within a family."""
    means, pairs = found.in_main_condition(found.by_stage_and_generation), found.in_main_condition(found.misalignment)
    if not means.height:
        return None
    names = list(means.select("family", "generation").unique(maintain_order=True).iter_rows())
    stages = means["stage"].unique(maintain_order=True).to_list()
    width = COLUMN_MM if len(names) <= 4 else PAGE_MM
    figure = Figure(figsize=(inches(width), inches(70)), layout="constrained")
    ax = figure.subplots()
    step = min(0.14, 0.8 / len(stages))
    for index, stage in enumerate(stages):
        shift = step * (index - (len(stages) - 1) / 2)
        style = stage_style(stage)
        for family in dict(names):
            own = means.filter(pl.col("stage") == stage, pl.col("family") == family)
            at = [names.index((family, generation)) + shift for generation in own["generation"]]
            ax.plot(at, own["d"], color=style.colour, linewidth=1, zorder=3)
            for x, d, low, high in zip(at, own["d"], own["low"], own["high"], strict=True):
                draw_mean(ax, x, d, stage, low=low, high=high, across=False)
        several = means.filter(pl.col("stage") == stage, pl.col("n_pairs") > 1)
        single = pairs.join(several, on=["family", "generation", "stage"], how="semi")
        at = [names.index(name) + shift - 0.35 * step for name in single.select("family", "generation").iter_rows()]
        draw_points(ax, at, single["d"].to_list(), stage)
    _generation_axis(ax, names, width)
    stage_legend(figure, stages)
    return figure


def _label_value(ax: Axes, y: float, text: str) -> None:
    ax.annotate(
        text,
        xy=(1, y),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        annotation_clip=False,
    )


def _generation_axis(ax: Axes, names: list[tuple[str, str]], width_mm: float) -> None:
    labels = [shorten(family if generation == "unknown" else generation, 16) for family, generation in names]
    crowded = len(labels) * (max(map(len, labels)) + 1) * _LETTER_MM > 0.82 * width_mm
    ax.set_xticks(range(len(names)), labels, rotation=30 if crowded else 0, ha="right" if crowded else "center")
    ax.set_xlim(-0.5, len(names) - 0.5)
    ax.tick_params(axis="both", length=0)
    ax.spines["left"].set_visible(False)
    ax.spines["bottom"].set_visible(False)
    ax.axhline(0, color=INK, linewidth=0.8, zorder=1)
    ax.grid(axis="y", color=GRID, linewidth=0.6)
    ax.set_ylabel("Misalignment (Cohen's d,\npost-trained minus base)")
    include_zero(ax, "y")
