"""The page: one HTML file without references to other files, so that it opens from disk.

Names of studies and checkpoints are untrusted data: every value is escaped, figures are images, which run no scripts,
and a content security policy allows the page's own script and no requests.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources

import jinja2
import polars as pl
from markupsafe import Markup

from psych_ray.report.figures import RenderedFigure
from psych_ray.report.tables import checkpoint_ids, plain_table, table, tables
from psych_ray.study import Findings


def render(
    found: Findings,
    *,
    title: str,
    about: Mapping[str, str],
    headlines: Sequence[str],
    figures: Sequence[RenderedFigure],
    refused: pl.DataFrame,
) -> str:
    """The page as HTML."""
    script = template("page.js")
    skipped = table(found, "skipped", "skipped", "Skipped", "", ids=checkpoint_ids(found))
    return (
        environment()
        .get_template("page.html")
        .render(
            title=title,
            headlines=headlines,
            figures=[(figure, _data_uri(figure.svg)) for figure in figures],
            tables=tables(found),
            skipped=skipped,
            refused=plain_table(refused, "refused", "Not used of the sources"),
            about=about,
            style=Markup(template("page.css")),  # noqa: S704  a file of this package, without data
            script=Markup(script),  # noqa: S704
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def environment() -> jinja2.Environment:
    """Where templates are rendered: every value is escaped, one that is missing is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("psych_ray.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def template(name: str) -> str:
    """A template of this package as it is."""
    return resources.files("psych_ray.report").joinpath("templates", name).read_text("utf-8")


def _data_uri(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
