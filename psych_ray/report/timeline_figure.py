"""Figure of a simulated sweep: who runs when on which node. Names of weights are data, as in all figures.

A row is a node, or some nodes where there are many; the height of a bar is the slots that a replica takes. Loading is
hatched. A node that replaces another one is drawn in its row.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from psych_ray.report.style import FAINT, GRID, INK, PAGE_MM, inches, shorten
from psych_ray.sweep.timeline import REPLACES, Doing, Span, Timeline

MAX_ROWS = 60
MAX_LABELS = 14
"""Weights in the legend; the others are labelled in the bars, where there is room."""
_COLOURS = (
    *("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#EE8866", "#77AADD", "#99A62E", "#BB7755"),
    *("#44BB99", "#CC6699", "#8877BB", "#DDAA33", "#6699CC", "#997700", "#55AA55", "#D0708A", "#5588AA", "#A0522D"),
)
"""Distinct with common colour blindness as far as twenty can be; labels tell the rest."""
_SLOT_MM = 2.3
_LEAST_HEIGHT_MM, _MOST_HEIGHT_MM = 25.0, 180.0
_CHARACTER_MM = 1.1
"""Width of a character of a label in a bar."""
_LABEL_HIGH_MM = 1.9
_MOST_BAR_LABELS = 300
_BUSY_POINTS = 400


@dataclass(frozen=True, slots=True)
class _Bar:
    row: int
    low: float
    """Within the row, from 0 to 1."""
    height: float
    span: Span


def who_runs_when(timeline: Timeline) -> Figure:
    """Nodes over time, with the share of slots that are busy above."""
    rows = _rows(timeline)
    n_rows = max(rows.values(), default=0) + 1
    slots = sum(len(free) for free in _free_slots(timeline).values())
    height = min(max(slots * _SLOT_MM, _LEAST_HEIGHT_MM), _MOST_HEIGHT_MM)
    figure = Figure(figsize=(inches(PAGE_MM), inches(height + 44)), layout="constrained")
    busy, nodes = figure.subplots(2, 1, sharex=True, height_ratios=[14, height])
    seconds, unit = _time_unit(timeline.makespan)
    colours = _colours(timeline)
    _draw_busy(busy, timeline, seconds)
    _draw_lifetimes(nodes, timeline, rows, seconds)
    bars = _bars(timeline, rows)
    _draw_bars(nodes, bars, colours, seconds, edge=0.2 if height / slots > 0.5 else 0.0)
    width = PAGE_MM - 30
    _draw_labels(nodes, bars, timeline.makespan, width, height / n_rows, seconds)
    nodes.set_xlim(0, max(timeline.makespan, 1e-9) / seconds)
    nodes.set_ylim(n_rows, 0)
    nodes.set_xlabel(f"Time ({unit})")
    _label_rows(nodes, rows)
    _legend(figure, timeline, colours)
    return figure


def _base(node: str) -> str:
    """The node whose place a node took, as the simulator names them."""
    return node.partition(REPLACES)[0]


def _rows(timeline: Timeline) -> dict[str, int]:
    """Row of each node and of those that take its place; neighbours share one where there are more than `MAX_ROWS`."""
    names = list(dict.fromkeys(_base(node) for node in timeline.slots))
    per_row = math.ceil(len(names) / MAX_ROWS)
    return {name: number // per_row for number, name in enumerate(names)}


def _lanes(timeline: Timeline, rows: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    """Where the first slot of a node is in its row, and the height of a slot."""
    slots = Counter[str]()
    for node, n in timeline.slots.items():
        slots[_base(node)] = max(slots[_base(node)], n)
    in_row = Counter[int]()
    first: dict[str, int] = {}
    for name, row in rows.items():
        first[name] = in_row[row]
        in_row[row] += slots[name]
    return {name: (first[name] / max(1, in_row[row]), 1 / max(1, in_row[row])) for name, row in rows.items()}


def _bars(timeline: Timeline, rows: Mapping[str, int]) -> list[_Bar]:
    """Place each replica on slots of its node that are free while it is there."""
    lanes = _lanes(timeline, rows)
    spans = defaultdict[tuple[str, int], list[Span]](list)
    for span in timeline.spans:
        spans[span.node, span.replica].append(span)
    free_at = _free_slots(timeline)
    bars = []
    for (node, _), of_replica in sorted(spans.items(), key=lambda pair: min(span.start for span in pair[1])):
        name, start = _base(node), min(span.start for span in of_replica)
        end = min(max(span.end for span in of_replica), timeline.lifetimes[node][1])
        taken = sorted(range(len(free_at[name])), key=lambda lane: (free_at[name][lane] > start + 1e-9, lane))
        taken = sorted(taken[: of_replica[0].ranks])
        first, height = lanes[name]
        for lane in taken:
            free_at[name][lane] = end
        for low, n in _runs(taken):
            bars += [_Bar(rows[name], first + low * height, n * height, span) for span in of_replica]
    return bars


def _free_slots(timeline: Timeline) -> dict[str, list[float]]:
    slots: dict[str, list[float]] = {}
    for node, n in timeline.slots.items():
        if n > len(slots.get(_base(node), [])):
            slots[_base(node)] = [0.0] * n
    return slots


def _runs(lanes: Sequence[int]) -> list[tuple[int, int]]:
    """First of each run of neighbours, and how many they are."""
    runs: list[tuple[int, int]] = []
    for lane in lanes:
        if runs and sum(runs[-1]) == lane:
            runs[-1] = runs[-1][0], runs[-1][1] + 1
        else:
            runs.append((lane, 1))
    return runs


def _colours(timeline: Timeline) -> dict[str, str]:
    """Those with most work get the first colours."""
    return {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(_by_work(timeline))}


def _by_work(timeline: Timeline) -> list[str]:
    work = Counter[str]()
    for span in timeline.spans:
        work[span.weights] += span.ranks * (span.end - span.start)  # type: ignore[assignment]  # seconds
    return [name for name, _ in work.most_common()]


def _draw_busy(ax: Axes, timeline: Timeline, seconds: float) -> None:
    """Share of the slots of living nodes that score, and that load, over time."""
    edges = np.linspace(0, max(timeline.makespan, 1e-9), _BUSY_POINTS + 1)
    slots = _slot_seconds(edges, [(*alive, timeline.slots[node]) for node, alive in timeline.lifetimes.items()])
    shares = [
        _slot_seconds(edges, [(span.start, span.end, span.ranks) for span in timeline.spans if span.doing == doing])
        / np.maximum(slots, 1e-12)
        for doing in (Doing.scoring, Doing.loading)
    ]
    at = edges / seconds
    ax.stairs(shares[0], at, fill=True, color="#7f8c9a", linewidth=0)
    ax.stairs(shares[0] + shares[1], at, baseline=shares[0], fill=True, color="#d4dae0", linewidth=0)
    ax.set_ylim(0, 1)
    ax.set_yticks([0, 1], ["0", "100%"])
    ax.set_title("Slots that score (dark) and load (light)", loc="left", color=INK)
    ax.tick_params(axis="x", labelbottom=False, length=0)


def _slot_seconds(edges: np.ndarray, intervals: Sequence[tuple[float, float, int]]) -> np.ndarray:
    """Slot-seconds in each bin."""
    before = np.zeros(len(edges))
    for start, end, slots in intervals:
        before += slots * np.clip(edges - start, 0, max(0.0, end - start))
    return np.diff(before)


def _draw_lifetimes(ax: Axes, timeline: Timeline, rows: Mapping[str, int], seconds: float) -> None:
    lanes = _lanes(timeline, rows)
    boxes = []
    for node, (start, end) in timeline.lifetimes.items():
        first, height = lanes[_base(node)]
        low = rows[_base(node)] + _inset(first)
        boxes.append(_box(start / seconds, end / seconds, low, _inset(height * timeline.slots[node], 0.0)))
    ax.add_collection(PolyCollection(boxes, facecolors=GRID, edgecolors="none", zorder=1))


def _inset(share: float, margin: float = 0.06) -> float:
    """A share of a row's height, which has a margin above and below."""
    return margin + share * 0.88


