"""Sentences of findings: they say no more than the interval of their numbers allows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from made_findings import Made, made_checkpoints, made_findings

from psych_ray.report import findings
from psych_ray.report.findings.participants import group_estimate
from psych_ray.report.findings.wording import Direction, Estimate, counted, listed, tally_text
from psych_ray.report.headlines import headlines
from psych_ray.study.schemas import table
from psych_ray.study.tables import Findings

PAIR = [Made("b", "f", "f-1", 1.0, "base"), Made("p", "f", "f-1", 1.0, "instruct", "b")]


def said(name: str, found: Findings) -> list[str]:
    (finding,) = findings.chosen([name])
    return [statement.text for statement in finding.statements(found)]


def with_d(found: Findings, name: str, **values: Any) -> Findings:
    changed = getattr(found, name).with_columns(**{key: pl.lit(value, pl.Float64) for key, value in values.items()})
    return replace(found, **{name: changed})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ((-0.0017, -0.05, 0.04), "Between org/p and its base org/b no difference was found (d = 0.00, 95 % interval"),
        ((0.14, 0.1, 0.18), "org/p predicts people's responses worse than its base org/b (d = 0.14,"),
        ((-0.14, -0.18, -0.1), "org/p predicts people's responses better than its base org/b (d = -0.14,"),
        ((0.4, None, None), "Whether org/p predicts people's responses better or worse than its base org/b cannot"),
        ((0.4, 0.1, float("nan")), "Whether org/p predicts"),
    ],
    ids=["includes zero", "above", "below", "no interval", "half an interval"],
)  # fmt: skip
def test_of_one_pair(values: tuple[float | None, ...], sentence: str) -> None:
    found = made_findings(checkpoints=PAIR, n_studies=4)
    found = with_d(found, "misalignment", **dict(zip(("d", "low", "high"), values, strict=True)))

    assert said("misalignment_by_stage", found)[0].startswith(sentence)
    assert headlines(found)[0].startswith(sentence)


def test_a_pair_is_never_counted_for_a_side_that_its_interval_does_not_exclude() -> None:
    found = made_findings()
    rows = found.misalignment
    above, below = rows.filter(pl.col("low") > 0).height, rows.filter(pl.col("high") < 0).height
    neither = rows.height - above - below
    assert min(above, below, neither) > 0

    text = said("misalignment_by_stage", found)[0]

    assert text == (
        f"Of {rows.height} pairs, the post-trained checkpoint predicts people's responses worse than its base in "
        f"{above} and better than its base in {below}; in {neither} the 95 % interval includes zero."
    )


def test_a_change_between_generations_is_told_where_its_own_interval_excludes_zero() -> None:
    found = made_findings(checkpoints=made_checkpoints(1, 2), n_studies=4)

    def changed(change: float | None, low: float | None, high: float | None, **columns: list[str]) -> str:
        ends = {"d": [0.1, 0.3], "change": [None, change], "change_low": [None, low], "change_high": [None, high]}
        series = [pl.Series(name, values, pl.Float64) for name, values in ends.items()]
        rows = found.by_generation.with_columns(*series, **{name: pl.Series(own) for name, own in columns.items()})
        return said("generations", replace(found, by_generation=rows))[0]

    rises = changed(0.2, 0.1, 0.3)
    assert rises.startswith(
        "From familya-1 to familya-2 misalignment rises, from d = 0.10 to 0.30 (change = 0.20, 95 %"
    )
    assert "misalignment falls" in changed(-0.2, -0.3, -0.1)
    assert "no change of misalignment was found" in changed(0.2, -0.01, 0.3)
    assert "cannot be told" in changed(0.2, None, None)
    assert changed(0.2, 0.1, 0.3, stage=["instruct", "reasoning"]).endswith("the stages of their pairs differ.")


def test_the_lowest_nll_is_not_set_apart_from_intervals_that_it_overlaps() -> None:
    found = made_findings(n_studies=4)
    rows = found.by_checkpoint.with_columns(low=pl.col("nll") - 5, high=pl.col("nll") + 5)
    assert "of the others overlap its own" in said("nll_by_size", replace(found, by_checkpoint=rows))[0]
    rows = found.by_checkpoint.with_columns(low=pl.col("nll") - 1e-9, high=pl.col("nll") + 1e-9)
    assert "below the intervals of all others" in said("nll_by_size", replace(found, by_checkpoint=rows))[0]


def test_checkpoints_of_different_studies_are_not_ranked() -> None:
    found = made_findings(n_studies=4)
    rows = found.by_checkpoint.with_columns(n_studies=pl.lit(3, pl.Int64))

    sentence = "No checkpoint has a mean NLL in all 4 studies, so that checkpoints are not ranked."
    assert said("nll_by_size", replace(found, by_checkpoint=rows)) == [sentence]


def test_references_are_set_beside_the_best_checkpoint_on_the_same_responses_only() -> None:
    """A reference scores choices alone: of the other studies, or of more responses, the mean is another one."""
    found = made_findings(checkpoints=[*PAIR, Made("chance")], n_studies=4)
    first, second = found.by_study["study"].unique(maintain_order=True)[:2]
    chance, study = pl.col("checkpoint") == "chance", pl.col("study")
    rows = found.by_study.filter(~(chance & (study == first))).with_columns(
        nll=pl.when(chance).then(0.7).when(study == first).then(9.0).otherwise(0.4),
        n_responses=pl.when(chance & (study == second)).then(100).otherwise("n_responses"),
    )
    best = found.by_checkpoint.with_columns(nll=pl.when(chance).then(0.7).otherwise(2.55))
    found = replace(found, by_study=rows, by_checkpoint=best)
    assert said("nll_by_size", found)[0].endswith("On the same responses: org/chance 0.70 against 0.40 (2 studies).")
    none = rows.with_columns(n_responses=pl.when(chance).then(100).otherwise("n_responses"))
    assert "On the same" not in said("nll_by_size", replace(found, by_study=none))[0]


def test_frequencies_are_compared_by_what_is_computed_on_the_same_responses() -> None:
    found = made_findings(checkpoints=[*PAIR, Made("chance"), Made("frequencies")], n_studies=3)
    of_frequencies = pl.col("checkpoint") == "frequencies"
    rows = found.by_study.with_columns(
        nll=pl.when(of_frequencies).then(0.1).otherwise(5.0), pseudo_r2=pl.when(of_frequencies).then(0.2).otherwise(0.3)
    )
    assert said("floors", replace(found, by_study=rows))[1] == (
        "In 3 of 3 studies the best checkpoint has a higher pseudo-R² than the running frequencies of the "
        "participant's own responses."
    )


def test_a_checkpoint_that_is_alone_on_all_studies_is_the_lowest_of_none() -> None:
    found = made_findings(checkpoints=PAIR, n_studies=4)
    rows = found.by_checkpoint.with_columns(n_studies=pl.when(pl.col("checkpoint") == "p").then(3).otherwise(4))
    text = said("nll_by_size", replace(found, by_checkpoint=rows))[0]
    assert text.startswith("Only org/b is scored on all 4 studies: NLL = ")
    assert "below the intervals" not in text


def test_domains_are_told_apart_by_q() -> None:
    found = made_findings(n_studies=14)
    rows = found.by_domain.with_columns(q=pl.lit(0.05))
    assert said("domains", replace(found, by_domain=rows))[0] == (
        "In none of 7 domains misalignment differs from zero (q < 0.05)."
    )
    rows = found.by_domain.with_columns(q=pl.lit(0.049), d=pl.col("d").abs() + 0.01)
    assert "misalignment is above zero in 7" in said("domains", replace(found, by_domain=rows))[0]


def test_below_chance_is_flagged() -> None:
    found = made_findings(checkpoints=[*PAIR, Made("chance")], n_studies=3)
    below = (pl.col("checkpoint") == "p") & (pl.col("study") == "author20choice")
    rows = found.by_study.with_columns(
        below_chance=below, pseudo_r2=pl.when(below).then(-0.125).otherwise(pl.col("pseudo_r2"))
    )
    assert said("floors", replace(found, by_study=rows))[0] == (
        "In 1 of 6 combinations of a checkpoint and a study (3 studies) the NLL is above that of chance (pseudo-R² "
        "below zero, without intervals): org/p in author20choice (-0.12)."
    )


def test_singular_and_plural() -> None:
    assert counted(1, "study", "studies") == "1 study"
    assert counted(1_200, "pair") == "1,200 pairs"
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(list("abcdef"), 2) == "a, b and 4 more"
    found = dict.fromkeys(Direction, 0) | {Direction.unknown: 1}
    assert tally_text(found, "1 pair", who="it is", above="up", below="down") == (
        "Of 1 pair, none has an interval, so that no direction can be told."
    )
    found[Direction.above] = 2
    assert tally_text(found, "3 pairs", who="it is", above="up", below="down") == (
        "Of 3 pairs, it is up in 2; 1 has no interval."
    )


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.004, 0.0004, 0.008), "d = 0.0040, 95 % interval 0.0004 to 0.0080"),
        (Estimate(0.004, -0.0004, 0.008), "d = 0.00, 95 % interval 0.00 to 0.01"),
        (Estimate(-0.001, -0.5, 0.5), "d = 0.00, 95 % interval -0.50 to 0.50"),
        (Estimate(1.0), "d = 1.00, too few studies for an interval"),
        (Estimate(None), "d is not known"),
    ],
)
def test_an_interval_that_excludes_zero_is_shown_without_zero(estimate: Estimate, text: str) -> None:
    assert estimate.text() == text


def test_a_group_has_an_interval_by_t_over_the_studies_of_its_difference() -> None:
    row = {"difference": 0.1, "se": 0.05, "n_compared": 3, "n_studies": 40}
    estimate = group_estimate(row)
    assert estimate.low == pytest.approx(0.1 - 4.302653 * 0.05, abs=1e-6)  # t of 2 degrees of freedom, from a table
    assert group_estimate(row | {"n_compared": 1}).direction is Direction.unknown


def test_the_correlation_over_all_studies_is_not_counted_as_a_study() -> None:
    found = made_findings(n_studies=8)
    first, over_all = said("reaction_times", found)
    assert first.startswith("Of 8 studies, people respond slower")
    assert over_all == "Over the participants of all studies, r = 0.07, 95 % interval 0.05 to 0.09."
    (finding,) = findings.chosen(["reaction_times"])
    figure = finding.figure(found)
    assert figure is not None
    assert len(figure.axes[0].get_yticks()) == 8


@pytest.mark.parametrize("name", [finding.name for finding in findings.ALL])
def test_a_finding_without_its_tables_says_nothing_and_one_with_nulls_does_not_fail(name: str) -> None:
    (finding,) = findings.chosen([name])
    found = made_findings(checkpoints=made_checkpoints(1, 2, (1,)), n_studies=3)
    nothing = {one: table(one, pl.DataFrame()) for one in finding.tables}
    assert finding.statements(replace(found, **nothing)) == []
    floats = {one: [key for key, kind in frame.schema.items() if kind == pl.Float64 and key != "size_b"]
              for one, frame in found.tables().items()}  # fmt: skip
    nulls = {one: frame.with_columns(pl.lit(None, pl.Float64).alias(key) for key in floats[one] if key not in
             ("d", "nll", "misalignment", "difference", "value", "r", "repaired", "remaining"))
             for one, frame in found.tables().items()}  # fmt: skip
    blank = replace(found, **nulls)
    for statement in finding.statements(blank):
        assert "nan" not in statement.text
        assert "None" not in statement.text
    finding.figure(blank)
