"""The tables of the page: their titles, column labels and number formats.

A cell has a text and a value to sort by. The template escapes both. The CSV files under tables/ have all rows and
digits, the page at most `MAX_ROWS` rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import polars as pl

from psych_ray.report.marks import checkpoint_ids
from psych_ray.report.style import MINUS, size_label
from psych_ray.results.refused import Refusal
from psych_ray.study.tables import Findings

MAX_ROWS = 1_000
MAX_CELLS = 5_000
"""Of a table with many columns, fewer rows."""
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
    "low": "95 % from",
    "high": "95 % to",
    "accuracy_low": "Accuracy from",
    "accuracy_high": "Accuracy to",
    "re_d": "Random-effects d",
    "re_low": "Random from",
    "re_high": "Random to",
    "tau": "SD between studies",
    "pi_low": "New study from",
    "pi_high": "New study to",
    "n_positive": "Studies with d > 0",
    "p_sign": "p, sign test",
    "pseudo_r2": "Pseudo-R²",
    "below_chance": "Below chance",
    "n_letters": "Letters",
    "n_participants": "Participants",
    "n_checkpoints": "Checkpoints",
    "n_choices": "Choices",
    "d_z": "d of differences",
    "difference": "Difference",
    "difference_se": "Its standard error",
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
_PROBABILITIES = ("p", "q", "p_sign")

_EFFECT = "d low high re_d re_low re_high tau pi_low pi_high p_sign"
# Field of Findings, and name of its files; title; note.
_TITLES: Mapping[str, tuple[str, str]] = {
    "by_checkpoint": ("Checkpoints", "Mean over the responses of a study, then over studies, with 95 % intervals."),
    "misalignment": ("Pairs", "Each post-trained checkpoint against its base: mean over studies."),
    "by_stage": ("Stages", "Mean over pairs."),
    "by_generation": ("Generations", "Mean over the pairs of one stage."),
    "by_stage_and_generation": ("Generations and stages", "Mean over pairs."),
    "by_domain": ("Domains", "Mean over pairs in the studies of a domain."),
    "by_pair_and_domain": ("Pairs by domain", "The cells of the heat map."),
    "accuracy": ("Accuracy of pairs", "On single capital letters that both have scored; mean over studies."),
    "contrast_summary": ("Conditions", "A condition minus its reference on the same responses: mean over checkpoints."),
    "contrasts": ("Conditions by checkpoint", "A condition minus its reference on the same responses."),
    "contrasts_by_study": ("Conditions by study", "Over the responses scored under both."),
    "behavioural": ("Trained on behaviour", "Base minus post-trained: above zero, better than the base."),
    "overconfidence": ("Over-confidence", "Nats per response, mean over studies: misalignment = repaired + remaining."),
    "calibration": ("Calibration", "Means over studies."),
    "calibration_by_study": (
        "Calibration by study",
        "Temperatures are judged on participants they were not fitted on.",
    ),
    "calibration_curve": ("Calibration curves", "Choices by the probability of the most probable option."),
    "misalignment_by_study": ("Pairs by study", "Over the responses scored in both."),
    "influence": ("Without one study", "d of a stage when a study is left out."),
    "by_decile": ("By tenth of a session", "Mean over studies that have responses in all ten."),
    "by_length": ("By length of the transcript", "Mean over responses."),
    "by_experiment": ("By experiment", "Of the studies that have several."),
    "by_group": ("Groups of participants", "difference: against the other participants of the same studies."),
    "reaction_times": ("Reaction times", "Correlation of NLL and log reaction time within participants."),
    "mixed_model": ("Mixed model", "Coefficients."),
    "published": ("Published values", "Those of the study beside those of this run."),
    "transcript_differences": ("Transcripts", "Mean of post-trained minus base per response, over all pairs."),
    "coverage": ("Coverage", "Number of responses by status."),
}
_COLUMNS: Mapping[str, str] = {
    "by_checkpoint": "id stage size_b condition nll low high accuracy accuracy_low accuracy_high pseudo_r2 n_studies "
    "n_responses n_letters family generation base",
    "by_study": "checkpoint study domain condition nll se pseudo_r2 below_chance accuracy n_letters n_participants "
    "n_responses",
    "misalignment": f"post base condition {_EFFECT} n_studies n_participants stage size_b family generation",
    "by_stage": f"condition stage {_EFFECT} n_pairs n_studies",
    "by_generation": f"condition family generation stage {_EFFECT} n_pairs n_studies",
    "by_stage_and_generation": f"condition family generation stage {_EFFECT} n_pairs n_studies",
    "by_domain": f"condition domain {_EFFECT} p q n_pairs n_studies published",
    "contrasts": f"checkpoint condition reference studies {_EFFECT} difference n_studies stage size_b generation",
    "contrast_summary": f"condition reference studies stage {_EFFECT} n_checkpoints n_studies",
    "behavioural": f"post base condition studies {_EFFECT} n_studies",
    "misalignment_by_study": "post base condition study domain d low high difference difference_se nll_post nll_base "
    "n_participants n_responses only_post only_base",
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
    name: str
    """Of its files, and of the field of `Findings`."""
    title: str
    note: str
    columns: list[Column]
    rows: list[list[Cell]]
    n_rows: int
    """Of the files; `rows` may be fewer."""


def tables(found: Findings) -> list[Table]:
    """The tables of the page in order, without empty ones."""
    ids = checkpoint_ids(found)
    all_tables: list[Table] = []
    for name in _TITLES:
        all_tables.append(table(found, name, *_TITLES[name], ids=ids))
        if name == "by_checkpoint":
            all_tables += _by_study(found, ids)
    return [each for each in all_tables if each.rows]


def table(found: Findings, name: str, title: str, note: str, *, ids: Mapping[str, str]) -> Table:
    """The field `name` of `found` as a table of the page."""
    frame = found.tables()[name]
    shown = frame.select(_COLUMNS[name].split()) if name in _COLUMNS else frame
    return _table(shown, name, name, title, note, ids, _LABELS)


def refused_table(refused: Sequence[Refusal]) -> pl.DataFrame:
    """study, what, reason, n, example: what of the sources was not scored; the study is null where it is not known."""
    schema = {"study": pl.String, "what": pl.String, "reason": pl.String, "n": pl.Int64, "example": pl.String}
    frame = pl.DataFrame([asdict(one) for one in refused], schema=schema)
    return frame.with_columns(pl.col("study", "example").replace("", None))


def plain_table(frame: pl.DataFrame, name: str, title: str) -> Table:
    """A table that is not of the findings."""
    return _table(frame, name, name, title, "", {}, _LABELS)


def _table(
    frame: pl.DataFrame,
    name: str,
    key: str,
    title: str,
    note: str,
    ids: Mapping[str, str],
    labels: Mapping[str, str],
) -> Table:
    """`frame` with the ids of checkpoints, without columns that are null or a condition that is always the same."""
    hidden = [one for one in frame.columns if frame.height and frame[one].null_count() == frame.height]
    if "condition" in frame.columns and frame["condition"].n_unique() == 1:
        hidden.append("condition")
    shown = frame.drop(set(hidden))
    named = [one for one in _CHECKPOINTS if one in shown.columns]
    head = shown.head(min(MAX_ROWS, MAX_CELLS // max(shown.width, 1))).with_columns(pl.col(named).replace(dict(ids)))
    return Table(
        key=key,
        name=name,
        title=title,
        note=note,
        columns=[Column(_label(labels, one), kind.is_numeric()) for one, kind in shown.schema.items()],
        rows=[[_cell(one, value) for one, value in zip(shown.columns, row, strict=True)] for row in head.iter_rows()],
        n_rows=frame.height,
    )


def _label(labels: Mapping[str, str], name: str) -> str:
    return labels.get(name, name.replace("_", " "))


def _by_study(found: Findings, ids: Mapping[str, str]) -> list[Table]:
    slugs = found.by_study["checkpoint"].unique(maintain_order=True).to_list()
    if len(slugs) > MAX_CHECKPOINT_COLUMNS or not slugs:
        return [table(found, "by_study", "Studies", "Mean over the scored responses of each study.", ids=ids)]
    made = []
    for value, title, note in (
        ("nll", "NLL by study", "Nats per response, mean over the scored responses; lower is better."),
        ("accuracy", "Accuracy by study", "Share of single capital letters that are the most probable token."),
    ):
        labels = {**_LABELS, **{f"{value} {slug}": ids.get(slug, slug) for slug in slugs}}
        wide = _wide(found.by_study, value)
        made.append(_table(wide, "by_study", f"by_study-{value}", title, note, ids, labels))
    return made


def _wide(by_study: pl.DataFrame, value: str) -> pl.DataFrame:
    index = ["study", "domain", "condition"]
    long = by_study.select(*index, pl.format(f"{value} {{}}", "checkpoint").alias("of"), value)
    return long.pivot("of", index=index, values=value).sort(pl.col("condition") != "plain", "condition", "study")


def _cell(name: str, value: object) -> Cell:
    if value is None:
        return Cell("", "")
    if isinstance(value, bool):
        return Cell("yes" if value else "no", "yes" if value else "no")
    if isinstance(value, float):
        if name in _PROBABILITIES and value < 0.001:
            return Cell("<0.001", f"{value:.4g}")
        text = size_label(value) if name == "size_b" else f"{value:z.3f}".replace("-", MINUS)
        return Cell(text, f"{value:.6g}")
    if isinstance(value, int):
        return Cell(f"{value:,}", str(value))
    text = str(value).replace("_", " ") if name == "stage" else str(value)
    return Cell(text, text)
