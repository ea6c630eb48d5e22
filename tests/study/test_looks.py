"""Tenths, lengths, experiments, groups and reaction times against loops in plain Python over the rows."""

from __future__ import annotations

import math
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from made_rows import Row, frames, random_rows
from scipy.stats import t as student

from psych_ray.results.transcript_facts import SCHEMA as FACTS
from psych_ray.study.bootstrap import Bootstrap
from psych_ray.study.groups import by_group
from psych_ray.study.looks import by_decile, by_experiment, by_length
from psych_ray.study.reaction_times import measure, reaction_times
from psych_ray.study.rows import Task
from psych_ray.study.schemas import SCHEMAS
from psych_ray.study.tallies import Tallies, tally

AGES = [None, 12.0, 17.9, 18.0, 29.9, 44.0, 59.0, 60.0, 88.0]


def task_of(row: Row) -> Task:
    return Task(row["checkpoint"], row["condition"])


def longer(seed: int) -> list[Row]:
    """The made rows, with lengths over several bounds: every response three times as three responses."""
    return [
        {**row, "response": 3 * row["response"] + k}
        | {"nll": None if row["nll"] is None else float(np.float32(row["nll"] * (1 + k / 7)))}
        for row in random_rows(seed)
        for k in range(3)
    ]


def facts_of(rows: Sequence[Row], seed: int = 0) -> pl.DataFrame:
    """Facts of transcripts; some participants have none, some reaction times are missing or zero."""
    dice = random.Random(seed)
    lengths: dict[str, int] = defaultdict(int)
    for row in rows:
        lengths[row["transcript"]] = max(lengths[row["transcript"]], row["response"] + 1)
    facts = []
    for transcript, length in lengths.items():
        times = [dice.choice([None, 0.0, -3.0, *(dice.lognormvariate(6, 1) for _ in range(9))]) for _ in range(length)]
        facts.append(
            {
                "transcript": transcript,
                "age": dice.choice(AGES),
                "gender": dice.choice([None, "female", "male"]),
                "diagnosis": dice.choice([None, "depression", "rare" if len(facts) == 3 else "bipolar"]),
                "reaction_times_ms": dice.choice([None, [], times[: length // 2], times, times]),
            }
        )
    return pl.DataFrame(facts, schema={name: FACTS[name] for name in facts[0]})


def slow_mean(rows: Iterable[Row]) -> dict[str, Any]:
    rows = list(rows)
    mean = statistics.mean(row["nll"] for row in rows)
    residuals: dict[tuple[str, str], float] = defaultdict(float)
    for row in rows:
        residuals[row["study"], row["participant"]] += row["nll"] - mean
    g = len(residuals)
    se = math.sqrt(g / (g - 1) * sum(value**2 for value in residuals.values())) / len(rows) if g > 1 else None
    return {"nll": mean, "se": se, "n_participants": g, "n_responses": len(rows)}


def grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    found: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        if row["status"] == "scored":
            found[key(row)].append(row)
    return found


def same(row: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        assert row[name] == (value if value is None else pytest.approx(value, rel=1e-6, abs=1e-9)), name


@pytest.fixture(scope="module", params=range(2))
def rows(request: pytest.FixtureRequest) -> list[Row]:
    return longer(request.param)


@pytest.fixture(scope="module")
def facts(rows: list[Row]) -> pl.DataFrame:
    return facts_of(rows)


@pytest.fixture(scope="module")
def tallies(rows: list[Row], facts: pl.DataFrame) -> Tallies:
    return tally(frames(rows), [], measure=measure(facts))


def lengths_of(rows: Iterable[Row]) -> dict[str, int]:
    lengths: dict[str, int] = defaultdict(int)
    for row in rows:
        lengths[row["transcript"]] = max(lengths[row["transcript"]], row["response"] + 1)
    return lengths


def test_by_decile(rows: list[Row], tallies: Tallies) -> None:
    bootstrap = Bootstrap(tallies.starts, len(tallies.study_P), draws=300)
    found = by_decile(tallies, list(tallies.tasks), bootstrap)
    assert found.schema == pl.Schema(SCHEMAS["by_decile"])
    lengths = lengths_of(rows)
    long = [row for row in rows if lengths[row["transcript"]] >= 10]
    cells = grouped(long, lambda row: (*task_of(row), row["study"], 10 * row["response"] // lengths[row["transcript"]]))
    for (checkpoint, condition), own in found.group_by("checkpoint", "condition"):
        studies = [s for s in "abcd" if all((checkpoint, condition, s, tenth) in cells for tenth in range(10))]
        assert own["decile"].to_list() == list(range(1, 11))
        for row in own.iter_rows(named=True):
            of_studies = [cells[checkpoint, condition, study, row["decile"] - 1] for study in studies]
            means = [statistics.mean(r["nll"] for r in study) for study in of_studies]
            same(
                row,
                {
                    "nll": statistics.mean(means),
                    "n_studies": len(studies),
                    "n_responses": sum(len(study) for study in of_studies),
                },
            )
            if len(studies) > 1:
                assert min(means) - 1e-5 <= row["low"] <= row["high"] <= max(means) + 1e-5
    assert len(found) >= 10


def test_by_length(rows: list[Row], tallies: Tallies) -> None:
    found = by_length(tallies, list(tallies.tasks))
    assert found.schema == pl.Schema(SCHEMAS["by_length"])
    lengths = lengths_of(rows)
    bounds = {"1-9": (1, 9), "10-29": (10, 29), "30-99": (30, 99)}

    def length_of(row: Row) -> str:
        return next(name for name, (low, high) in bounds.items() if low <= lengths[row["transcript"]] <= high)

    slow = grouped(rows, lambda row: (*task_of(row), length_of(row)))
    assert len(found) == len(slow)
    assert set(found["length"]) == set(bounds)
    for row in found.iter_rows(named=True):
        own = slow[row["checkpoint"], row["condition"], row["length"]]
        same(row, slow_mean(own) | {"n_studies": len({r["study"] for r in own})})


def test_by_experiment(rows: list[Row], tallies: Tallies) -> None:
    found = by_experiment(tallies, list(tallies.tasks))
    assert found.schema == pl.Schema(SCHEMAS["by_experiment"])
    several = {
        study for study in "abcd" if len({row["experiment"] for row in rows if row["study"] == study}) > 1
    }  # fmt: skip
    slow = grouped(rows, lambda row: (*task_of(row), row["study"], row["experiment"]))
    slow = {key: own for key, own in slow.items() if key[2] in several}
    assert len(found) == len(slow) > 0
    for row in found.iter_rows(named=True):
        same(row, slow_mean(slow[row["checkpoint"], row["condition"], row["study"], row["experiment"]]))


def age_band(age: float | None) -> str | None:
    if age is None:
        return None
    return next(
        name for end, name in ((18, "0-17"), (30, "18-29"), (45, "30-44"), (60, "45-59"), (999, "60+")) if age < end
    )


def test_by_group(rows: list[Row], tallies: Tallies, facts: pl.DataFrame) -> None:
    found = by_group(tallies, list(tallies.tasks), facts)
    assert found.schema == pl.Schema(SCHEMAS["by_group"])
    known = {one["transcript"]: one | {"age": age_band(one["age"])} for one in facts.iter_rows(named=True)}
    expected: dict[tuple[str, ...], dict[str, Any]] = {}
    for task, own in grouped(rows, task_of).items():
        for field in ("age", "gender", "diagnosis"):
            with_field = [row for row in own if known[row["transcript"]][field] is not None]
            for value in {known[row["transcript"]][field] for row in with_field}:
                members = [row for row in with_field if known[row["transcript"]][field] == value]
                if len({(row["study"], row["participant"]) for row in members}) < 5:
                    continue
                means, differences = [], []
                for study in sorted({row["study"] for row in members}):
                    inside = [row["nll"] for row in members if row["study"] == study]
                    others = [
                        row["nll"]
                        for row in with_field
                        if row["study"] == study and known[row["transcript"]][field] != value
                    ]
                    means.append(statistics.mean(inside))
                    if others:
                        differences.append(means[-1] - statistics.mean(others))
                n = len(differences)
                expected[*task, field, value] = {
                    "nll": statistics.mean(means),
                    "difference": statistics.mean(differences) if n else None,
                    "se": statistics.stdev(differences) / math.sqrt(n) if n > 1 else None,
                    "n_compared": n,
                    "n_studies": len(means),
                    "n_participants": len({(row["study"], row["participant"]) for row in members}),
                    "n_responses": len(members),
                }
    assert len(found) == len(expected) > 10
    for row in found.iter_rows(named=True):
        same(row, expected[row["checkpoint"], row["condition"], row["field"], row["value"]])
    assert "rare" not in set(found["value"])


def product(x: list[float], y: list[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def slow_correlation(rows: Sequence[Row], times: dict[str, list[float | None]]) -> dict[str, Any] | None:
    people: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        own = times.get(row["transcript"]) or []
        time = own[row["response"]] if row["response"] < len(own) else None
        if time is not None and time > 0:
            people[row["study"], row["participant"]].append((row["nll"], math.log(time)))
    parts = []
    for pairs in people.values():
        if len(pairs) > 1:
            x, y = ([pair[side] for pair in pairs] for side in (0, 1))
            dx, dy = [value - statistics.mean(x) for value in x], [value - statistics.mean(y) for value in y]
            parts.append((product(dx, dx), product(dy, dy), product(dx, dy), len(pairs)))
    if not parts:
        return None
    xx, yy, xy, n = (sum(values) for values in zip(*parts, strict=True))
    r, g = xy / math.sqrt(xx * yy), len(parts)
    expected = {"r": r, "n_participants": g, "n_responses": n, "low": None, "high": None}
    if g > 1 and abs(r) < 1 - 1e-9:
        influences = [c / math.sqrt(xx * yy) - r / 2 * (a / xx + b / yy) for a, b, c, _ in parts]
        se = math.sqrt(g / (g - 1) * sum(value**2 for value in influences)) / (1 - r * r)
        half = student.ppf(0.975, g - 1) * se
        expected |= {"low": math.tanh(math.atanh(r) - half), "high": math.tanh(math.atanh(r) + half)}
    return expected


def test_reaction_times(rows: list[Row], tallies: Tallies, facts: pl.DataFrame) -> None:
    found = reaction_times(tallies, list(tallies.tasks))
    assert found.schema == pl.Schema(SCHEMAS["reaction_times"])
    times = dict(facts.select("transcript", "reaction_times_ms").iter_rows())
    expected = {}
    for task, own in grouped(rows, task_of).items():
        for study in ("a", "b", "c", "d", None):
            of_study = [row for row in own if study in (None, row["study"])]
            if (slow := slow_correlation(of_study, times)) is not None:
                expected[*task, study] = slow
    assert len(found) == len(expected) > 10
    for row in found.iter_rows(named=True):
        same(row, expected[row["checkpoint"], row["condition"], row["study"]])


def test_the_interval_of_a_correlation_holds_what_was_planted() -> None:
    """Of many samples with a true correlation of 0.4, about 95 % of the intervals hold it."""
    rng, held = np.random.default_rng(7), 0
    for _ in range(60):
        planted, times = [], []
        for who in range(25):
            x = rng.normal(2, 0.5, 40) + rng.normal()
            y = 0.4 * (x - x.mean()) / 0.5 + math.sqrt(1 - 0.16) * rng.normal(0, 1, 40) + rng.normal(0, 3)
            planted += [made(f"p{who}", at, nll) for at, nll in enumerate(x)]
            times.append({"transcript": f"p{who}", "reaction_times_ms": np.exp(y).tolist()})
        found = reaction_times(*measured(planted, pl.DataFrame(times)))
        _, _, _, _, low, high, *_ = found.row(0)
        held += low < 0.4 < high
    assert held >= 52


def made(who: str, at: int, nll: float) -> Row:
    about = {"checkpoint": "c", "condition": "plain", "study": "s", "experiment": "e", "participant": who}
    return about | {"transcript": who, "response": at, "status": "scored", "nll": float(nll), "top1": True}


def measured(rows: list[Row], facts: pl.DataFrame) -> tuple[Tallies, list[Task]]:
    return tally(frames(rows), [], measure=measure(facts)), [Task("c", "plain")]


def test_constants_and_single_participants_have_no_interval() -> None:
    times = pl.DataFrame({"transcript": ["p", "q"], "reaction_times_ms": [[300.0, 700.0, 900.0]] * 2})
    constant = [made(who, at, 0.1) for who in "pq" for at in range(3)]
    both = reaction_times(*measured(constant, times))
    assert both.select("study", "r", "low", "n_participants").rows() == [("s", None, None, 2), (None, None, None, 2)]
    alone = reaction_times(*measured([made("p", at, at / 3) for at in range(3)], times))
    assert alone["r"].null_count() == 0
    assert alone["low"].null_count() == len(alone) == 2
    once = reaction_times(*measured([made("p", 0, 1.0), made("q", 0, 2.0)], times))
    assert once.is_empty()


def test_a_participant_alone_has_no_error() -> None:
    rows = [made("p", at, at / 3) for at in range(12)]
    found, tasks = tally(frames(rows), []), [Task("c", "plain")]
    row = by_length(found, tasks).row(0, named=True)
    assert (row["length"], row["se"], row["n_participants"]) == ("10-29", None, 1)
    assert row["nll"] == pytest.approx(11 / 6)
    bootstrap = Bootstrap(found.starts, 1, draws=20)
    deciles = by_decile(found, tasks, bootstrap)
    assert deciles["low"].null_count() == deciles["change_low"].null_count() == 10
    assert deciles["change"].drop_nulls().to_list() == pytest.approx([deciles["nll"][-1] - deciles["nll"][0]])
    assert by_experiment(found, tasks).is_empty()
    facts = pl.DataFrame({"transcript": ["p"], "age": [20.0], "gender": ["x"], "diagnosis": [None]})
    assert by_group(found, tasks, facts).is_empty()


def test_a_study_with_an_infinite_nll_is_left_out() -> None:
    rows = random_rows(1, conditions=["plain"])
    at = next(k for k, row in enumerate(rows) if row["status"] == "scored" and row["study"] == "a")
    spoiled = [row | ({"nll": math.inf} if k == at else {}) for k, row in enumerate(rows)]
    slug = rows[at]["checkpoint"]
    kept = [row for row in rows if row["study"] != "a"]
    tasks = [Task(slug, "plain")]
    of_spoiled, of_kept = (tally(frames(some), []) for some in (spoiled, kept))
    assert by_experiment(of_spoiled, tasks).equals(by_experiment(of_kept, tasks))
    assert by_length(of_spoiled, tasks)["n_responses"].sum() == by_length(of_kept, tasks)["n_responses"].sum()


def test_nothing_has_empty_tables(facts: pl.DataFrame) -> None:
    nothing = tally({}, [])
    bootstrap = Bootstrap(nothing.starts, 0, draws=10)
    for found in (
        by_decile(nothing, [], bootstrap),
        by_length(nothing, []),
        by_experiment(nothing, []),
        by_group(nothing, [], facts),
        reaction_times(nothing, []),
    ):
        assert found.is_empty()
    without = tally(frames([made("p", 0, 1.0)]), [])
    assert reaction_times(without, list(without.tasks)).is_empty()
