"""Temperatures, calibration curves and over-confidence against loops in plain Python over the rows."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from made_rows import Row, frames, random_rows

from psych_ray.study.bootstrap import Bootstrap
from psych_ray.study.calibration import calibration, calibration_by_study, calibration_curve, halves
from psych_ray.study.comparing import Comparison
from psych_ray.study.overconfidence import overconfidence
from psych_ray.study.rows import TEMPERATURES, Task
from psych_ray.study.schemas import SCHEMAS
from psych_ray.study.tallies import Tallies, tally

BASE, POST = Task("one-base", "plain"), Task("one-instruct", "plain")
PAIRS = [
    Comparison(Task("one-instruct", condition), Task("one-base", condition)) for condition in ("plain", "chat")
] + [Comparison(Task("two-instruct", "plain"), Task("two-base", "plain"))]
GRID = {"nll": 1.0, **TEMPERATURES}


def scored(rows: Sequence[Row], task: Task) -> list[Row]:
    return [row for row in rows if (row["checkpoint"], row["condition"]) == task and row["status"] == "scored"]


def slow_halves(rows: Sequence[Row]) -> dict[tuple[str, str], int]:
    found = {}
    for study in {row["study"] for row in rows}:
        names = {row["participant"] for row in rows if row["study"] == study}
        by_hash = sorted(names, key=lambda name: hashlib.blake2b(name.encode()).hexdigest())
        found |= {(study, name): (rank + 1) % 2 for rank, name in enumerate(by_hash)}
    return found


def slow_tempered(rows: Sequence[Row], half: dict[tuple[str, str], int]) -> tuple[float, float] | None:
    """(sum of NLL of each response at the temperature of the other half, geometric mean of the temperatures)."""
    sides: tuple[list[Row], list[Row]] = ([], [])
    for row in rows:
        sides[half[row["study"], row["participant"]]].append(row)
    if not all(sides):
        return None
    chosen = [min(GRID, key=lambda name: sum(row[name] for row in side)) for side in sides]
    total = sum(row[chosen[1]] for row in sides[0]) + sum(row[chosen[0]] for row in sides[1])
    return total, math.sqrt(GRID[chosen[0]] * GRID[chosen[1]])


@pytest.fixture(scope="module", params=range(3))
def rows(request: pytest.FixtureRequest) -> list[Row]:
    return random_rows(request.param)


@pytest.fixture(scope="module")
def tallies(rows: list[Row]) -> Tallies:
    return tally(frames(rows), PAIRS)


def test_halves_are_even_and_fixed(rows: list[Row], tallies: Tallies) -> None:
    found = halves(tallies.participants)
    slow = slow_halves(rows)
    assert dict(zip(tallies.participants.iter_rows(), found.tolist(), strict=True)) == slow
    # Fixed for good: a report that is repeated years later has the same halves.
    assert halves(pl.DataFrame({"study": ["s"] * 4, "participant": ["a", "b", "c", "d"]})).tolist() == [0, 0, 1, 1]


def test_by_study(rows: list[Row], tallies: Tallies) -> None:
    found = calibration_by_study(tallies, list(tallies.tasks))
    assert found.schema == pl.Schema(SCHEMAS["calibration_by_study"])
    assert len(found) == len({(r["checkpoint"], r["condition"], r["study"]) for r in rows if r["status"] == "scored"})
    half = slow_halves(rows)
    for row in found.iter_rows(named=True):
        own = [r for r in scored(rows, Task(row["checkpoint"], row["condition"])) if r["study"] == row["study"]]
        choices = [r for r in own if r["options_nll"] is not None]
        tempered = slow_tempered(own, half)
        expected = {
            "nll": statistics.mean(r["nll"] for r in own),
            "temperature": tempered[1] if tempered else None,
            "nll_tempered": tempered[0] / len(own) if tempered else None,
            "leak": statistics.mean(r["options_nll"] for r in choices) if choices else None,
            "nll_within": statistics.mean(r["nll"] - r["options_nll"] for r in choices) if choices else None,
            "brier": statistics.mean(r["options_brier"] for r in choices) if choices else None,
            "n_responses": len(own),
            "n_choices": len(choices),
        }
        for name, value in expected.items():
            assert row[name] == (value if value is None else pytest.approx(value, rel=1e-5)), name


def test_curve_and_means_over_studies(rows: list[Row], tallies: Tallies) -> None:
    by_study = calibration_by_study(tallies, list(tallies.tasks))
    curve = calibration_curve(tallies, list(tallies.tasks))
    found = calibration(by_study, curve)
    assert found.schema == pl.Schema(SCHEMAS["calibration"])
    for row in found.iter_rows(named=True):
        own = by_study.filter(checkpoint=row["checkpoint"], condition=row["condition"])
        usable = own.filter(pl.col("nll_tempered").is_not_null())
        assert row["n_studies"] == len(usable)
        for name in ("nll", "nll_tempered"):
            assert row[name] == pytest.approx(statistics.mean(usable[name]))
        assert row["temperature"] == pytest.approx(statistics.geometric_mean(usable["temperature"]))
        for name in ("leak", "nll_within", "brier"):
            assert row[name] == pytest.approx(statistics.mean(own[name].drop_nulls()))
        choices = [r for r in scored(rows, Task(row["checkpoint"], row["condition"])) if r["options_top"] is not None]
        bins = defaultdict(list)
        for choice in choices:
            bins[min(9, math.floor(10 * np.float32(choice["options_top"])))].append(choice)
        ece = sum(abs(sum(r["options_hit"] - r["options_top"] for r in members)) for members in bins.values())
        assert row["ece"] == pytest.approx(ece / len(choices), rel=1e-5)
        assert row["confidence"] == pytest.approx(statistics.mean(r["options_top"] for r in choices), rel=1e-5)
        assert row["accuracy"] == pytest.approx(statistics.mean(r["options_hit"] for r in choices))
        assert row["n_choices"] == len(choices)
        points = curve.filter(checkpoint=row["checkpoint"], condition=row["condition"])
        assert dict(points.select("bin", "n_choices").iter_rows()) == {at: len(members) for at, members in bins.items()}
        for at, share in points.select("bin", "share_chosen").iter_rows():
            assert share == pytest.approx(statistics.mean(r["options_hit"] for r in bins[at]))


def slow_overconfidence(rows: list[Row], pair: Comparison) -> dict[str, Any] | None:
    post, base = (
        {(r["transcript"], r["response"]): r for r in scored(rows, task)} for task in (pair.first, pair.second)
    )
    scored_by = [defaultdict(set), defaultdict(set)]
    for side, of in zip(scored_by, (post, base), strict=True):
        for transcript, response in of:
            side[transcript].add(response)
    same = {transcript for transcript in scored_by[0] if scored_by[0][transcript] == scored_by[1][transcript]}
    half = slow_halves(rows)
    parts = []
    splits: dict[str, list[float]] = {"leak": [], "within": []}
    for study in sorted({r["study"] for r in rows}):
        keys = [key for key, r in post.items() if key[0] in same and r["study"] == study]
        tempered = [slow_tempered([of[key] for key in keys], half) for of in (post, base)]
        if tempered[0] is not None and tempered[1] is not None:
            difference = statistics.mean(post[key]["nll"] - base[key]["nll"] for key in keys)
            remaining = (tempered[0][0] - tempered[1][0]) / len(keys)
            parts.append((difference, difference - remaining, remaining))
        choices = [key for key in keys if post[key]["options_nll"] is not None]
        if choices:
            leak = statistics.mean(post[key]["options_nll"] - base[key]["options_nll"] for key in choices)
            whole = statistics.mean(post[key]["nll"] - base[key]["nll"] for key in choices)
            splits["leak"].append(leak)
            splits["within"].append(whole - leak)
    if not parts:
        return None
    means = [statistics.mean(part) for part in zip(*parts, strict=True)]
    return {
        **dict(zip(("misalignment", "repaired", "remaining"), means, strict=True)),
        **{name: statistics.mean(values) if values else None for name, values in splits.items()},
        "n_studies": len(parts),
    }


def test_overconfidence_is_over_the_same_responses(rows: list[Row], tallies: Tallies) -> None:
    bootstrap = Bootstrap(tallies.starts, len(tallies.study_P), draws=200)
    facts = {"one-instruct": {"family": "f", "stage": "instruct"}}
    found = overconfidence(tallies, PAIRS, facts, bootstrap)
    assert found.schema == pl.Schema(SCHEMAS["overconfidence"])
    slow = {pair: own for pair in PAIRS if (own := slow_overconfidence(rows, pair)) is not None}
    assert len(found) == len(slow) >= 1
    for row, (pair, expected) in zip(found.iter_rows(named=True), slow.items(), strict=True):
        assert (row["post"], row["base"], row["condition"]) == (*(t.checkpoint for t in pair), pair.first.condition)
        assert row["stage"] == ("instruct" if row["post"] == "one-instruct" else None)
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
        assert row["low"] <= row["high"]
        assert row["repaired_low"] <= row["repaired_high"]


def planted(people: int = 40, responses: int = 30) -> list[Row]:
    """The base has true probabilities; the post-trained one has the same logits, doubled; both choose among three."""
    rng = np.random.default_rng(5)
    rows = []
    for study in ("a", "b", "c"):
        for who in range(people):
            for at in range(responses):
                logits = rng.normal(0, 1.5, 3)
                chosen = rng.choice(3, p=np.exp(logits) / np.exp(logits).sum())
                for checkpoint, factor in (("one-base", 1.0), ("one-instruct", 2.0)):
                    nll = {
                        name: float(np.log(np.exp(factor * logits / t).sum()) - factor * logits[chosen] / t)
                        for name, t in GRID.items()
                    }
                    rows.append(
                        {"checkpoint": checkpoint, "condition": "plain", "study": study, "experiment": "e"}
                        | {"participant": f"p{who}", "transcript": f"{study}{who}", "response": at}
                        | {"status": "scored", "top1": True, "n_options": None, **nll}
                    )
    return rows


def test_what_only_a_temperature_spoiled_is_repaired() -> None:
    found = tally(frames(planted()), PAIRS[:1])
    bootstrap = Bootstrap(found.starts, len(found.study_P), draws=300)
    row = overconfidence(found, PAIRS[:1], {}, bootstrap).row(0, named=True)
    assert row["low"] > 0.1
    assert row["repaired"] == pytest.approx(row["misalignment"], abs=0.02)
    assert row["remaining_low"] - 0.01 <= 0 <= row["remaining_high"] + 0.01
    assert row["repaired_low"] < row["repaired"] < row["repaired_high"]
    assert row["leak"] is None
    by_study = calibration_by_study(found, [BASE, POST])
    assert by_study["temperature"].to_list() == pytest.approx([1.0] * 3 + [2.0] * 3)


def test_a_single_participant_cannot_be_judged(rows: list[Row]) -> None:
    alone = [row for row in rows if row["participant"] == "p1"]
    found = tally(frames(alone), PAIRS)
    by_study = calibration_by_study(found, list(found.tasks))
    assert len(by_study) > 0
    assert by_study["nll"].null_count() == 0
    assert by_study["nll_tempered"].null_count() == by_study["temperature"].null_count() == len(by_study)
    assert overconfidence(found, PAIRS, {}, Bootstrap(found.starts, len(found.study_P), draws=10)).is_empty()
    means = calibration(by_study, calibration_curve(found, list(found.tasks)))
    assert set(means["n_studies"]) == {0}
    assert means["nll"].null_count() == len(means)


def test_roots_without_the_columns_have_empty_tables(rows: list[Row]) -> None:
    later = (*TEMPERATURES, "options_nll", "options_brier", "options_top", "options_hit", "n_options")
    for own in (
        {task: frame.drop(later) for task, frame in frames(rows).items()},
        {task: frame.with_columns(pl.lit(None).alias(name) for name in later) for task, frame in frames(rows).items()},
    ):
        found = tally(own, PAIRS)
        tasks = list(found.tasks)
        by_study, curve = calibration_by_study(found, tasks), calibration_curve(found, tasks)
        bootstrap = Bootstrap(found.starts, len(found.study_P), draws=10)
        for rows_of in (by_study, curve, calibration(by_study, curve), overconfidence(found, PAIRS, {}, bootstrap)):
            assert rows_of.is_empty()
    nothing = tally({}, [])
    assert calibration_curve(nothing, []).is_empty()
    assert calibration_by_study(nothing, []).is_empty()
