"""How figures look: sizes of a journal column, one colour and marker for each stage, the text of numbers.

A stage looks the same in every figure of every report. The colours are told apart by people with any common colour
blindness, and each has a marker of its own for print without colour. No statistics here.
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
class Look:
    """How a stage is drawn."""

    label: str
    colour: str
    marker: str
    scale: float = 1.0
    """Evens out markers of unlike area."""


LOOKS: Final = {
    "base": Look("base", "#333333", "o"),
    "instruct": Look("instruct", "#0072B2", "s", 0.92),
    "reasoning": Look("reasoning", "#D55E00", "^", 1.1),
    "vision": Look("vision", "#009E73", "D", 0.86),
    "vision_reasoning": Look("vision reasoning", "#CC79A7", "P", 1.1),
    "code": Look("code", "#56B4E9", "v", 1.1),
    "math": Look("math", "#E69F00", "X", 1.1),
    "behavioural": Look("behavioural", "#882255", "*", 1.4),
}
_UNKNOWN: Final = Look("stage not known", FAINT, "p", 1.1)

RC: Final[dict[Any, Any]] = {
    "font.family": ["DejaVu Sans"],  # ships with matplotlib: the same bytes on every machine
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


def look(stage: str | None) -> Look:
    """How `stage` is drawn; a stage that is not known is grey."""
    return LOOKS.get(stage or "", _UNKNOWN)


def inches(millimetres: float) -> float:
    """The unit of length that matplotlib takes."""
    return millimetres / 25.4


def size_label(size_b: float) -> str:
    """Number of parameters, given in billions: 120k, 70M, 0.6B, 70B."""
    for least, factor, unit in ((0.1, 1.0, "B"), (1e-3, 1e3, "M"), (0.0, 1e6, "k")):
        if size_b >= least * (1 - 1e-9):
            return f"{size_b * factor:.3g}{unit}"
    raise ValueError(f"size {size_b}: must not be negative")


def two_digits(value: float) -> str:
    """`value` as figures and sentences write it, with no sign on a zero."""
    return f"{value:z.2f}"


def shortened(name: str, length: int = 24) -> str:
    """`name` on one line, its middle left out where it is longer than `length`."""
    line = " ".join(name.split())
    if len(line) <= length:
        return line
    head = (length - 1) // 2
    return f"{line[:head]}…{line[head + 1 - length :]}"
