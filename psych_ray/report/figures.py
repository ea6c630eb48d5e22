"""The figure of a finding as bytes in memory.

Needs no display and keeps no state; the same findings give the same bytes. The layout of each figure is in the module
that its finding names.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from psych_ray.compat.matplotlib import pdf_fonts_without_layout
from psych_ray.report.findings.finding import Finding
from psych_ray.report.style import RC
from psych_ray.study.tables import Findings

KINDS = ("png", "pdf", "svg")
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
    content: dict[str, bytes]
    """By kind: png, pdf, svg."""
    width_mm: float


def render_figure(finding: Finding, found: Findings) -> RenderedFigure | None:
    """The figure of a finding; None where there is nothing to draw."""
    with mpl.rc_context(RC), pdf_fonts_without_layout(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure = finding.figure(found)
        if figure is None:
            return None
        figure.set_dpi(_DPI)
        engine = figure.get_layout_engine()
        if isinstance(engine, ConstrainedLayoutEngine):
            engine.set(w_pad=0.06, h_pad=0.05)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once, not again for each format
        content = {kind: _save(figure, kind) for kind in KINDS}
    return RenderedFigure(name=finding.name, content=content, width_mm=figure.get_figwidth() * 25.4)


def _save(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=_DPI, metadata=_NO_DATE[kind])
    return buffer.getvalue()
