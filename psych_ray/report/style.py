"""Style of the figures: widths of journal columns, one colour and one marker per stage, numbers as text.

A stage has the same style in every figure of every report. The colours are distinct with any common colour blindness,
the markers also in print without colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

COLUMN_MM: Final = 89.0
MIDDLE_MM: Final = 120.0
PAGE_MM: Final = 183.0
INK: Final = "#222222"
FAINT: Final = "#8a8a8a"
GRID: Final = "#e6e6e6"
MINUS: Final = "\N{MINUS SIGN}"
"""As matplotlib writes it on its axes; sentences keep the hyphen that terminals can show."""


@dataclass(frozen=True)
class StageStyle:
    """Colour and marker of a stage."""

    label: str
    colour: str
    marker: str
    scale: float = 1.0
    """Factor of the marker's size, so that all markers appear equally large."""


STAGE_STYLES: Final = {
    "base": StageStyle("base", "#333333", "o"),
    "instruct": StageStyle("instruct", "#0072B2", "s", 0.92),
    "reasoning": StageStyle("reasoning", "#D55E00", "^", 1.1),
    "vision": StageStyle("vision", "#009E73", "D", 0.86),
    "vision_reasoning": StageStyle("vision reasoning", "#CC79A7", "P", 1.1),
    "code": StageStyle("code", "#56B4E9", "v", 1.1),
    "math": StageStyle("math", "#E69F00", "X", 1.1),
    "behavioural": StageStyle("behavioural", "#882255", "*", 1.4),
}
_UNKNOWN: Final = StageStyle("unknown stage", FAINT, "p", 1.1)

RC: Final[dict[Any, Any]] = {
    "font.family": ["DejaVu Sans"],  # included in matplotlib: the same bytes on every machine
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "text.color": INK,
    "text.parse_math": False,  # names are data: a $ in one is a $
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "psych-ray",
}


def stage_style(stage: str | None) -> StageStyle:
    """The style of `stage`; grey where it is unknown."""
    return STAGE_STYLES.get(stage or "", _UNKNOWN)


def inches(millimetres: float) -> float:
    """Inches, matplotlib's unit of length."""
    return millimetres / 25.4


def size_label(size_b: float) -> str:
    """Number of parameters, given in billions: 120k, 70M, 0.6B, 70B."""
    for least, factor, unit in ((0.1, 1.0, "B"), (1e-3, 1e3, "M"), (0.0, 1e6, "k")):
        if size_b >= least * (1 - 1e-9):
            return f"{size_b * factor:.3g}{unit}"
    raise ValueError(f"size {size_b}: must not be negative")


def two_decimals(value: float) -> str:
    """`value` for figures and sentences, without a sign on zero."""
    return f"{value:z.2f}"


def shorten(name: str, length: int = 24) -> str:
    """`name` on one line; in one longer than `length`, an ellipsis replaces the middle."""
    line = " ".join(name.split())
    if len(line) <= length:
        return line
    head = (length - 1) // 2
    return f"{line[:head]}…{line[head + 1 - length :]}"
