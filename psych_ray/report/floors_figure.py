"""Figure of checkpoints in each study against chance and running frequencies.

Layout only: every number is in `Findings`.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from psych_ray.report.marks import is_reference, stage_legend
from psych_ray.report.style import FAINT, GRID, INK, MIDDLE_MM, inches, shorten, stage_style
from psych_ray.study.tables import Findings

MAX_STUDIES = 60
_LEAST = -0.6
_MANY = 3_000
"""More markers than these are an image in the PDF and SVG."""
"""Further left, a marker is drawn at the edge."""


def against_chance(found: Findings) -> pl.DataFrame:
    """Rows of `by_study` with a pseudo-R², main condition, with `stage`, of checkpoints that are no references."""
    facts = found.in_main_condition(found.by_checkpoint).filter(~is_reference()).select("checkpoint", "stage")
    rows = found.in_main_condition(found.by_study).filter(pl.col("pseudo_r2").is_not_null())
    return rows.join(facts, on="checkpoint", how="inner", maintain_order="left")


def floors(found: Findings) -> Figure | None:
    """One row a study, ordered by its best checkpoint; at most `MAX_STUDIES`, those predicted worst."""
    rows = against_chance(found)
    if rows.is_empty():
        return None
    best = rows.group_by("study", maintain_order=True).agg(pl.col("pseudo_r2").max())
    ordered = best.sort("pseudo_r2", descending=True, maintain_order=True)["study"].to_list()
    studies = ordered[-MAX_STUDIES:]
    figure = Figure(figsize=(inches(MIDDLE_MM), inches(24 + 3.7 * len(studies))), layout="constrained")
    ax = figure.subplots()
    place = {study: at for at, study in enumerate(studies)}
    shown = rows.filter(pl.col("study").is_in(studies))
    for (stage,), own in shown.group_by(["stage"], maintain_order=True):
        style = stage_style(stage if isinstance(stage, str) else None)
        x = [max(value, _LEAST) for value in own["pseudo_r2"]]
        y = [place[study] for study in own["study"]]
        ax.plot(x, y, linestyle="none", color=style.colour, alpha=0.6, marker=style.marker,
                markersize=3.4 * style.scale, markeredgewidth=0, zorder=3, rasterized=shown.height > _MANY)  # fmt: skip
    lowest = min(0.0, *(max(value, _LEAST) for value in shown["pseudo_r2"]))
    highest = max(float(shown["pseudo_r2"].max() or 0), 0.1)  # type: ignore[arg-type]
    ax.set_xlim(lowest - 0.06, highest + 0.04)
    ax.axvspan(lowest - 0.06, 0, color="#f3d9c7", alpha=0.55, linewidth=0, zorder=0)
    ax.axvline(0, color=INK, linewidth=0.8, zorder=1)
    frequencies = _frequencies(ax_rows=found.in_main_condition(found.by_study), place=place)
    ax.plot(*frequencies, linestyle="none", color=INK, marker="|", markersize=6.5, markeredgewidth=1.2, zorder=4)
    ax.set_yticks(range(len(studies)), [shorten(study, 34) for study in studies])
    ax.set_ylim(len(studies) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0, labelsize=6)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="both", color=GRID, linewidth=0.5)
    ax.set_xlabel("Pseudo-R² against chance")
    ax.annotate("chance", xy=(0, 1), xycoords=("data", "axes fraction"), xytext=(2, 1), textcoords="offset points",
                fontsize=6, color=FAINT, va="bottom", annotation_clip=False)  # fmt: skip
    tick = Line2D([], [], linestyle="none", color=INK, marker="|", markersize=6.5, label="running frequencies")
    stage_legend(figure, shown["stage"].unique(maintain_order=True).to_list(), [tick] if frequencies[0] else [])
    if len(studies) < len(ordered):
        text = f"{len(studies)} of {len(ordered)} studies, those predicted worst; all are in the tables"
        figure.supxlabel(text, fontsize=5.5, color=FAINT, x=0.01, ha="left")
    return figure


def _frequencies(*, ax_rows: pl.DataFrame, place: dict[str, int]) -> tuple[Sequence[float], Sequence[float]]:
    own = ax_rows.filter(pl.col("checkpoint") == "frequencies", pl.col("pseudo_r2").is_not_null())
    own = own.filter(pl.col("study").is_in(list(place)))
    return [max(value, _LEAST) for value in own["pseudo_r2"]], [place[study] for study in own["study"]]
