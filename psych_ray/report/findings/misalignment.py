"""Findings about post-trained checkpoints against their bases: by stage and generation, by study, without each study.

Layout of the figures is in `report.misalignment_figures` and `report.interval_figure`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl
from matplotlib.figure import Figure

from psych_ray.report import misalignment_figures
from psych_ray.report.findings.finding import Finding, Statement
from psych_ray.report.findings.wording import Estimate, claim, counted, directions, number, tally_text
from psych_ray.report.interval_figure import Row, interval_figure
from psych_ray.report.marks import checkpoint_ids
from psych_ray.report.style import stage_style
from psych_ray.study.tables import Findings

MEASURE = "Cohen's d, post-trained minus base"
AXIS = "Misalignment (Cohen's d, post-trained minus base)"
HIGHER, LOWER = "higher NLL than its base", "lower NLL"
_D = (
    "Misalignment is Cohen's d of a pair: in each study, mean NLL of the post-trained checkpoint minus that of its "
    "base over the responses scored in both, divided by the root mean square of the two standard deviations over "
    "responses; then the mean over studies. Above zero, the post-trained checkpoint predicts people's responses worse."
)
_BOOTSTRAP = (
    "Intervals are 95 % intervals of a bootstrap over studies and participants within them, with percentiles expanded "
    "for few studies; pairs that share a base are drawn together."
)
_AUTHORS = (
    "The study computes the same d with sample standard deviations over single responses, takes the mean over studies, "
    "then over pairs, and gives no intervals. Its stage vision includes vision_reasoning."
)
_NEEDS = "a base checkpoint and a post-trained one of it"


def effect_counts(row: dict[str, Any], *more: str) -> dict[str, int]:
    """Counts of a row of effects, by noun."""
    names = {"n_pairs": "pairs", "n_checkpoints": "checkpoints", "n_studies": "studies"}
    names |= {"n_participants": "participants", "n_responses": "responses", "n_letters": "letters"}
    return {noun: row[name] for name, noun in names.items() if row.get(name) is not None}


def bracket(estimate: Estimate, row: dict[str, Any], name: str = "d") -> str:
    """The estimate with its interval and counts, in brackets."""
    counts = [counted(row["n_pairs"], "pair")] if row.get("n_pairs") is not None else []
    if row.get("n_checkpoints") is not None:
        counts.append(counted(row["n_checkpoints"], "checkpoint"))
    if row.get("n_studies") is not None:
        counts.append(counted(row["n_studies"], "study", "studies"))
    return f"({'; '.join([estimate.text(name), *counts])})"


def _stage_statements(found: Findings) -> list[Statement]:
    pairs = list(found.in_main_condition(found.misalignment).iter_rows(named=True))
    if not pairs:
        return []
    return [_pairs(found, pairs), *_stages(found)]


def _pairs(found: Findings, pairs: list[dict[str, Any]]) -> Statement:
    estimates = [Estimate.of(row) for row in pairs]
    ids = checkpoint_ids(found)
    numbers = tuple(
        estimate.number(f"{ids.get(row['post'], row['post'])} against {ids.get(row['base'], row['base'])}", MEASURE,
                        effect_counts(row))
        for estimate, row in zip(estimates, pairs, strict=True)
    )  # fmt: skip
    if len(pairs) > 1:
        text = tally_text(
            directions(estimates),
            counted(len(pairs), "pair"),
            who="the post-trained checkpoint predicts people's responses",
            above="worse than its base",
            below="better than its base",
        )
        return Statement(text, numbers)
    (row,), (estimate,) = pairs, estimates
    post, base = (ids.get(row[each], row[each]) for each in ("post", "base"))
    text = claim(
        estimate,
        above=f"{post} predicts people's responses worse than its base {base}",
        below=f"{post} predicts people's responses better than its base {base}",
        none=f"Between {post} and its base {base} no difference was found",
        unknown=f"Whether {post} predicts people's responses better or worse than its base {base} cannot be told",
    )
    return Statement(f"{text} {bracket(estimate, row)}.", numbers)


def _stages(found: Findings) -> Iterator[Statement]:
    rows = found.in_main_condition(found.by_stage).sort("d", descending=True, maintain_order=True)
    for row in rows.iter_rows(named=True):
        stage, estimate = stage_style(row["stage"]).label, Estimate.of(row)
        text = claim(
            estimate,
            above=f"Post-trained checkpoints of the stage {stage} predict worse than their bases",
            below=f"Post-trained checkpoints of the stage {stage} predict better than their bases",
            none=f"For the stage {stage} no difference from the bases was found",
            unknown=f"For the stage {stage} a difference from the bases cannot be told",
        )
        yield Statement(
            f"{text} {bracket(estimate, row)}.", (estimate.number(f"stage {stage}", MEASURE, effect_counts(row)),)
        )


def _generation_statements(found: Findings) -> list[Statement]:
    rows = found.in_main_condition(found.by_generation).filter(pl.col("generation") != "unknown")
    families = rows.partition_by("family", maintain_order=True)
    return [_change(list(family.iter_rows(named=True))) for family in families if family.height > 1]


def _change(rows: list[dict[str, Any]]) -> Statement:
    first, last = rows[0], rows[-1]
    change = Estimate.of(last, "change", "change_low", "change_high")
    span = f"From {first['generation']} to {last['generation']}"
    text = claim(
        change,
        above=f"{span} misalignment rises",
        below=f"{span} misalignment falls",
        none=f"{span} no change of misalignment was found",
        unknown=f"{span} a change of misalignment cannot be told",
    )
    text += f", from d = {number(first['d'])} to {number(last['d'])} ({change.text('change')})"
    if rows[1:-1]:
        between = ", ".join(f"{row['generation']} {number(row['d'])}" for row in rows[1:-1])
        text += f" (between them: {between})"
    if len({row["stage"] for row in rows}) > 1:
        text += "; the stages of their pairs differ"
    numbers = tuple(
        Estimate.of(row).number(f"generation {row['generation']}, {row['stage']}", MEASURE, effect_counts(row))
        for row in rows
    )
    return Statement(f"{text}.", (*numbers, change.number(f"{first['generation']} to {last['generation']}", MEASURE)))


def forest_pair(found: Findings) -> dict[str, Any] | None:
    """The pair that the forest plot shows first: of most studies, then the largest, then the first."""
    rows = found.in_main_condition(found.misalignment)
    if rows.is_empty():
        return None
    return rows.sort("n_studies", "size_b", descending=True, nulls_last=True, maintain_order=True).row(0, named=True)


def _forest_statements(found: Findings) -> list[Statement]:
    pair = forest_pair(found)
    if pair is None:
        return []
    studies = _studies_of(found, pair)
    ids = checkpoint_ids(found)
    post = ids.get(pair["post"], pair["post"])
    text = tally_text(
        directions(Estimate.of(row) for row in studies),
        f"{counted(len(studies), 'study', 'studies')} of {post}",
        who="NLL is",
        above="higher than that of its base",
        below="lower than that of its base",
    )
    statements = [Statement(text, tuple(Estimate.of(r).number(f"{post}, {r['study']}", MEASURE) for r in studies))]
    band = Estimate.of(pair, "re_d", "pi_low", "pi_high")
    if band.low is not None and band.high is not None:
        mean = Estimate.of(pair, "re_d", "re_low", "re_high")
        expected = claim(
            band, above="above zero", below="below zero", none="on either side of zero", unknown="of any size"
        )
        span = f"95 % prediction interval {number(band.low)} to {number(band.high)}"
        text = (
            f"Over studies the random-effects mean is {mean.text()}; in a new study d is expected {expected} ({span})."
        )
        statements.append(Statement(text, (mean.number(f"{post}, random-effects mean", MEASURE, effect_counts(pair)),
                                           band.number(f"{post}, prediction interval", MEASURE))))  # fmt: skip
    return statements


def _studies_of(found: Findings, pair: dict[str, Any]) -> list[dict[str, Any]]:
    rows = found.in_main_condition(found.misalignment_by_study)
    own = rows.filter(pl.col("post") == pair["post"], pl.col("base") == pair["base"])
    return list(own.sort("d", descending=True, nulls_last=True, maintain_order=True).iter_rows(named=True))


def _forest_figure(found: Findings) -> Figure | None:
    pair = forest_pair(found)
    if pair is None:
        return None
    stage = pair["stage"]
    rows = [
        Row(label=row["study"], value=row["d"], low=row["low"], high=row["high"], stage=stage)
        for row in _studies_of(found, pair)
        if row["d"] is not None
    ]
    if pair["re_d"] is not None:
        band = None if pair["pi_low"] is None else (pair["pi_low"], pair["pi_high"])
        mean = Row(
            label="random-effects mean",
            value=pair["re_d"],
            low=pair["re_low"],
            high=pair["re_high"],
            band=band,
            kept=True,
        )
        rows.insert(0, mean)
    return interval_figure(rows, x_label=AXIS, right=HIGHER, left=LOWER, noun="studies")


def _influence_statements(found: Findings) -> list[Statement]:
    statements = []
    for rows in found.in_main_condition(found.influence).partition_by("stage", maintain_order=True):
        known = rows.filter(pl.col("d_without").is_not_null())
        if known.is_empty():
            continue
        most = known.sort(pl.col("change").abs(), descending=True, maintain_order=True).row(0, named=True)
        stage = stage_style(most["stage"]).label
        least, largest = (float(value) for value in (known["d_without"].min(), known["d_without"].max()))  # type: ignore[arg-type]
        text = (
            f"For the stage {stage}, d is {number(most['d'], 3)}; without any one study it is between "
            f"{number(least, 3)} and {number(largest, 3)}. {most['study']} changes it most, to "
            f"{number(most['d_without'], 3)} without it."
        )
        value = Estimate(most["d_without"]).number(f"stage {stage} without {most['study']}", MEASURE)
        statements.append(Statement(text, (value,)))
    return statements


def _influence_figure(found: Findings) -> Figure | None:
    rows = []
    for own in found.in_main_condition(found.influence).partition_by("stage", maintain_order=True):
        ordered = own.drop_nulls("change").sort(pl.col("change").abs(), descending=True, maintain_order=True).head(6)
        label = stage_style(own["stage"][0]).label
        for study, change, stage in ordered.select("study", "change", "stage").iter_rows():
            rows.append(Row(label=study, value=change, stage=stage, heading=label))
    return interval_figure(
        rows, x_label="Change of d without the study", right="the study lowers d", left="the study raises d", decimals=3
    )


BY_STAGE = Finding(
    name="misalignment_by_stage",
    title="Misalignment by stage",
    statements=_stage_statements,
    figure=misalignment_figures.by_stage,
    caption="Large markers: mean over the pairs of a stage, with its 95 % interval. Small markers: the pairs, where "
    "there are several.",
    ours=f"{_D} {_BOOTSTRAP}",
    authors=_AUTHORS,
    tables=("by_stage", "misalignment"),
    needs=_NEEDS,
)
GENERATIONS = Finding(
    name="generations",
    title="Misalignment by generation",
    statements=_generation_statements,
    figure=misalignment_figures.by_generation,
    caption="Generations in the order of the numbers in their names, each with its 95 % interval; lines join "
    "generations of one family and stage. Generations may differ in the sizes of their checkpoints.",
    ours=f"{_D} Of a generation, the mean over the pairs of one stage: instruct where there are such pairs, otherwise "
    f"reasoning, otherwise the stage that it has; the figure shows all stages. {_BOOTSTRAP} The change between "
    "two generations has an interval of its own, from the same draws.",
    authors="The study compares instruct with base for Qwen2 and Qwen2.5, and reasoning with base for Qwen3 and "
    "Qwen3.5.",
    tables=("by_generation", "by_stage_and_generation"),
    needs="pairs of two generations of one family",
)
FOREST = Finding(
    name="forest",
    title="Misalignment in each study",
    statements=_forest_statements,
    figure=_forest_figure,
    caption="One pair, that of most studies and the largest checkpoint: d in each study with its 95 % interval; above, "
    "the random-effects mean with its 95 % interval, on a grey band that is the 95 % prediction interval of the effect "
    "in a new study.",
    ours=f"{_D} Intervals of a study: t, with standard errors clustered by participant (CR1, linearised). Mean over "
    "studies: random effects (REML, Hartung-Knapp).",
    authors="The study does not show single studies.",
    tables=("misalignment_by_study", "misalignment"),
    needs=_NEEDS,
)
INFLUENCE = Finding(
    name="influence",
    title="Influence of single studies",
    statements=_influence_statements,
    figure=_influence_figure,
    caption="Change of a stage's d when a study is left out: the six studies of each stage that change it most.",
    ours="d of a stage without one study at a time. No interval belongs to it: it tells how far a result rests on one "
    "study.",
    authors="",
    tables=("influence",),
    needs=f"{_NEEDS}, in two studies at least",
)
