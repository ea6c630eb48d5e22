"""Findings about how well each checkpoint predicts: NLL against size, accuracy, floors.

Layout of the figures is in `report.nll_figure`, `report.interval_figure` and `report.floors_figure`.
"""

from __future__ import annotations

from typing import Any

import polars as pl
from matplotlib.figure import Figure

from psych_ray.report import floors_figure, nll_figure
from psych_ray.report.findings.finding import Finding, Statement
from psych_ray.report.findings.misalignment import bracket, effect_counts
from psych_ray.report.findings.wording import Estimate, claim, counted, directions, listed, number, tally_text
from psych_ray.report.interval_figure import Row, interval_figure
from psych_ray.report.marks import checkpoint_ids, is_reference
from psych_ray.study.tables import Findings

_NLL = "mean NLL, nats per response"
_NAMED = 4


def _nll_statements(found: Findings) -> list[Statement]:
    rows = found.in_main_condition(found.by_checkpoint)
    compared = rows.filter(~is_reference())
    references = nll_figure.reference_checkpoints(found) if compared.height else rows.clear()
    compared = compared if compared.height else rows
    if compared.is_empty():
        return []
    n_studies = found.in_main_condition(found.by_study)["study"].n_unique()
    complete = compared.filter(pl.col("n_studies") == n_studies).sort("nll", maintain_order=True)
    if complete.is_empty() and compared.height > 1:
        text = f"No checkpoint has a mean NLL in all {n_studies} studies, so that checkpoints are not ranked."
        return [Statement(text, tuple(_nll_number(row) for row in compared.iter_rows(named=True)))]
    ranked = complete if complete.height else compared
    best = ranked.row(0, named=True)
    shown = [_on_the_same(found, best, row) for row in references.sort("nll").iter_rows(named=True)]
    compare = f" On the same responses: {listed(told)}." if (told := [each for each in shown if each]) else ""
    numbers = tuple(_nll_number(row) for row in (*ranked.iter_rows(named=True), *references.iter_rows(named=True)))
    return [Statement(f"{_best(best, ranked, compared.height, n_studies)}{compare}", numbers)]


def _on_the_same(found: Findings, best: dict[str, Any], reference: dict[str, Any]) -> str | None:
    """The means of a reference and of the best checkpoint over the studies in which both have scored the same.

    References score choices only: means over other responses do not compare. That they are as many is taken to say
    that they are the same.
    """
    rows = found.in_main_condition(found.by_study).drop_nulls("nll").select("checkpoint", "study", "n_responses", "nll")
    own, other = (rows.filter(pl.col("checkpoint") == one["checkpoint"]) for one in (best, reference))
    both = own.join(other, on=["study", "n_responses"], suffix="_reference")
    if both.is_empty():
        return None
    means = both.select(pl.col("nll", "nll_reference").mean()).row(0, named=True)
    studies = counted(both.height, "study", "studies")
    return f"{reference['id']} {number(means['nll_reference'])} against {number(means['nll'])} ({studies})"


def _best(best: dict[str, Any], ranked: pl.DataFrame, n_compared: int, n_studies: int) -> str:
    estimate = Estimate.of(best, "nll")
    result = estimate.text("NLL")
    if best["accuracy"] is not None:
        result += f"; accuracy {number(best['accuracy'])}"
    if n_compared == 1:
        return f"{best['id']}: {result}."
    which = counted(ranked.height, "checkpoint")
    which += f" scored on all {counted(n_studies, 'study', 'studies')}" if ranked.height < n_compared else ""
    text = f"Of {which}, {best['id']} has the lowest mean NLL in nats per response ({result})"
    if ranked.height == 1:
        text = f"Only {best['id']} is scored on all {counted(n_studies, 'study', 'studies')}: {result}"
    others = [Estimate.of(row, "nll") for row in ranked[1:].iter_rows(named=True)]
    near = sum(estimate.overlaps(other) for other in others)
    if estimate.low is None or not others:
        return f"{text}."
    if near:
        verb = "overlaps" if near == 1 else "overlap"
        return f"{text}; the {'interval' if near == 1 else 'intervals'} of {near} of the others {verb} its own."
    return f"{text}, below the intervals of all others."


def _nll_number(row: dict[str, Any]) -> Any:
    return Estimate.of(row, "nll").number(row["id"], _NLL, effect_counts(row))


def _accuracy_statements(found: Findings) -> list[Statement]:
    rows = list(found.in_main_condition(found.accuracy).iter_rows(named=True))
    ids = checkpoint_ids(found)
    estimates = [Estimate.of(row, "difference") for row in rows]
    numbers = tuple(
        estimate.number(ids.get(row["post"], row["post"]), "accuracy, post-trained minus base", effect_counts(row))
        for row, estimate in zip(rows, estimates, strict=True)
    )
    if not rows:
        return []
    if len(rows) == 1:
        post = ids.get(rows[0]["post"], rows[0]["post"])
        text = claim(
            estimates[0],
            above=f"{post} has a higher accuracy than its base",
            below=f"{post} has a lower accuracy than its base",
            none=f"No difference in accuracy was found between {post} and its base",
            unknown=f"Whether the accuracy of {post} differs from that of its base cannot be told",
        )
        return [Statement(f"{text} {bracket(estimates[0], rows[0], 'difference')}.", numbers)]
    text = tally_text(
        directions(estimates),
        counted(len(rows), "pair"),
        who="the post-trained checkpoint has",
        above="a higher accuracy than its base",
        below="a lower accuracy than its base",
    )
    return [Statement(text, numbers)]


