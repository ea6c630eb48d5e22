"""Findings about participants: how prediction changes within a session, by group, and with reaction time.

Layout of the figures is in `report.line_figures` and `report.interval_figure`.
"""

from __future__ import annotations

import math
from typing import Any

import polars as pl
from matplotlib.figure import Figure
from scipy import special

from psych_ray.report import line_figures
from psych_ray.report.findings.finding import Finding, Statement
from psych_ray.report.findings.misalignment import effect_counts
from psych_ray.report.findings.wording import Estimate, claim, counted, directions, number, tally_text
from psych_ray.report.interval_figure import Row, interval_figure
from psych_ray.report.marks import checkpoint_ids, is_reference
from psych_ray.study.tables import Findings


def best_rows(found: Findings, table: pl.DataFrame) -> tuple[str, pl.DataFrame]:
    """Slug and rows of the checkpoint of lowest mean NLL, of those of most studies, among those that have rows here.

    Empty where there is none.
    """
    rows = found.in_main_condition(found.by_checkpoint).filter(
        ~is_reference(), pl.col("checkpoint").is_in(table["checkpoint"].unique().to_list())
    )
    if rows.is_empty():
        return "", table.clear()
    slug = str(rows.sort("n_studies", "nll", descending=[True, False], maintain_order=True)["checkpoint"][0])
    return slug, table.filter(pl.col("checkpoint") == slug)


def _learning_statements(found: Findings) -> list[Statement]:
    slug, own = best_rows(found, found.in_main_condition(found.by_decile).drop_nulls("nll"))
    own = own.sort("decile")
    if own.height < 2:
        return []
    first, last = own.row(0, named=True), own.row(-1, named=True)
    change = Estimate.of(last, "change", "change_low", "change_high")
    name, span = checkpoint_ids(found).get(slug, slug), "from the first to the last tenth of a session"
    text = claim(
        change,
        above=f"For {name}, of lowest NLL, NLL rises {span}",
        below=f"For {name}, of lowest NLL, NLL falls {span}",
        none=f"For {name}, of lowest NLL, no change of NLL {span} was found",
        unknown=f"For {name}, of lowest NLL, a change of NLL {span} cannot be told",
    )
    counts = effect_counts(last)
    measure = "NLL, nats per response"
    numbers = (
        Estimate.of(first, "nll").number(f"{name}, first tenth", measure, counts),
        Estimate.of(last, "nll").number(f"{name}, last tenth", measure, counts),
        change.number(f"{name}, first to last tenth", measure, counts),
    )
    nlls = f"{number(first['nll'])} to {number(last['nll'])} nats per response"
    return [Statement(f"{text}, from {nlls} ({change.text('change')}).", numbers)]


def group_estimate(row: dict[str, Any]) -> Estimate:
    """Difference of a group with a 95 % interval: t over the studies that it is a mean of."""
    d, se, n = row["difference"], row["se"], row["n_compared"]
    if d is None or se is None or n is None or n < 2 or not math.isfinite(se):
        return Estimate(d)
    half = float(special.stdtrit(n - 1, 0.975)) * se
    return Estimate(d, d - half, d + half)


def _group_statements(found: Findings) -> list[Statement]:
    slug, own = best_rows(found, found.in_main_condition(found.by_group).drop_nulls("difference"))
    rows = list(own.iter_rows(named=True))
    if not rows:
        return []
    name = checkpoint_ids(found).get(slug, slug)
    estimates = [group_estimate(row) for row in rows]
    text = tally_text(
        directions(estimates),
        counted(len(rows), "group"),
        who=f"{name}, of lowest NLL, predicts the group",
        above="worse than the other participants of the same studies",
        below="better than the other participants of the same studies",
    )
    statements = [Statement(f"{text} Intervals are not adjusted for the number of groups.")]
    for row, estimate in zip(rows, estimates, strict=True):
        of = f"{row['field']} {row['value']}"
        said = claim(
            estimate,
            above=f"{of}: predicted worse",
            below=f"{of}: predicted better",
            none=f"{of}: no difference was found",
            unknown=f"{of}: a difference cannot be told",
        )
        n = f"{counted(row['n_participants'], 'participant')}, {counted(row['n_compared'], 'study', 'studies')}"
        counts = effect_counts(row) | {"studies": row["n_compared"]}
        value = estimate.number(of, "NLL, group minus others, nats per response", counts)
        statements.append(Statement(f"{said} ({estimate.text('difference in nats')}; {n}).", (value,)))
    return statements


