"""Findings about conditions: chat and persona against plain, on the same responses, and behavioural checkpoints.

Layout of the figures is in `report.interval_figure`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import polars as pl
from matplotlib.figure import Figure

from psych_ray.report.findings.finding import Finding, Statement
from psych_ray.report.findings.misalignment import bracket, effect_counts
from psych_ray.report.findings.wording import Estimate, claim
from psych_ray.report.interval_figure import Row, interval_figure
from psych_ray.report.marks import checkpoint_ids
from psych_ray.report.style import stage_style
from psych_ray.study.tables import Findings

_OVER = {
    "all": "",
    "developmental": " in developmental studies",
    "published": " in the studies of the published figure",
    "psych201": " in studies that were not collected for Psych-101",
}
_ONLY_SAME = (
    "Cohen's d of a condition minus plain for one checkpoint, over the responses that it has scored under both, "
    "mean over studies; above zero, NLL is higher under the condition. Of a stage, the mean over its checkpoints. "
    "Intervals: 95 % intervals of a bootstrap over studies and participants within them."
)
_KNOWN = ("chat", "persona")


def _is(condition: str | None) -> pl.Expr:
    return ~pl.col("condition").is_in(_KNOWN) if condition is None else pl.col("condition") == condition


def _contrast_statements(found: Findings, condition: str | None) -> list[Statement]:
    rows = found.contrast_summary.filter(_is(condition))
    whole = rows.filter(pl.col("stage").is_null())
    stages = rows.filter(pl.col("stage").is_not_null(), pl.col("studies") == "all")
    shown = [*whole.iter_rows(named=True), *stages.iter_rows(named=True)]
    return [_contrast(row) for row in shown]


def _contrast(row: dict[str, Any]) -> Statement:
    estimate = Estimate.of(row)
    whose = "" if row["stage"] is None else f" of the stage {stage_style(row['stage']).label}"
    between = f"{row['condition']} and {row['reference']}"
    over = _OVER.get(row["studies"], f" in the studies {row['studies']}")
    than = f"under {row['condition']} than under {row['reference']}"
    text = claim(
        estimate,
        above=f"Checkpoints{whose} predict people's responses worse {than}{over}",
        below=f"Checkpoints{whose} predict people's responses better {than}{over}",
        none=f"Over checkpoints{whose} no difference between {between} was found{over}",
        unknown=f"Over checkpoints{whose} a difference between {between}{over} cannot be told",
    )
    of = f"{row['condition']} - {row['reference']}, {row['stage'] or 'all stages'}, {row['studies']}"
    number = estimate.number(of, f"Cohen's d, {row['condition']} minus {row['reference']}", effect_counts(row))
    return Statement(f"{text} {bracket(estimate, row)}.", (number,))


def _contrast_figure(found: Findings, condition: str | None) -> Figure | None:
    ids = checkpoint_ids(found)
    rows = found.contrasts.filter(_is(condition)).drop_nulls("d")
    kinds = [name for name in ("all", "developmental", "published") if name in set(rows["studies"])]
    marks = []
    for contrast in rows.partition_by("condition", "reference", "studies", maintain_order=True):
        name, reference, studies = contrast.select("condition", "reference", "studies").row(0)
        heading = f"{name} - {reference}" if condition is None else f"{studies} studies" if len(kinds) > 1 else ""
        marks += _summary_rows(found, name, reference, studies, heading)
        marks += [
            Row(
                label=ids.get(row["checkpoint"], row["checkpoint"]),
                value=row["d"],
                low=row["low"],
                high=row["high"],
                stage=row["stage"],
                heading=heading,
            )
            for row in contrast.iter_rows(named=True)
            if studies == "all"
        ]
    what = condition or "condition"
    return interval_figure(
        marks,
        x_label=f"Cohen's d, {what} minus plain",
        right=f"higher NLL under {what}" if condition else "higher NLL",
        left="lower NLL",
        noun="rows",
        legend=True,
    )


def _summary_rows(found: Findings, condition: str, reference: str, studies: str, heading: str) -> list[Row]:
    rows = found.contrast_summary.filter(
        pl.col("condition") == condition, pl.col("reference") == reference, pl.col("studies") == studies
    )
    return [
        Row(
            label="mean over checkpoints" if row["stage"] is None else f"mean, {stage_style(row['stage']).label}",
            value=row["d"],
            low=row["low"],
            high=row["high"],
            stage=row["stage"],
            heading=heading,
            band=None if row["pi_low"] is None else (row["pi_low"], row["pi_high"]),
            kept=True,
        )
        for row in rows.iter_rows(named=True)
        if row["d"] is not None and (row["stage"] is None or studies != "all" or rows.height > 1)
    ]


def _behavioural_statements(found: Findings) -> list[Statement]:
    ids = checkpoint_ids(found)
    statements = []
    for row in found.in_main_condition(found.behavioural).iter_rows(named=True):
        estimate, over = Estimate.of(row), _OVER.get(row["studies"], f" in the studies {row['studies']}")
        post, base = (ids.get(row[each], row[each]) for each in ("post", "base"))
        text = claim(
            estimate,
            above=f"{post}, trained on behaviour, predicts people's responses better than its base {base}{over}",
            below=f"{post}, trained on behaviour, predicts people's responses worse than its base {base}{over}",
            none=f"Between {post}, trained on behaviour, and its base {base} no difference was found{over}",
            unknown=f"Whether {post}, trained on behaviour, predicts better than its base {base}{over} cannot be told",
        )
        number = estimate.number(f"{post}, {row['studies']}", "Cohen's d, base minus post-trained", effect_counts(row))
        statements.append(Statement(f"{text} {bracket(estimate, row)}.", (number,)))
    return statements


def _behavioural_figure(found: Findings) -> Figure | None:
    ids = checkpoint_ids(found)
    marks = [
        Row(
            label="all studies" if row["studies"] == "all" else "not in Psych-101",
            value=row["d"],
            low=row["low"],
            high=row["high"],
            stage="behavioural",
            heading=ids.get(row["post"], row["post"]),
            band=None if row["pi_low"] is None else (row["pi_low"], row["pi_high"]),
        )
        for row in found.in_main_condition(found.behavioural).iter_rows(named=True)
        if row["d"] is not None
    ]
    return interval_figure(
        marks, x_label="Cohen's d, base minus post-trained", right="predicts better than its base", left="worse"
    )


def _contrast_finding(
    name: str, title: str, condition: str | None, authors: str, needs: str, more: str = ""
) -> Finding:
    statements: Callable[[Findings], list[Statement]] = partial(_contrast_statements, condition=condition)
    return Finding(
        name=name,
        title=title,
        statements=statements,
        figure=partial(_contrast_figure, condition=condition),
        caption="Means over checkpoints, then single checkpoints, with 95 % intervals; grey bands: 95 % prediction "
        "intervals of the effect in a new study.",
        ours=f"{_ONLY_SAME}{more}",
        authors=authors,
        tables=("contrast_summary", "contrasts", "contrasts_by_study"),
        needs=needs,
    )


CHAT = _contrast_finding(
    "chat",
    "Chat template",
    "chat",
    "The study scores after the template's opening of the assistant's turn and compares means over all responses.",
    "the condition chat beside plain",
)
PERSONA = _contrast_finding(
    "persona",
    "Persona",
    "persona",
    "The study's persona benefit is plain minus persona, the opposite sign, with the population standard deviation, "
    "without two studies: the rows `published`, whose sign here is that of ours. Its plain includes people without "
    "metadata.",
    "the condition persona beside plain",
    " developmental: the studies that compare children or adolescents with adults; published: the study's selection.",
)
OTHER_CONDITIONS = _contrast_finding(
    "other_conditions", "Other conditions", None, "", "a condition beside plain other than chat and persona"
)
BEHAVIOURAL = Finding(
    name="behavioural",
    title="Checkpoints trained on behaviour",
    statements=_behavioural_statements,
    figure=_behavioural_figure,
    caption="Mean over studies with its 95 % interval; grey bands: 95 % prediction intervals of the effect in a new "
    "study.",
    ours="Cohen's d of a checkpoint trained on behaviour against its base, base minus post-trained: above zero it "
    "predicts better. psych201: studies that were not collected for Psych-101, on which Centaur was trained.",
    authors="The study compares Centaur with its base, both in 4 bits, in the studies of Psych-201 alone, with a "
    "standard error over studies.",
    tables=("behavioural",),
    needs="a checkpoint of the stage behavioural, and its base",
)
