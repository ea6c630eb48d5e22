"""The figures of a report as files in memory: which there are, what each is called, and what its caption explains.

Drawing needs no display and keeps no state; the same findings give the same bytes. How a figure is laid out stands in
the modules that it calls.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.figure import Figure

from psych_ray.report import captions, misalignment_figures, nll_figure
from psych_ray.report.style import RC
from psych_ray.study import Findings

_DPI = 300
_UNDATED: dict[str, dict[str, str | None]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
}


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One figure in the formats that a report needs."""

    name: str
    title: str
    caption: str
    png: bytes
    pdf: bytes
    svg: bytes
    width_mm: float


def draw(found: Findings) -> list[Drawn]:
    """All figures, whatever was found: one that has nothing to show says so."""
    return [
        _drawn(
            "nll_by_size", "Prediction by size and stage", captions.nll_by_size(found), nll_figure.nll_by_size, found
        ),
        _drawn(
            "misalignment_by_stage",
            "Misalignment by stage",
            captions.misalignment_by_stage(found),
            misalignment_figures.by_stage,
            found,
        ),
        _drawn(
            "misalignment_by_generation",
            "Misalignment by generation",
            captions.misalignment_by_generation(found),
            misalignment_figures.by_generation,
            found,
        ),
    ]


def _drawn(name: str, title: str, caption: str, plot: Callable[[Findings], Figure], found: Findings) -> Drawn:
    with mpl.rc_context(RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure = plot(found)
        png, pdf, svg = (_saved(figure, kind) for kind in ("png", "pdf", "svg"))
        width_mm = figure.get_figwidth() * 25.4
    return Drawn(name=name, title=title, caption=caption, png=png, pdf=pdf, svg=svg, width_mm=width_mm)


def _saved(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=_DPI, metadata=_UNDATED[kind])
    return buffer.getvalue()
