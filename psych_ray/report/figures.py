"""The figures of a report as bytes in memory, with their names, titles and captions.

Needs no display and keeps no state; the same findings give the same bytes. The layout of each figure is in
`nll_figure` and `misalignment_figures`.
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
_NO_DATE: dict[str, dict[str, str | None]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
}


@dataclass(frozen=True, kw_only=True)
class RenderedFigure:
    """One figure in the formats of a report."""

    name: str
    title: str
    caption: str
    png: bytes
    pdf: bytes
    svg: bytes
    width_mm: float


def render_figures(found: Findings) -> list[RenderedFigure]:
    """All figures; one without data says so."""
    return [
        _render(
            "nll_by_size", "Prediction by size and stage", captions.nll_by_size(found), nll_figure.nll_by_size, found
        ),
        _render(
            "misalignment_by_stage",
            "Misalignment by stage",
            captions.misalignment_by_stage(found),
            misalignment_figures.by_stage,
            found,
        ),
        _render(
            "misalignment_by_generation",
            "Misalignment by generation",
            captions.misalignment_by_generation(found),
            misalignment_figures.by_generation,
            found,
        ),
    ]


def _render(name: str, title: str, caption: str, plot: Callable[[Findings], Figure], found: Findings) -> RenderedFigure:
    with mpl.rc_context(RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure = plot(found)
        png, pdf, svg = (_save(figure, kind) for kind in ("png", "pdf", "svg"))
        width_mm = figure.get_figwidth() * 25.4
    return RenderedFigure(name=name, title=title, caption=caption, png=png, pdf=pdf, svg=svg, width_mm=width_mm)


def _save(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=_DPI, metadata=_NO_DATE[kind])
    return buffer.getvalue()
