"""Sums, effects and bootstrap against loops in plain Python over the rows."""

from __future__ import annotations

import math
import random
import statistics
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from made_rows import Row, facts, frames, random_rows
from scipy import stats

from psych_ray.errors import ResultsError
from psych_ray.study import Settings, findings
from psych_ray.study.bootstrap import Bootstrap, clusters, interval
from psych_ray.study.comparing import Comparison, reading_order
from psych_ray.study.draws import draw
from psych_ray.study.effects import mean_of, study_effects
from psych_ray.study.rows import Task
from psych_ray.study.tallies import Tallies, tally

BASE, POST, CHAT = Task("one-base", "plain"), Task("one-instruct", "plain"), Task("one-instruct", "chat")
COMPARISONS = [
    Comparison(POST, BASE),
    Comparison(CHAT, POST),
    Comparison(POST, Task("chance", "plain")),
    Comparison(BASE, Task("absent", "plain")),
]


def rows_of(rows: list[Row], task: Task) -> dict[tuple[str, int], Row]:
    return {(row["transcript"], row["response"]): row for row in rows if (row["checkpoint"], row["condition"]) == task}


def scored(rows: list[Row], task: Task) -> dict[tuple[str, int], Row]:
    return {key: row for key, row in rows_of(rows, task).items() if row["status"] == "scored"}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mixed", [False, True])
def test_sums_of_a_task_are_those_of_a_loop(seed: int, *, mixed: bool) -> None:
    rows = random_rows(seed)
    shuffled = random.Random(seed).sample(rows, len(rows)) if mixed else rows
    found = tally(frames(shuffled), COMPARISONS)
    numbers = {name: at for at, name in enumerate(found.transcripts["transcript"])}
    assert len(numbers) == len({row["transcript"] for row in rows})
    for task, one in found.tasks.items():
        slow: dict[str, dict[str, float]] = {name: defaultdict(float) for name in one.sums}
        for (transcript, _), row in rows_of(rows, task).items():
            slow["responses"][transcript] += 1
            slow[row["status"]][transcript] += 1
            if row["status"] != "scored":
                continue
            centre = one.centres_S[found.studies.index(row["study"])]
            slow["n"][transcript] += 1
            slow["x"][transcript] += row["nll"] - centre
            slow["xx"][transcript] += (row["nll"] - centre) ** 2
            slow["hits_known"][transcript] += 1
            slow["hits"][transcript] += row["top1"]
            slow["t_n"][transcript] += 1
            slow["t_nll"][transcript] += row["nll"]
            for name in one.sums:
                if name.startswith("nll_t"):
                    slow[name][transcript] += row[name]
            if row["n_options"] is not None:
                slow["letters"][transcript] += 1
                slow["letter_hits"][transcript] += row["top1"]
                slow["choices"][transcript] += 1
                slow["leak"][transcript] += row["options_nll"]
                slow["within"][transcript] += row["nll"] - row["options_nll"]
                slow["brier"][transcript] += row["options_brier"]
                slow["top"][transcript] += row["options_top"]
                slow["option_hits"][transcript] += row["options_hit"]
        for name, sums in one.sums.items():
            expected = [slow[name].get(transcript, 0.0) for transcript in numbers]
            assert sums == pytest.approx(expected, abs=1e-5), (task, name)


@pytest.mark.parametrize("seed", range(4))
def test_deciles_and_bins_are_those_of_a_loop(seed: int) -> None:
    rows = random_rows(seed)
    found = tally(frames(rows), [])
    lengths = dict(found.transcripts.select("transcript", "n_responses").iter_rows())
    for task, one in found.tasks.items():
        deciles, bins = np.zeros_like(one.deciles), np.zeros_like(one.bins)
        for (transcript, response), row in scored(rows, task).items():
            study, length = found.studies.index(row["study"]), lengths[transcript]
            if length >= 10:
                deciles[study, math.floor(10 * response / length)] += 1, row["nll"]
            if row["options_top"] is not None:
                bins[study, min(9, math.floor(10 * np.float32(row["options_top"])))] += (
                    1,
                    row["options_top"],
                    row["options_hit"],
                )
        assert one.deciles == pytest.approx(deciles)
        assert one.bins == pytest.approx(bins)


