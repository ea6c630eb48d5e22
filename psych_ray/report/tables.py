"""Tables of the page: which there are, what their columns are called, and how a number is written.

A cell is text and, apart from it, the value that sorting goes by. Escaping is the template's; the files under tables/
hold every row and digit, a page only as many as one can read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from psych_ray.report.style import MINUS, size_label
from psych_ray.study import Findings

MOST_ROWS = 1_000
MOST_WIDE = 12
"""Checkpoints that stand side by side in the tables by study."""

_LABELS: Mapping[str, str] = {
    "checkpoint": "Checkpoint",
    "id": "Checkpoint",
    "post": "Post-trained",
    "base": "Base",
    "condition": "Condition",
    "family": "Family",
    "generation": "Generation",
    "size_b": "Parameters",
    "stage": "Stage",
    "study": "Study",
    "reason": "Reason",
    "nll": "NLL (nats)",
    "nll_post": "NLL, post-trained",
    "nll_base": "NLL, base",
    "sd": "SD of NLL",
    "accuracy": "Accuracy",
    "d": "Cohen's\N{NO-BREAK SPACE}d",
    "se": "Standard error",
    "n_studies": "Studies",
    "n_pairs": "Pairs",
    "n_responses": "Responses scored",
    "studies": "Studies",
    "transcripts": "Transcripts",
    "responses": "Responses",
    "scored": "Scored",
    "cut": "Cut",
    "empty": "Empty",
    "altered": "Altered",
    "not_applicable": "Not applicable",
    "only_post": "Only in post-trained",
    "only_base": "Only in base",
}
_CHECKPOINTS = ("checkpoint", "post", "base")

# File, and with it the field of Findings; anchor; title; note.
_SUMMARIES = (
    ("by_checkpoint", "checkpoints", "Checkpoints", "Mean over the responses of a study, then over studies."),
    ("misalignment", "pairs", "Pairs", "Each post-trained checkpoint against its base: mean over studies."),
    ("by_stage", "stages", "Stages", "Mean over pairs; the standard error is over studies."),
    ("by_generation", "generations", "Generations", "Mean over pairs, whatever their stage."),
    ("by_stage_and_generation", "generations-stages", "Generations and stages", "Mean over pairs."),
)
_DETAILS = (
    ("misalignment_by_study", "pairs-studies", "Pairs by study", "Over the responses scored in both."),
    ("coverage", "coverage", "Coverage", "What became of every response."),
)
_COLUMNS: Mapping[str, str] = {
    "by_checkpoint": "id stage size_b condition nll accuracy n_studies n_responses family generation base",
    "misalignment": "post base condition d se n_studies stage size_b family generation",
    "misalignment_by_study": "post base condition study d nll_post nll_base n_responses only_post only_base",
}
"""What the page shows of a table, the numbers before what explains them; of others, all."""


@dataclass(frozen=True)
class Column:
    """Head of a column."""

    label: str
    numeric: bool


@dataclass(frozen=True)
class Cell:
    """What is shown, and what sorting goes by; both empty where there is nothing."""

    text: str
    sort: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table of the page."""

    key: str
    """Its anchor."""
    title: str
    note: str
    file: str
    """Where all of it stands, relative to the page."""
    columns: list[Column]
    rows: list[list[Cell]]
    n_rows: int
    """More than `rows` where the page does not show all."""


def tables(found: Findings) -> list[Table]:
    """The tables of the page in their order; one without rows is not shown."""
    ids = checkpoint_ids(found)
    told = [
        *(table(found, *each, ids=ids) for each in _SUMMARIES),
        *_by_study(found, ids),
        *(table(found, *each, ids=ids) for each in _DETAILS),
    ]
    return [each for each in told if each.rows]


def checkpoint_ids(found: Findings) -> Mapping[str, str]:
    """Slug to id, of the checkpoints that have means."""
    return dict(found.by_checkpoint.select("checkpoint", "id").iter_rows())


def table(found: Findings, file: str, key: str, title: str, note: str, *, ids: Mapping[str, str]) -> Table:
    """A table of `found` for the page, under its name there."""
    frame: pl.DataFrame = getattr(found, file)
    shown = frame.select(_COLUMNS[file].split()) if file in _COLUMNS else frame
    return _table(shown, file, key, title, note, ids, _LABELS)


def _table(
    frame: pl.DataFrame,
    file: str,
    key: str,
    title: str,
    note: str,
    ids: Mapping[str, str],
    labels: Mapping[str, str],
) -> Table:
    """`frame` with checkpoints by their id, and without columns that say nothing."""
    silent = [name for name in frame.columns if frame.height and frame[name].null_count() == frame.height]
    if "condition" in frame.columns and frame["condition"].n_unique() == 1:
        silent.append("condition")
    shown = frame.drop(set(silent))
    named = [name for name in _CHECKPOINTS if name in shown.columns]
    head = shown.head(MOST_ROWS).with_columns(pl.col(named).replace(dict(ids)))
    return Table(
        key=key,
        title=title,
        note=note,
        file=f"tables/{file}.csv",
        columns=[Column(labels.get(name, name), kind.is_numeric()) for name, kind in shown.schema.items()],
        rows=[[_cell(name, value) for name, value in zip(shown.columns, row, strict=True)] for row in head.iter_rows()],
        n_rows=frame.height,
    )


def _by_study(found: Findings, ids: Mapping[str, str]) -> Iterator[Table]:
    slugs = found.by_study["checkpoint"].unique(maintain_order=True).to_list()
    if len(slugs) > MOST_WIDE:
        note = "Mean over the scored responses of each study."
        yield table(found, "by_study", "studies", "Studies", note, ids=ids)
        return
    for value, title, note in (
        ("nll", "NLL by study", "Nats per response, mean over the scored responses; lower is better."),
        ("accuracy", "Accuracy by study", "Part of the scored responses whose every token is the most probable one."),
    ):
        labels = {**_LABELS, **{f"{value} {slug}": ids.get(slug, slug) for slug in slugs}}
        yield _table(_wide(found.by_study, value), "by_study", f"studies-{value}", title, note, ids, labels)


def _wide(by_study: pl.DataFrame, value: str) -> pl.DataFrame:
    long = by_study.select("study", "condition", pl.format(f"{value} {{}}", "checkpoint").alias("of"), value)
    return long.pivot("of", index=["study", "condition"], values=value).sort(
        pl.col("condition") != "plain", "condition", "study"
    )


def _cell(name: str, value: object) -> Cell:
    if value is None:
        return Cell("", "")
    if isinstance(value, float):
        text = size_label(value) if name == "size_b" else f"{value:z.3f}".replace("-", MINUS)
        return Cell(text, repr(value))
    if isinstance(value, int):
        return Cell(f"{value:,}", str(value))
    text = str(value).replace("_", " ") if name == "stage" else str(value)
    return Cell(text, text)
