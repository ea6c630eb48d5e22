"""Findings about confidence: what of misalignment a temperature repairs, and calibration curves.

Layout of the figures is in `report.stacked_figure` and `report.line_figures`.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from psych_ray.report import line_figures, stacked_figure
from psych_ray.report.findings.finding import Finding, Number, Statement
from psych_ray.report.findings.misalignment import effect_counts
from psych_ray.report.findings.wording import Estimate, claim, counted, directions, number, tally_text
from psych_ray.report.marks import checkpoint_ids
from psych_ray.study.tables import Findings

_MEASURES = {
    "misalignment": "NLL, post-trained minus base, nats per response",
    "repaired": "of that, what a temperature repairs, nats per response",
    "remaining": "of that, what remains at the best temperatures, nats per response",
}


def _parts(row: dict[str, Any]) -> dict[str, Estimate]:
    return {
        "misalignment": Estimate.of(row, "misalignment"),
        "repaired": Estimate.of(row, "repaired", "repaired_low", "repaired_high"),
        "remaining": Estimate.of(row, "remaining", "remaining_low", "remaining_high"),
    }


def _numbers(row: dict[str, Any], post: str) -> tuple[Number, ...]:
    return tuple(part.number(post, _MEASURES[name], effect_counts(row)) for name, part in _parts(row).items())


def _overconfidence_statements(found: Findings) -> list[Statement]:
    rows = list(found.in_main_condition(found.overconfidence).iter_rows(named=True))
    ids = checkpoint_ids(found)
    if not rows:
        return []
    numbers = tuple(number for row in rows for number in _numbers(row, ids.get(row["post"], row["post"])))
    if len(rows) == 1:
        return [_one_pair(rows[0], ids, numbers)]
    of = counted(len(rows), "pair")
    repaired = tally_text(
        directions(_parts(row)["repaired"] for row in rows),
        of,
        who="a temperature",
        above="repairs some of the misalignment",
        below="makes it larger",
    )
    remaining = tally_text(
        directions(_parts(row)["remaining"] for row in rows),
        of,
        who="when both are at their own temperature, the post-trained checkpoint predicts",
        above="worse than its base",
        below="better than its base",
    )
    return [Statement(repaired, numbers), Statement(remaining)]


def _one_pair(row: dict[str, Any], ids: dict[str, str], numbers: tuple[Number, ...]) -> Statement:
    parts, post = _parts(row), ids.get(row["post"], row["post"])
    text = claim(
        parts["remaining"],
        above=f"{post} predicts worse than its base also when both are at their own temperature",
        below=f"{post} predicts better than its base when both are at their own temperature",
        none=f"When both are at their own temperature, no difference between {post} and its base was found",
        unknown=f"Whether {post} differs from its base when both are at their own temperature cannot be told",
    )
    values = f"{parts['remaining'].text('remaining nats')}; {parts['repaired'].text('repaired nats')}"
    return Statement(f"{text} ({values}).", numbers)


def _curve_statements(found: Findings) -> list[Statement]:
    rows = found.in_main_condition(found.calibration).drop_nulls("ece")
    if found.in_main_condition(found.calibration_curve).is_empty() or rows.is_empty():
        return []
    ids = checkpoint_ids(found)
    over = rows.filter(pl.col("confidence") > pl.col("accuracy"))
    least, most = (float(value) for value in (rows["ece"].min(), rows["ece"].max()))  # type: ignore[arg-type]
    span = f"{number(least)} to {number(most)}" if rows.height > 1 else number(most)
    noun = "checkpoint" if rows.height == 1 else "checkpoints"
    text = (
        f"Mean confidence in the most probable option is above the share of people who chose it for {over.height} of "
        f"{rows.height} {noun} (expected calibration error {span}; without intervals)."
    )
    numbers = tuple(
        Estimate(row["ece"]).number(
            ids.get(row["checkpoint"], row["checkpoint"]),
            "expected calibration error",
            {"choices": row["n_choices"], "studies": row["n_studies"]},
        )
        for row in rows.iter_rows(named=True)
    )
    return [Statement(text, numbers)]


OVERCONFIDENCE = Finding(
    name="overconfidence",
    title="Is it over-confidence?",
    statements=_overconfidence_statements,
    figure=stacked_figure.overconfidence,
    caption="Left: misalignment of each pair in nats per response (marker with 95 % interval) as the sum of what a "
    "temperature repairs and what remains. Right: over choices, as the sum of leak, probability outside the offered "
    "options, and the choice within them.",
    ours="A temperature of each checkpoint and study is fitted on half of the participants and judged on the others, "
    "two folds (Guo et al. 2017). Remaining: difference of post-trained and base when both are at their own "
    "temperature; repaired: the rest. Leak: -log of the probability of all options together. Intervals: 95 % "
    "intervals of a bootstrap over studies and participants within them.",
    authors="The study argues from accuracy alone that it is not only over-confidence.",
    tables=("overconfidence", "calibration", "calibration_by_study"),
    needs="a pair that was scored with NLL at several temperatures",
)
CALIBRATION_CURVE = Finding(
    name="calibration_curve",
    title="Calibration",
    statements=_curve_statements,
    figure=line_figures.calibration_curve,
    caption="Share of choices of the most probable option against its probability, in ten bins; the largest checkpoint "
    "of each generation and stage. Below the dashed diagonal a checkpoint is over-confident.",
    ours="Choices among single letters; confidence: probability of the most probable option, divided by that of all "
    "options. Expected calibration error: mean distance of confidence and share over choices in ten bins.",
    authors="",
    tables=("calibration_curve", "calibration"),
    needs="choices among single letters, scored with the options' probabilities",
)