def slow_effect(rows: list[Row], comparison: Comparison, study: str) -> dict[str, Any] | None:
    first, second = (scored(rows, task) for task in comparison)
    keys = [key for key in first if key in second and first[key]["study"] == study]
    if len(keys) < 2:
        return None
    a, b = ([side[key]["nll"] for key in keys] for side in (first, second))
    differences = [x - y for x, y in zip(a, b, strict=True)]
    difference = statistics.mean(differences)
    by_participant = defaultdict(float)
    for key, value in zip(keys, differences, strict=True):
        by_participant[first[key]["participant"]] += value - difference
    n, clusters = len(keys), len(by_participant)
    meat = sum(value**2 for value in by_participant.values())
    spread = math.sqrt((statistics.variance(a) + statistics.variance(b)) / 2)
    return {
        "n": n,
        "participants": clusters,
        "mean_a": statistics.mean(a),
        "mean_b": statistics.mean(b),
        "sd_a": statistics.stdev(a),
        "sd_b": statistics.stdev(b),
        "d": difference / spread,
        "difference": difference,
        "difference_se": math.sqrt(clusters / (clusters - 1) * meat) / n if clusters > 1 else math.nan,
        "difference_se_naive": statistics.stdev(differences) / math.sqrt(n),
        "d_z": difference / statistics.stdev(differences),
    }


@pytest.mark.parametrize("seed", range(4))
def test_effects_of_a_study_are_those_of_a_loop_over_the_responses_scored_in_both(seed: int) -> None:
    rows = random_rows(seed)
    found = tally(frames(rows), COMPARISONS)
    assert set(found.comparisons) == set(COMPARISONS[:3])
    for comparison in found.comparisons:
        effects = study_effects(found, comparison)
        for index, study in enumerate(found.studies):
            expected = slow_effect(rows, comparison, study)
            if expected is None:
                assert effects.n[index] < 2
                continue
            own = {name: getattr(effects, name)[index] for name in expected}
            assert own == pytest.approx(expected, rel=1e-6, nan_ok=True)


def d_without(found: Tallies, comparison: Comparison, participant: int) -> float:
    """D of the first study without a participant."""
    one = found.comparisons[comparison]
    keep = found.participant_T != participant
    sums = {name: found.by_participant(values * keep) for name, values in one.sums.items()}
    from psych_ray.study.effects import effects_of

    return float(effects_of(sums, found.starts, one.centres_S).d[0])


def test_the_error_of_d_is_close_to_that_of_a_jackknife_over_participants() -> None:
    rows = [row for row in random_rows(5) if row["study"] == "a"]
    dice = random.Random(1)
    many = [
        {**row, "participant": f"{row['participant']}-{copy}", "transcript": f"{row['transcript']}-{copy}"}
        | ({} if row["nll"] is None else {"nll": row["nll"] * dice.uniform(0.7, 1.3)})
        for copy in range(12)
        for row in rows
    ]
    found = tally(frames(many), [COMPARISONS[0]])
    effects = study_effects(found, COMPARISONS[0])
    n = len(found.participants)
    left_out = [d_without(found, COMPARISONS[0], participant) for participant in range(n)]
    jackknife = math.sqrt((n - 1) / n * sum((d - statistics.mean(left_out)) ** 2 for d in left_out))
    assert effects.d_se[0] == pytest.approx(jackknife, rel=0.1)


def test_the_mean_of_a_task_has_an_error_clustered_by_participant() -> None:
    rows = random_rows(2)
    found = tally(frames(rows), [])
    nll, se, sd = mean_of(found, POST)
    for index, study in enumerate(found.studies):
        own = [row for row in scored(rows, POST).values() if row["study"] == study]
        if len(own) < 2:
            continue
        mean = statistics.mean(row["nll"] for row in own)
        sums = defaultdict(float)
        for row in own:
            sums[row["participant"]] += row["nll"] - mean
        g = len(sums)
        assert (nll[index], sd[index]) == pytest.approx((mean, statistics.stdev(row["nll"] for row in own)))
        assert se[index] == pytest.approx(math.sqrt(g / (g - 1) * sum(x**2 for x in sums.values())) / len(own))


def test_values_that_are_all_equal_have_an_sd_of_exactly_zero() -> None:
    rows = [
        {**row, "nll": 0.1 if row["checkpoint"] == "one-base" else 0.3} if row["nll"] else row for row in random_rows(3)
    ]
    found = tally(frames(rows), COMPARISONS[:1])
    effects = study_effects(found, COMPARISONS[0])
    assert np.nanmax(effects.sd_a) == np.nanmax(effects.sd_b) == 0
    assert np.isnan(effects.d).all()


