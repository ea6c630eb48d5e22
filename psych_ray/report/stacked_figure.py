"""Figure of misalignment as a sum: what a temperature repairs and what remains; leak, and choice within options.

Layout only: every number is in `Findings`.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from psych_ray.report.marks import checkpoint_ids, draw_mean
from psych_ray.report.style import FAINT, GRID, INK, PAGE_MM, inches, shorten
from psych_ray.study.tables import Findings

MAX_PAIRS = 50
_LEFT = (("repaired", "repaired by a temperature", "#9ecae1"), ("remaining", "remaining", "#d98a5b"))
_RIGHT = (("leak", "leak: outside the options", "#c9b3d9"), ("within", "within the options", "#7aa974"))


def overconfidence(found: Findings) -> Figure | None:
    """One row a pair, at most `MAX_PAIRS`: those of largest misalignment."""
    every = found.in_main_condition(found.overconfidence).drop_nulls(["misalignment", "repaired", "remaining"])
    if every.is_empty():
        return None
    largest = every.with_row_index("at").sort(pl.col("misalignment").abs(), descending=True, maintain_order=True)
    rows = largest.head(MAX_PAIRS).sort("at")
    split = rows.drop_nulls(["leak", "within"]).height > 0
    figure = Figure(figsize=(inches(PAGE_MM), inches(26 + 3.9 * rows.height)), layout="constrained")
    axes: list[Axes] = list(figure.subplots(1, 2, sharey=True, sharex=True)) if split else [figure.subplots()]
    ids = checkpoint_ids(found)
    for ax, parts in zip(axes, (_LEFT, _RIGHT), strict=False):
        _stack(ax, rows, [(name, colour) for name, _, colour in parts])
        ax.legend(handles=[Patch(color=colour, label=label) for _, label, colour in parts], loc="lower left",
                  bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.2, handlelength=1.2)  # fmt: skip
        ax.set_xlabel("NLL, post-trained minus base (nats)")
    for at, (value, low, high, stage) in enumerate(rows.select("misalignment", "low", "high", "stage").iter_rows()):
        draw_mean(axes[0], value, at, stage, low=low, high=high, size=3.6)
    axes[0].set_yticks(range(rows.height), [shorten(ids.get(post, post), 34) for post in rows["post"]])
    axes[0].set_ylim(rows.height - 0.4, -0.6)
    if rows.height < every.height:
        text = f"{rows.height} of {every.height} pairs, those of largest misalignment; all are in the tables"
        figure.supxlabel(text, fontsize=5.5, color=FAINT, x=0.01, ha="left")
    return figure


def _stack(ax: Axes, rows: pl.DataFrame, parts: Sequence[tuple[str, str]]) -> None:
    """Bars from zero, those above zero to the right and those below to the left."""
    for at, row in enumerate(rows.iter_rows(named=True)):
        ends = {True: 0.0, False: 0.0}
        for name, colour in parts:
            value = row[name]
            if value is None:
                continue
            ax.barh(at, value, left=ends[value > 0], height=0.68, color=colour, linewidth=0, zorder=2)
            ends[value > 0] += value
    ax.axvline(0, color=INK, linewidth=0.8, zorder=3)
    ax.grid(axis="x", color=GRID, linewidth=0.6)
    ax.tick_params(axis="y", length=0, labelsize=6)
    ax.spines["left"].set_visible(False)