def _box(start: float, end: float, low: float, height: float) -> list[tuple[float, float]]:
    return [(start, low), (end, low), (end, low + height), (start, low + height)]


def _draw_bars(ax: Axes, bars: Sequence[_Bar], colours: Mapping[str, str], seconds: float, *, edge: float) -> None:
    for doing, hatch in ((Doing.scoring, None), (Doing.loading, "////////")):
        chosen = [bar for bar in bars if bar.span.doing == doing]
        boxes = [
            _box(bar.span.start / seconds, bar.span.end / seconds, bar.row + _inset(bar.low), _inset(bar.height, 0.0))
            for bar in chosen
        ]
        faces = [_paler(colours[bar.span.weights]) if hatch else to_rgb(colours[bar.span.weights]) for bar in chosen]
        edges = [to_rgb(colours[bar.span.weights]) if hatch else to_rgb("white") for bar in chosen]
        ax.add_collection(
            PolyCollection(boxes, facecolors=faces, edgecolors=edges, linewidths=edge, hatch=hatch, zorder=2)
        )


def _paler(colour: str) -> tuple[float, float, float]:
    red, green, blue = (0.35 * part + 0.65 for part in to_rgb(colour))
    return red, green, blue


def _draw_labels(
    ax: Axes, bars: Sequence[_Bar], makespan: float, width_mm: float, row_mm: float, seconds: float
) -> None:
    """Name the weights in the longest of the bars that are large enough."""
    high = [bar for bar in bars if bar.span.doing == Doing.scoring and bar.height * row_mm * 0.88 >= _LABEL_HIGH_MM]
    for bar in sorted(high, key=lambda bar: bar.span.start - bar.span.end)[:_MOST_BAR_LABELS]:
        long_mm = (bar.span.end - bar.span.start) / max(makespan, 1e-9) * width_mm
        n_characters = int(long_mm / _CHARACTER_MM) - 1
        if n_characters >= 5:
            ax.text(
                (bar.span.start + bar.span.end) / 2 / seconds,
                bar.row + _inset(bar.low + bar.height / 2),
                shorten(bar.span.weights, n_characters),
                ha="center",
                va="center",
                fontsize=4.6,
                color="white",
                clip_on=True,
                zorder=3,
            )