def test_a_response_that_is_there_twice_is_an_error() -> None:
    rows = random_rows(1)
    with pytest.raises(ResultsError, match="in the table twice"):
        tally(frames([*rows, rows[3]]), [])


def test_few_tasks_are_held_at_a_time() -> None:
    chance = Task("chance", "plain")
    bases = [Task(f"base{k}", "plain") for k in range(3)]
    posts = [(Task(f"post{k}{j}", "plain"), base) for k, base in enumerate(bases) for j in range(4)]
    comparisons = [Comparison(post, base) for post, base in posts]
    comparisons += [Comparison(task, chance) for task in [*bases, *(post for post, _ in posts)]]
    tasks = [post for post, _ in posts] + bases + [chance]
    order = reading_order(tasks, comparisons)
    assert sorted(order) == sorted(tasks)
    held, most = set(), 0
    for at, task in enumerate(order):
        held.add(task)
        left = [one for one in comparisons if not set(one) <= set(order[: at + 1])]
        held = {each for each in held if any(each in one for one in left)}
        most = max(most, len(held))
    assert most <= 2


def test_the_bootstrap_of_a_mean_has_the_spread_of_its_two_stages() -> None:
    rng = np.random.default_rng(3)
    sizes, between, within = [40] * 30, 0.5, 1.0
    means = rng.normal(0, between, len(sizes))
    values = np.concatenate([rng.normal(mean, within, size) for mean, size in zip(means, sizes, strict=True)])
    starts = np.cumsum([0, *sizes[:-1]])
    bootstrap = Bootstrap(starts, len(values), draws=2000)
    sums = np.stack([np.ones_like(values), values, values], axis=1)
    by_study = bootstrap.by_study(sums, lambda drawn, _: drawn[:, 1:] / drawn[:, :1])
    assert by_study.shape == (2000, 30, 2)
    of_studies = [values[start : start + 40] for start in starts]
    assert by_study.mean(axis=0)[:, 0] == pytest.approx([study.mean() for study in of_studies], abs=0.02)
    assert by_study.std(axis=0)[:, 0] == pytest.approx([study.std() / math.sqrt(40) for study in of_studies], rel=0.1)
    drawn = bootstrap.over_studies(by_study, np.ones(30, bool))
    assert np.array_equal(drawn[:, 0], drawn[:, 1])
    study_means = np.array([study.mean() for study in of_studies])
    variance = study_means.var() / 30 + np.mean([study.var() / 40 for study in of_studies]) / 30
    assert drawn[:, 0].std() == pytest.approx(math.sqrt(variance), rel=0.07)
    low, high = interval(drawn, 30)
    half = stats.t.ppf(0.975, 29) * math.sqrt(30 / 29 * variance)
    assert (low[0], high[0]) == pytest.approx((study_means.mean() - half, study_means.mean() + half), abs=0.04)


@pytest.mark.parametrize(("n_studies", "least"), [(4, 0.9), (10, 0.9), (40, 0.9)])
def test_the_interval_of_a_mean_over_few_studies_holds_it_as_often_as_it_says(n_studies: int, least: float) -> None:
    """Normal effects with participants in them; plain percentiles hold the mean of four studies in 80 % of samples."""
    rng = np.random.default_rng(n_studies)
    starts, n, times = np.arange(n_studies) * 20, n_studies * 20, 150
    bootstrap = Bootstrap(starts, n, draws=400)
    values = rng.normal(0, 1, (times, n_studies))[:, :, None] + rng.normal(0, 1, (times, n_studies, 20))
    sums = np.concatenate([np.ones((n, 1)), values.reshape(times, n).T], axis=1)
    by_study = bootstrap.by_study(sums, lambda drawn, _: drawn[:, 1:] / drawn[:, :1])
    low, high = interval(bootstrap.over_studies(by_study, np.ones(n_studies, bool)), n_studies)
    held = float(((low < 0) & (high > 0)).mean())
    assert least <= held, held


def test_one_cluster_has_no_interval_and_one_study_that_of_its_participants() -> None:
    drawn = np.linspace(0, 1, 101, dtype=np.float32)[:, None]
    assert np.isnan(interval(drawn, 1)[0][0])
    assert clusters([1, 1, 3], [1, 40, 9]).tolist() == [1, 40, 3]
    assert interval(drawn, 10**6)[0][0] == pytest.approx(0.025, abs=1e-4)


