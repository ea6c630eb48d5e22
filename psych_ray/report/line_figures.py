"""Figures with a line for each checkpoint, in a panel for each generation: calibration, and NLL within a session.

Layout only: every number is in `Findings`.
"""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from psych_ray.report.marks import checkpoint_ids, is_reference, stage_legend
from psych_ray.report.panels import COLUMNS, MAX_PANELS, largest_by_stage, panel_title, panels
from psych_ray.report.style import FAINT, StageStyle, shorten, stage_style
from psych_ray.study.tables import Findings

MAX_REFERENCES = 4


def calibration_curve(found: Findings) -> Figure | None:
    """Share of choices of the most probable option against its probability."""
    table = found.in_main_condition(found.calibration_curve).drop_nulls()
    chosen = largest_by_stage(found, table)
    groups = chosen.partition_by("family", "generation", maintain_order=True)[:MAX_PANELS]
    if not groups:
        return None
    figure, axes = panels(len(groups), height_mm=46)
    for ax, group in zip(axes, groups, strict=True):
        panel_title(ax, group["family"][0], group["generation"][0])
        ax.plot([0, 1], [0, 1], color=FAINT, linewidth=0.9, linestyle=(0, (4, 2.5)), zorder=1)
        for slug, stage in group.select("checkpoint", "stage").iter_rows():
            style, rows = stage_style(stage), table.filter(pl.col("checkpoint") == slug).sort("bin")
            _draw(ax, rows["confidence"], rows["share_chosen"], style)
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1)
        ax.set_xticks([0, 0.5, 1])
        ax.set_yticks([0, 0.5, 1])
    figure.supylabel("Share chosen", fontsize=7)
    figure.supxlabel("Probability of the most probable option", fontsize=7)
    stage_legend(figure, chosen["stage"].unique(maintain_order=True).to_list())
    return figure


def learning(found: Findings) -> Figure | None:
    """NLL by tenth of a session."""
    table = found.in_main_condition(found.by_decile).drop_nulls("nll")
    chosen = largest_by_stage(found, table)
    groups = chosen.partition_by("family", "generation", maintain_order=True)[:MAX_PANELS]
    if not groups:
        return None
    figure, axes = panels(len(groups))
    dashed = _references(found, table)
    for ax, group in zip(axes, groups, strict=True):
        panel_title(ax, group["family"][0], group["generation"][0])
        for _, values in dashed:
            ax.plot(values["decile"], values["nll"], color=FAINT, linewidth=0.9, linestyle=(0, (4, 2.5)), zorder=1)
        for slug, stage in group.select("checkpoint", "stage").iter_rows():
            style, rows = stage_style(stage), table.filter(pl.col("checkpoint") == slug).sort("decile")
            known = rows.drop_nulls(["low", "high"])
            ax.fill_between(known["decile"], known["low"], known["high"], color=style.colour, alpha=0.1, linewidth=0)
            _draw(ax, rows["decile"], rows["nll"], style)
        ax.set_xticks([1, 4, 7, 10])
        ax.yaxis.set_major_locator(MaxNLocator(5))
    _label(axes[min(len(axes), COLUMNS) - 1], dashed)
    figure.supylabel("NLL (nats per response)", fontsize=7)
    figure.supxlabel("Tenth of the session", fontsize=7)
    stage_legend(figure, chosen["stage"].unique(maintain_order=True).to_list())
    return figure


def _draw(ax: Axes, x: pl.Series, y: pl.Series, style: StageStyle) -> None:
    ax.plot(
        x,
        y,
        color=style.colour,
        linewidth=1,
        marker=style.marker,
        markersize=2.8 * style.scale,
        markeredgewidth=0,
        zorder=3,
    )


def _references(found: Findings, table: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    ids = checkpoint_ids(found)
    # Lines of other studies would be no comparison.
    same = table.filter(pl.col("n_studies") == table["n_studies"].max())
    slugs = found.in_main_condition(found.by_checkpoint).filter(is_reference())["checkpoint"].to_list()
    every = [(ids.get(slug, slug), same.filter(pl.col("checkpoint") == slug).sort("decile")) for slug in slugs]
    return [(name, rows) for name, rows in every if rows.height][:MAX_REFERENCES]


def _label(ax: Axes, dashed: list[tuple[str, pl.DataFrame]]) -> None:
    low, high = ax.get_ylim()
    at = low
    for name, rows in sorted(dashed, key=lambda each: float(each[1]["nll"][-1])):
        at = max(float(rows["nll"][-1]), at + 0.06 * (high - low))  # labels must not overlap
        ax.annotate(
            shorten(name, 18),
            xy=(1, at),
            xycoords=("axes fraction", "data"),
            xytext=(2, 0),
            textcoords="offset points",
            va="center",
            fontsize=6,
            color="#555555",
            annotation_clip=False,
        )
