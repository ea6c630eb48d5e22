"""The mixed model against generalised least squares with dense matrices, and what it does where there is no fit."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pytest
from made_rows import CHECKPOINTS, frames, random_rows
from scipy.stats import norm

from psych_ray.study import mixed_model as module
from psych_ray.study.comparing import Comparison
from psych_ray.study.mixed_model import Rows, fixed_effects, mixed_model
from psych_ray.study.rows import Task
from psych_ray.study.schemas import SCHEMAS
from psych_ray.study.tallies import tally

COMPONENTS = ["sd between studies", "sd of pairs in a study", "sd of participants in a study", "sd of the rest"]


@dataclass
class Row:
    study: int
    participant: int
    pair: int
    difference: float


def pairs_table(n: int) -> pl.DataFrame:
    rows = [
        {"post": f"post{k}", "base": "base", "stage": ("instruct", "reasoning")[k % 2], "generation": f"g{k // 4}"}
        | {"size_b": (1.0, 1.0, 8.0, 8.0)[k % 4]}
        for k in range(n)
    ]
    return pl.DataFrame(rows)


def made(seed: int, *, studies: int = 5, people: int = 4, pairs: int = 8, sds: tuple[float, ...]) -> list[Row]:
    """Differences with known random effects; some participants lack a pair."""
    rng = np.random.default_rng(seed)
    between, of_pair, of_participant, rest = sds
    rows = []
    for study in range(studies):
        effect, by_pair = rng.normal(0, between), rng.normal(0, of_pair, pairs)
        for who in range(people):
            own = rng.normal(0, of_participant)
            for pair in range(pairs):
                value = 0.2 + 0.3 * (pair % 2) + effect + by_pair[pair] + own + rng.normal(0, rest)
                if rng.random() < 0.9:
                    rows.append(Row(study=study, participant=study * people + who, pair=pair, difference=float(value)))
    return rows


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch) -> Any:
    def given(rows: list[Row], *_: Any) -> Rows:
        ints = {name: np.array([getattr(row, name) for row in rows]) for name in ("study", "participant", "pair")}
        return Rows(**ints, difference=np.array([row.difference for row in rows]))

    monkeypatch.setattr(module, "_rows", given)
    return lambda rows, pairs, **options: mixed_model(rows, pairs, "plain", **options)


def covariance(rows: list[Row], sds: list[float]) -> np.ndarray:
    between, of_pair, of_participant, rest = (sd**2 for sd in sds)
    matrix = np.zeros((len(rows), len(rows)))
    for (i, one), (j, other) in itertools.product(enumerate(rows), enumerate(rows)):
        if one.study == other.study:
            matrix[i, j] += between
            matrix[i, j] += of_pair * (one.pair == other.pair) + of_participant * (one.participant == other.participant)
            matrix[i, j] += rest * (i == j)
    return matrix


def slow_reml(rows: list[Row], design: np.ndarray, sds: list[float]) -> tuple[float, np.ndarray, np.ndarray]:
    """(restricted log-likelihood but for a constant, estimates, standard errors), with dense matrices."""
    y, inverse = np.array([row.difference for row in rows]), np.linalg.inv(covariance(rows, sds))
    information = design.T @ inverse @ design
    estimates = np.linalg.solve(information, design.T @ inverse @ y)
    residual = y - design @ estimates
    determinants = -np.linalg.slogdet(inverse)[1] + np.linalg.slogdet(information)[1]
    return (
        -0.5 * (determinants + residual @ inverse @ residual),
        estimates,
        np.sqrt(np.diag(np.linalg.inv(information))),
    )


@pytest.mark.parametrize(
    ("seed", "sds"),
    [(0, (0.3, 0.2, 0.3, 0.2)), (1, (0.05, 0.02, 0.03, 0.04)), (2, (0.0, 0.0, 0.3, 1.0)), (3, (0.2, 0.0, 0.0, 0.1))],
)
def test_estimates_are_those_of_generalised_least_squares(seed: int, sds: tuple[float, ...], fit: Any) -> None:
    rows, pairs = made(seed, sds=sds), pairs_table(8)
    found, why = fit(rows, pairs)
    assert why is None
    assert found.schema == pl.Schema(SCHEMAS["mixed_model"])
    names, by_pair = fixed_effects(pairs)
    assert found["term"].to_list() == [*names, *COMPONENTS]
    own = found["estimate"].to_numpy()[-4:].tolist()
    design = by_pair[[row.pair for row in rows]]
    likelihood, estimates, errors = slow_reml(rows, design, own)
    fixed = found.head(len(names))
    assert fixed["estimate"].to_numpy() == pytest.approx(estimates, abs=1e-8)
    assert fixed["se"].to_numpy() == pytest.approx(errors, rel=1e-6)
    assert fixed["low"].to_numpy() == pytest.approx(estimates - 1.959964 * errors, abs=1e-6)
    p = [2 * norm.sf(abs(e) / se) for e, se in zip(estimates, errors, strict=True)]
    assert fixed["p"].to_list() == pytest.approx(p, abs=1e-6)
    for at, factor in itertools.product(range(4), (0.8, 1.25)):
        other = [sd * factor if k == at else sd for k, sd in enumerate(own)]
        assert slow_reml(rows, design, other)[0] <= likelihood + 1e-6
    assert set(found["n_rows"]) == {len(rows)}


def test_terms_are_those_that_can_be_told_apart() -> None:
    names, design = fixed_effects(pairs_table(8))
    assert names == [
        "mean (instruct, g0, 2.8 B)",
        "stage reasoning",
        "log10 size",
        "generation g1",
        "stage reasoning by log10 size",
        "stage reasoning by generation g1",
        "log10 size by generation g1",
    ]
    assert np.linalg.matrix_rank(design) == 7
    assert design[:, 2].sum() == pytest.approx(0)
    assert design[:, 5].tolist() == [0, 0, 0, 0, 0, 1, 0, 1]
    # Of three pairs with generations that have one stage each, only one term can be told from the mean.
    few = pairs_table(8)[[0, 1, 5]]
    assert fixed_effects(few)[0] == ["mean (instruct, g0, 1 B)", "stage reasoning"]
    unknown = pairs_table(8).with_columns(pl.lit(None, pl.Float64).alias("size_b"))
    assert fixed_effects(unknown)[0][0] == "mean (instruct, g0)"
    assert not any("size" in name for name in fixed_effects(unknown)[0])


def test_participants_are_drawn_where_there_are_many_rows(fit: Any) -> None:
    rows, pairs = made(0, people=12, sds=(0.3, 0.2, 0.3, 0.2)), pairs_table(8)
    found, why = fit(rows, pairs, max_rows=200)
    assert why == ("the mixed model is of at most 5 participants of every study, drawn at random, to be fitted in time")
    assert 150 < found["n_rows"][0] <= 210
    assert found.equals(fit(rows, pairs, max_rows=200)[0])


def test_too_little_or_too_slow_or_constant(fit: Any) -> None:
    rows, pairs = made(0, sds=(0.3, 0.2, 0.3, 0.2)), pairs_table(8)
    few = [row for row in rows if row.study < 2]
    for own, reason in ((few, "needs 3 studies and 2 pairs"), ([r for r in rows if r.pair == 1], "needs 3 studies")):
        found, why = fit(own, pairs)
        assert (len(found), reason in why) == (0, True)
    found, why = fit(rows, pairs, deadline_s=2.0, clock=itertools.count(0, 1).__next__)
    assert (len(found), why) == (0, "the mixed model was given up: no fit within 2 s")
    same = [Row(study=r.study, participant=r.participant, pair=r.pair, difference=0.1) for r in rows]
    assert fit(same, pairs)[1] == "the mixed model was given up: it did not converge"


def test_rows_are_mean_differences_of_participants() -> None:
    rows = random_rows(3, conditions=["plain"])
    posts = [one for one in CHECKPOINTS if one.base]
    pairs = pl.DataFrame([{"post": one.slug, "base": one.base} for one in posts])
    comparisons = [Comparison(Task(one.slug, "plain"), Task(one.base, "plain")) for one in posts]
    tallies = tally(frames(rows), comparisons)
    made_rows = module._rows(tallies, pairs, "plain")
    found = {
        (tallies.studies[study], tallies.participants["participant"][participant], posts[pair].slug): difference
        for study, participant, pair, difference in zip(
            *(values.tolist() for values in vars(made_rows).values()), strict=True
        )
    }
    nll = {(row["checkpoint"], row["transcript"], row["response"]): row["nll"] for row in rows}
    differences: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        base = next((one.base for one in posts if one.slug == row["checkpoint"]), None)
        other = nll.get((base, row["transcript"], row["response"]))
        if row["nll"] is not None and other is not None:
            key = (row["study"], row["participant"], row["checkpoint"])
            differences.setdefault(key, []).append(row["nll"] - other)
    assert found.keys() == differences.keys()
    for key, values in differences.items():
        assert found[key] == pytest.approx(math.fsum(values) / len(values), abs=1e-6)