def _group_figure(found: Findings) -> Figure | None:
    every = found.in_main_condition(found.by_group).drop_nulls("difference")
    slug, own = best_rows(found, every)
    stage = _stage(found, slug)
    marks = []
    for row in own.iter_rows(named=True):
        estimate = group_estimate(row)
        same = every.filter(pl.col("field") == row["field"], pl.col("value") == row["value"])
        marks.append(
            Row(
                label=row["value"],
                value=row["difference"],
                low=estimate.low,
                high=estimate.high,
                stage=stage,
                heading=row["field"],
                points=tuple(same.filter(pl.col("checkpoint") != slug)["difference"]),
            )
        )
    return interval_figure(
        marks,
        x_label="NLL, the group minus the other participants (nats)",
        right="predicted worse",
        left="better",
        noun="groups",
        decimals=3,
    )


def _stage(found: Findings, slug: str) -> str | None:
    own = found.by_checkpoint.filter(pl.col("checkpoint") == slug)
    return own["stage"][0] if own.height else None


def _correlations(found: Findings) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of single studies, and those over all studies, whose study is null."""
    rows = found.in_main_condition(found.reaction_times).drop_nulls("r")
    return rows.filter(pl.col("study").is_not_null()), rows.filter(pl.col("study").is_null())


def _reaction_statements(found: Findings) -> list[Statement]:
    of_studies, over_all = _correlations(found)
    slug, rows = best_rows(found, of_studies)
    own = list(rows.iter_rows(named=True))
    if not own:
        return []
    name = checkpoint_ids(found).get(slug, slug)
    estimates = [Estimate.of(row, "r") for row in own]
    measure = "correlation of NLL and log reaction time"
    numbers = tuple(
        estimate.number(f"{name}, {row['study']}", measure, effect_counts(row))
        for row, estimate in zip(own, estimates, strict=True)
    )
    text = tally_text(
        directions(estimates),
        counted(len(own), "study", "studies"),
        who="people respond",
        above=f"slower the less probable {name}, of lowest NLL, finds the response",
        below="faster the less probable it is",
    )
    statements = [Statement(text, numbers)]
    whole = over_all.filter(pl.col("checkpoint") == slug) if len(own) > 1 else over_all.clear()
    for row in whole.iter_rows(named=True):
        estimate = Estimate.of(row, "r")
        number_of = estimate.number(f"{name}, all studies", measure, effect_counts(row))
        statements.append(Statement(f"Over the participants of all studies, {estimate.text('r')}.", (number_of,)))
    return statements


def _reaction_figure(found: Findings) -> Figure | None:
    rows, _ = _correlations(found)
    slug, own = best_rows(found, rows)
    marks = []
    for row in own.sort("r", descending=True).iter_rows(named=True):
        others = rows.filter(pl.col("study") == row["study"], pl.col("checkpoint") != slug)
        marks.append(
            Row(
                label=row["study"],
                value=row["r"],
                low=row["low"],
                high=row["high"],
                stage=_stage(found, slug),
                points=tuple(others["r"]),
            )
        )
    return interval_figure(
        marks,
        x_label="Correlation of NLL and log reaction time",
        right="slower where less probable",
        left="faster",
        noun="studies",
    )


LEARNING = Finding(
    name="learning",
    title="Prediction within a session",
    statements=_learning_statements,
    figure=line_figures.learning,
    caption="NLL by tenth of a session; the largest checkpoint of each generation and stage. Bands: 95 % intervals "
    "over studies. Dashed: checkpoints without stage and size.",
    ours="Mean NLL of the responses in each tenth of a transcript, mean over the studies that have responses in all "
    "ten. A checkpoint that learns from the participant's earlier responses improves.",
    authors="",
    tables=("by_decile", "by_length", "by_experiment"),
    needs="a study whose transcripts have ten responses or more",
)
GROUPS = Finding(
    name="groups",
    title="Groups of participants",
    statements=_group_statements,
    figure=_group_figure,
    caption="The checkpoint of lowest NLL, with 95 % intervals; small markers: the other checkpoints.",
    ours="Mean NLL over a participant group's responses minus that of the other participants of the same studies that "
    "have the field, mean over studies; 95 % interval: t over studies.",
    authors="",
    tables=("by_group",),
    needs="participants with age, gender or diagnosis",
)
REACTION_TIMES = Finding(
    name="reaction_times",
    title="Reaction times",
    statements=_reaction_statements,
    figure=_reaction_figure,
    caption="The checkpoint of lowest NLL in each study with its 95 % interval; small markers: the other checkpoints.",
    ours="Correlation of NLL and log reaction time within participants (pooled within-participant covariances).",
    authors="",
    tables=("reaction_times",),
    needs="transcripts with reaction times",
)