def _accuracy_figure(found: Findings) -> Figure | None:
    rows = (
        found.in_main_condition(found.accuracy)
        .drop_nulls("difference")
        .sort("family", "generation", maintain_order=True)
    )
    ids = checkpoint_ids(found)
    marks = [
        Row(
            label=ids.get(row["post"], row["post"]),
            value=row["difference"],
            low=row["low"],
            high=row["high"],
            stage=row["stage"],
            heading=row["generation"] or "",
        )
        for row in rows.iter_rows(named=True)
    ]
    return interval_figure(
        marks,
        x_label="Accuracy on single letters, post-trained minus base",
        right="higher accuracy than its base",
        left="lower accuracy",
        noun="pairs",
        legend=True,
        decimals=3,
    )


def _floor_statements(found: Findings) -> list[Statement]:
    rows = floors_figure.against_chance(found)
    if rows.is_empty():
        return []
    below = rows.filter(pl.col("below_chance"))
    ids = checkpoint_ids(found)
    n, studies = rows.height, rows["study"].n_unique()
    over = f"{counted(n, 'combination')} of a checkpoint and a study ({counted(studies, 'study', 'studies')})"
    if below.is_empty():
        statements = [Statement(f"In none of {over} the NLL is above that of chance (without intervals).")]
    else:
        worst = below.sort("pseudo_r2").head(_NAMED)
        names = [
            f"{ids.get(slug, slug)} in {study} ({number(r2)})"
            for slug, study, r2 in worst.select("checkpoint", "study", "pseudo_r2").iter_rows()
        ]
        more = f" and {below.height - len(names)} more" if below.height > len(names) else ""
        text = (
            f"In {below.height:,} of {over} the NLL is above that of chance (pseudo-R² below zero, without intervals): "
            f"{', '.join(names)}{more}."
        )
        values = tuple(
            Estimate(r2).number(f"{ids.get(slug, slug)}, {study}", "pseudo-R²")
            for slug, study, r2 in below.sort("pseudo_r2").select("checkpoint", "study", "pseudo_r2").iter_rows()
        )
        statements = [Statement(text, values)]
    return [*statements, *_against_frequencies(found, rows)]


def _against_frequencies(found: Findings, rows: pl.DataFrame) -> list[Statement]:
    own = found.in_main_condition(found.by_study).filter(pl.col("checkpoint") == "frequencies")
    floor = own.drop_nulls("pseudo_r2").select("study", pl.col("pseudo_r2").alias("floor"))
    best = rows.group_by("study", maintain_order=True).agg(pl.col("pseudo_r2").max())
    both = best.join(floor, on="study")
    if both.is_empty():
        return []
    n = both.filter(pl.col("pseudo_r2") > pl.col("floor")).height
    text = (
        f"In {n} of {counted(both.height, 'study', 'studies')} the best checkpoint has a higher pseudo-R² than the "
        "running frequencies of the participant's own responses."
    )
    return [Statement(text)]


NLL_BY_SIZE = Finding(
    name="nll_by_size",
    title="Prediction by size and stage",
    statements=_nll_statements,
    figure=nll_figure.nll_by_size,
    caption="Mean NLL of each checkpoint with a size, by generation; stages of one size are set slightly apart. Lines "
    "join the checkpoints of a stage; vertical lines: 95 % intervals over studies, which all checkpoints share, so "
    "that overlapping ones may still differ in the paired comparison below. Dashed: checkpoints without stage and "
    "size, such as chance, that apply to all studies.",
    ours="Negative log-likelihood of people's responses, in nats per response: the mean over the scored responses of a "
    "study, then over studies. Lower is better: people's responses have a higher probability. Intervals: 95 % "
    "intervals of a bootstrap over studies and participants within them.",
    authors="The study computes the same means, of texts that are cut after 32,768 characters; scoring.parity=true "
    "repeats that.",
    tables=("by_checkpoint", "by_study"),
    needs="a checkpoint with a scored response",
)
ACCURACY = Finding(
    name="accuracy",
    title="Accuracy",
    statements=_accuracy_statements,
    figure=_accuracy_figure,
    caption="Difference in accuracy of each pair with its 95 % interval. Accuracy depends on the most probable token "
    "alone, so over-confidence does not lower it.",
    ours="Accuracy: share of the responses that are a single capital letter at which the most probable token of the "
    "whole vocabulary is that letter; post-trained minus base over the letters scored in both, mean over studies. "
    "Intervals: 95 % intervals of a bootstrap over studies and participants within them.",
    authors="The study takes accuracy from a second run in which markers stay only around single capital letters: the "
    "condition discrete.",
    tables=("accuracy", "by_checkpoint"),
    needs="a pair with responses that are single capital letters",
)
FLOORS = Finding(
    name="floors",
    title="Against chance and frequencies",
    statements=_floor_statements,
    figure=floors_figure.floors,
    caption="Each marker is a checkpoint in a study. At zero it predicts as well as chance, at one without error; "
    "left of zero, in the shaded area, worse than chance (below -0.6 at the edge). Black lines: running frequencies "
    "of the participant's own responses.",
    ours="Pseudo-R² is 1 - NLL / NLL of chance (McFadden 1974), over the responses that both have scored. Chance: "
    "equal probability for each offered option. Running frequencies: (n + 1) / (N + K) for an option chosen n times in "
    "N earlier responses, of K options.",
    authors="",
    tables=("by_study",),
    needs="the checkpoint chance, whose NLL the others are compared with",
)
