"""The page: one HTML file that opens from disk, with everything it needs inside.

Names of studies and checkpoints are data from elsewhere, so every value is escaped, figures are images in which
nothing can run, and a content policy allows no script but ours and no request at all.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources

import jinja2
from markupsafe import Markup

from psych_ray.report.figures import Drawn
from psych_ray.report.tables import checkpoint_ids, table, tables
from psych_ray.study import Findings


def render(
    found: Findings, *, title: str, about: Mapping[str, str], headlines: Sequence[str], figures: Sequence[Drawn]
) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("psych_ray.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    script = _template("page.js")
    left_out = table(found, "left_out", "left-out", "Left out", "", ids=checkpoint_ids(found))
    return environment.get_template("page.html").render(
        title=title,
        headlines=headlines,
        figures=[(figure, _embedded(figure.svg)) for figure in figures],
        tables=tables(found),
        left_out=left_out,
        about=about,
        style=Markup(_template("page.css")),  # noqa: S704  ours, and no data in it
        script=Markup(script),  # noqa: S704
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _template(name: str) -> str:
    return resources.files("psych_ray.report").joinpath("templates", name).read_text("utf-8")


def _embedded(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