def test_a_study_without_a_value_does_not_count_in_a_draw() -> None:
    values = np.array([[[1.0, np.nan], [3.0, np.nan]]] * 50, np.float32)
    drawn = Bootstrap(np.array([0, 1]), 2, draws=50).over_studies(values, np.array([True, True]))
    assert set(drawn[:, 0].tolist()) <= {1.0, 2.0, 3.0}
    assert np.isnan(drawn[:, 1]).all()
    assert np.isnan(interval(drawn, 2)[0][1])


def test_the_interval_of_a_statistic_of_one_study_is_that_of_its_participants() -> None:
    """Also where other statistics have nine studies more, among which it is drawn several times or not at all."""
    rng = np.random.default_rng(8)
    values = rng.normal(size=(4000, 10, 2)).astype(np.float32)
    values[:, 1:, 1] = np.nan
    drawn = Bootstrap(np.arange(10), 10, draws=4000).over_studies(values, np.ones(10, bool))
    assert float(np.nanstd(drawn[:, 1])) == pytest.approx(1, rel=0.05)
    assert float(np.nanstd(drawn[:, 0])) == pytest.approx(math.sqrt(1 / 10), rel=0.05)


def test_draws_in_which_all_nlls_are_equal_have_no_d() -> None:
    """Two participants who each give the same NLL in every response: half of the draws have one of them only."""
    checkpoints = [facts("base", "base"), facts("post", "instruct", "base")]
    nlls = {("post", "p"): 0.1, ("post", "q"): 0.7, ("base", "p"): 0.3, ("base", "q"): 0.30001}
    rows = [
        {"checkpoint": slug, "condition": "plain", "study": study, "experiment": "e", "participant": who}
        | {"transcript": study + who, "response": n, "status": "scored", "nll": nll, "top1": None}
        for (slug, who), nll in nlls.items()
        for study in "ab"
        for n in range(30)
    ]
    row = findings(frames(rows), checkpoints, Settings(draws=200)).misalignment.row(0, named=True)
    assert abs(row["d"]) < 1
    assert abs(row["low"]) < 10
    assert abs(row["high"]) < 10


def test_accuracy_and_its_interval_are_over_the_same_studies() -> None:
    """A study with an infinite NLL is in neither."""
    one = facts("one", "base")
    rows = [
        {"checkpoint": "one", "condition": "plain", "study": study, "experiment": "e", "participant": f"p{who}"}
        | {"transcript": f"{study}{who}", "response": n, "status": "scored", "n_options": 2, "top1": study == "d"}
        | {"nll": math.inf if study == "d" else 1.0 + n}
        for study in "abcd"
        for who in range(3)
        for n in range(4)
    ]
    row = findings(frames(rows), [one], Settings(draws=100)).by_checkpoint.row(0, named=True)
    assert (row["accuracy"], row["accuracy_low"], row["accuracy_high"], row["n_studies"]) == (0, 0, 0, 3)


def test_draws_are_the_same_in_parts_and_need_the_memory_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_rows(4)
    found = tally(frames(rows), COMPARISONS)
    pairs = [Comparison(POST, BASE), Comparison(CHAT, POST)] * 20
    bootstrap = Bootstrap(found.starts, len(found.study_P), draws=30)
    whole = draw(found, {"pairs": pairs, "conditions": []}, bootstrap)
    monkeypatch.setattr("psych_ray.study.draws._SUMS_BYTES", 1)
    told: list[tuple[str, int, int]] = []
    sizes: list[int] = []
    by_study = bootstrap.by_study

    def counted(sums_PK: np.ndarray, *arguments: Any, **named: Any) -> np.ndarray:
        sizes.append(sums_PK.shape[1])
        return by_study(sums_PK, *arguments, **named)

    monkeypatch.setattr(bootstrap, "by_study", counted)
    parts = draw(found, {"pairs": pairs, "conditions": []}, bootstrap, on_progress=lambda *one: told.append(one))
    assert sizes == [8] * len(pairs) + [4] * len(whole.tasks)
    for name in ("task_nll", "task_accuracy"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-5)
    np.testing.assert_allclose(parts.d["pairs"], whole.d["pairs"], rtol=1e-4)
    np.testing.assert_allclose(parts.accuracy["pairs"], whole.accuracy["pairs"], rtol=1e-4, atol=1e-6)
    n = len(found.studies) * (len(pairs) + len(whole.tasks))
    assert [one[1:] for one in told] == [(at, n) for at in range(1, n + 1)]
