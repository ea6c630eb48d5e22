"""The page: one HTML file without references to other files, so that it opens from disk.

Names of studies and checkpoints, and transcripts, are untrusted data: every value is escaped, figures are images, which
run no scripts, and a content security policy allows the page's own scripts and no requests.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2
import polars as pl
from markupsafe import Markup

from psych_ray.report.figures import RenderedFigure
from psych_ray.report.findings import Finding, Statement
from psych_ray.report.interactive import forest_data, heat_table
from psych_ray.report.marks import checkpoint_ids
from psych_ray.report.tables import Table, plain_table, table, tables
from psych_ray.report.viewer import ViewedTranscript, json_in_html, viewer_data
from psych_ray.study.tables import Findings

SCRIPTS = ("tables.js", "heat.js", "forest.js", "viewer.js")
"""Each an element of its own, so that none depends on the others."""
_OPEN = ("by_checkpoint", "misalignment", "by_stage")
_MAX_OPEN_ROWS = 60


@dataclass(frozen=True)
class Told:
    """A finding with what there is of it."""

    finding: Finding
    statements: Sequence[Statement]
    figure: RenderedFigure | None


def render(
    found: Findings,
    told: Sequence[Told],
    *,
    title: str,
    about: Mapping[str, str],
    headlines: Sequence[str],
    refused: pl.DataFrame,
    viewed: Sequence[ViewedTranscript] = (),
) -> str:
    """The page as HTML."""
    scripts = [template(name) for name in SCRIPTS]
    ids = checkpoint_ids(found)
    every = tables(found)
    forest = forest_data(found) if any(one.finding.name == "forest" for one in told) else None
    viewer = viewer_data(viewed, ids, _first_pair(found))
    return (
        environment()
        .get_template("page.html")
        .render(
            title=title,
            headlines=headlines,
            conditions=found.conditions,
            told=[one for one in told if one.statements],
            without_data=[one.finding for one in told if not one.statements],
            sources={one.finding.name: _data_uri(one.figure.content["svg"]) for one in told if one.figure is not None},
            heat=heat_table(found),
            forest=Markup(json_in_html(forest)) if forest else "",  # noqa: S704  escaped for a script element
            viewer=Markup(json_in_html(viewer)) if viewer else "",  # noqa: S704
            tables=every,
            titles={one.name: one for one in every},
            is_open=_is_open,
            skipped=table(found, "skipped", "Skipped", "", ids=ids),
            refused=plain_table(refused, "refused", "Not used of the sources"),
            about=about,
            style=Markup(template("page.css")),  # noqa: S704  a file of this package, without data
            scripts=[Markup(script) for script in scripts],  # noqa: S704
            hashes=[base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
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


def _is_open(one: Table) -> bool:
    return one.name in _OPEN and one.n_rows <= _MAX_OPEN_ROWS


def _first_pair(found: Findings) -> tuple[str, str] | None:
    """Base and post-trained checkpoint of the pair of largest d in the main condition."""
    rows = found.in_main_condition(found.misalignment).drop_nulls("d").sort("d", descending=True, maintain_order=True)
    return (rows["base"][0], rows["post"][0]) if rows.height else None


def _data_uri(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
