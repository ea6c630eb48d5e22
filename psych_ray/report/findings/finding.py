"""What a finding of the report consists of: sentences with their numbers, a figure, tables, definitions.

Types only: each finding is in a module of this package, the order of all in `__init__`. Independent of pages and files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from psych_ray.study.tables import Findings


@dataclass(frozen=True, kw_only=True)
class Number:
    """An estimate of a sentence, as it stands in summary.json; None where it is not known."""

    of: str
    """What it is an estimate for, for example `stage reasoning`."""
    measure: str
    """For example `Cohen's d, post-trained minus base`."""
    estimate: float | None
    low: float | None = None
    high: float | None = None
    n: Mapping[str, int] = field(default_factory=dict)
    """Counts by noun, for example `{"studies": 13}`."""


@dataclass(frozen=True)
class Statement:
    """One sentence, plain text, and the numbers in it."""

    text: str
    numbers: tuple[Number, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding; without statements there are no data for it, and it has no figure."""

    name: str
    """Of its figure, and in `report.figures`."""
    title: str
    statements: Callable[[Findings], list[Statement]]
    figure: Callable[[Findings], Figure | None]
    """None where nothing can be drawn."""
    caption: str
    """What is in the figure."""
    ours: str
    """How the numbers are computed."""
    authors: str
    """How the study computes them; empty where it does not."""
    tables: tuple[str, ...]
    """Tables of `Findings` that hold the numbers."""
    needs: str
    """What it takes to have data, for where there are none."""
