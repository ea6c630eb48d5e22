"""The tables of the page: their titles, column labels and number formats.

A cell has a text and a value to sort by. The template escapes both. The CSV files under tables/ have all rows and
digits, the page at most `MAX_ROWS` rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import polars as pl

from psych_ray.report.style import MINUS, size_label
from psych_ray.results.refused import Refusal
from psych_ray.study import Findings

MAX_ROWS = 1_000
MAX_CHECKPOINT_COLUMNS = 12
"""With more, the table by study has one row per checkpoint and study instead of one column per checkpoint."""

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
    "domain": "Domain",
    "reason": "Reason",
    "what": "Not used",
    "n": "Number",
    "example": "First of them",
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

# Field of Findings, and name of the CSV file; anchor; title; note.
_SUMMARIES = (
    ("by_checkpoint", "checkpoints", "Checkpoints", "Mean over the responses of a study, then over studies."),
    ("misalignment", "pairs", "Pairs", "Each post-trained checkpoint against its base: mean over studies."),
    ("by_stage", "stages", "Stages", "Mean over pairs; the standard error is over studies."),
    ("by_generation", "generations", "Generations", "Mean over the pairs of all stages."),
    ("by_stage_and_generation", "generations-stages", "Generations and stages", "Mean over pairs."),
)
_DETAILS = (
    ("misalignment_by_study", "pairs-studies", "Pairs by study", "Over the responses scored in both."),
    ("coverage", "coverage", "Coverage", "Number of responses by status."),
)
_COLUMNS: Mapping[str, str] = {
    "by_checkpoint": "id stage size_b condition nll accuracy n_studies n_responses family generation base",
    "misalignment": "post base condition d se n_studies stage size_b family generation",
    "misalignment_by_study": "post base condition study d nll_post nll_base n_responses only_post only_base",
}
"""Columns of a table on the page, in order; tables that are not in here have all of theirs."""


@dataclass(frozen=True)
class Column:
    """Header of a column."""

    label: str
    numeric: bool


@dataclass(frozen=True)
class Cell:
    """Text, and the value to sort by; both empty for null."""

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
    """CSV file with all rows, relative to the page."""
    columns: list[Column]
    rows: list[list[Cell]]
    n_rows: int
    """Of the CSV file; `rows` may be fewer."""


def tables(found: Findings) -> list[Table]:
    """The tables of the page in order, without empty ones."""
    ids = checkpoint_ids(found)
    all_tables = [
        *(table(found, *each, ids=ids) for each in _SUMMARIES),
        *_by_study(found, ids),
        *(table(found, *each, ids=ids) for each in _DETAILS),
    ]
    return [each for each in all_tables if each.rows]


def checkpoint_ids(found: Findings) -> Mapping[str, str]:
    """Id by slug, of the checkpoints that have means."""
    return dict(found.by_checkpoint.select("checkpoint", "id").iter_rows())


def table(found: Findings, file: str, key: str, title: str, note: str, *, ids: Mapping[str, str]) -> Table:
    """The field `file` of `found` as a table of the page."""
    frame: pl.DataFrame = getattr(found, file)
    shown = frame.select(_COLUMNS[file].split()) if file in _COLUMNS else frame
    return _table(shown, file, key, title, note, ids, _LABELS)


def refused_table(refused: Sequence[Refusal]) -> pl.DataFrame:
    """study, what, reason, n, example: what of the sources was not scored; the study is null where it is not known."""
    schema = {"study": pl.String, "what": pl.String, "reason": pl.String, "n": pl.Int64, "example": pl.String}
    frame = pl.DataFrame([asdict(one) for one in refused], schema=schema)
    return frame.with_columns(pl.col("study", "example").replace("", None))


def plain_table(frame: pl.DataFrame, file: str, title: str) -> Table:
    """A table that is not of the findings."""
    return _table(frame, file, file, title, "", {}, _LABELS)


def _table(
    frame: pl.DataFrame,
    file: str,
    key: str,
    title: str,
    note: str,
    ids: Mapping[str, str],
    labels: Mapping[str, str],
) -> Table:
    """`frame` with the ids of checkpoints, without columns that are null or a condition that is always the same."""
    hidden = [name for name in frame.columns if frame.height and frame[name].null_count() == frame.height]
    if "condition" in frame.columns and frame["condition"].n_unique() == 1:
        hidden.append("condition")
    shown = frame.drop(set(hidden))
    named = [name for name in _CHECKPOINTS if name in shown.columns]
    head = shown.head(MAX_ROWS).with_columns(pl.col(named).replace(dict(ids)))
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
    if len(slugs) > MAX_CHECKPOINT_COLUMNS:
        note = "Mean over the scored responses of each study."
        yield table(found, "by_study", "studies", "Studies", note, ids=ids)
        return
    for value, title, note in (
        ("nll", "NLL by study", "Nats per response, mean over the scored responses; lower is better."),
        (
            "accuracy",
            "Accuracy by study",
            "Fraction of the scored responses of which every token is the most probable one.",
        ),
    ):
        labels = {**_LABELS, **{f"{value} {slug}": ids.get(slug, slug) for slug in slugs}}
        yield _table(_wide(found.by_study, value), "by_study", f"studies-{value}", title, note, ids, labels)


def _wide(by_study: pl.DataFrame, value: str) -> pl.DataFrame:
    index = [name for name in ("study", "domain", "condition") if name in by_study.columns]
    long = by_study.select(*index, pl.format(f"{value} {{}}", "checkpoint").alias("of"), value)
    return long.pivot("of", index=index, values=value).sort(pl.col("condition") != "plain", "condition", "study")


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
