"""The picture of a plan as a file: a figure, or a page with it and the numbers that opens from disk without network.

Names are untrusted data: every value is escaped, the figure is an image, which runs no scripts, and a content security
policy allows neither scripts nor requests.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from markupsafe import Markup

from psych_ray.atomic import write_atomically
from psych_ray.errors import ResultsError
from psych_ray.report.marks import empty_figure
from psych_ray.report.page import environment, template
from psych_ray.report.style import RC
from psych_ray.report.timeline_figure import who_runs_when
from psych_ray.sweep.timeline import Timeline

_DPI = 220


def write_plan_picture(
    timeline: Timeline | None,
    path: Path,
    *,
    title: str,
    lines: Sequence[str],
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> None:
    """Write the picture in the format of the path's ending: .html, .png, .pdf or .svg.

    `lines`, `columns` and `rows` are shown unchanged on the page. `timeline`: None where nothing would run.
    ResultsError where the file cannot be written.
    """
    kind = path.suffix.removeprefix(".")
    figure = draw(timeline, "png" if kind == "html" else kind)
    content = figure if kind != "html" else _page(figure, title=title, lines=lines, columns=columns, rows=rows)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise ResultsError(
            f"plan.picture={path}: cannot be written ({error.strerror or error}); name another file"
        ) from error


def draw(timeline: Timeline | None, kind: str) -> bytes:
    """The figure as a file of this kind: png, pdf or svg."""
    with mpl.rc_context({**RC, "hatch.linewidth": 0.35}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure = empty_figure("Nothing would run") if timeline is None else who_runs_when(timeline)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=_DPI)
    return buffer.getvalue()


def _page(
    png: bytes, *, title: str, lines: Sequence[str], columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> bytes:
    page = (
        environment()
        .get_template("plan.html")
        .render(
            title=title,
            lines=lines,
            columns=columns,
            rows=rows,
            image=f"data:image/png;base64,{base64.b64encode(png).decode()}",
            style=Markup(template("page.css")),  # noqa: S704  a file of this package, without data
        )
    )
    return page.encode()