def _label_rows(ax: Axes, rows: Mapping[str, int]) -> None:
    by_row = defaultdict[int, list[str]](list)
    for name, row in rows.items():
        by_row[row].append(name)
    labels = [shorten(names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}") for names in by_row.values()]
    every = math.ceil(len(labels) / 40)
    shown = list(range(0, len(labels), every))
    ax.set_yticks([row + 0.5 for row in shown], [labels[row] for row in shown])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(8))


def _legend(figure: Figure, timeline: Timeline, colours: Mapping[str, str]) -> None:
    names = _by_work(timeline)
    handles = [Patch(facecolor=colours[name], label=shorten(name)) for name in names[:MAX_LABELS]]
    if len(names) > MAX_LABELS:
        handles.append(Patch(facecolor="none", label=f"and {len(names) - MAX_LABELS} more"))
    handles.append(Patch(facecolor="white", edgecolor=FAINT, hatch="////////", linewidth=0.4, label="loading"))
    figure.legend(handles=handles, loc="outside lower left", ncols=5, handlelength=1.4, columnspacing=1.4)


def _time_unit(makespan: float) -> tuple[float, str]:
    """Seconds of the unit of the time axis, and its name."""
    for seconds, name in ((86_400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if makespan >= 3 * seconds:
            return seconds, name
    return 1.0, "seconds"
