"""Tables of effects against loops in plain Python: the authors' definitions, and which responses and studies count."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections import defaultdict
from typing import Any

import numpy as np
import polars as pl
import pytest
from made_rows import Row, facts, frames, random_rows
from scipy import stats

from psych_ray.config import Stage
from psych_ray.study import Findings, Settings, findings
from psych_ray.study.domains import Domains
from psych_ray.study.many_tests import benjamini_hochberg
from psych_ray.study.random_effects import random_effects

CHECKPOINTS = [
    facts("base", "base", family="qwen", generation="qwen2", size_b=1.0),
    facts("instruct", "instruct", "base", family="qwen", generation="qwen2", size_b=1.0),
    facts("reasoning", "reasoning", "base", family="qwen", generation="qwen2", size_b=1.0),
    facts("vision", "vision", "base", family="qwen", generation="qwen2", size_b=1.0),
    facts("thinking", "vision_reasoning", "base", family="qwen", generation="qwen2", size_b=1.0),
    facts("base3", "base", family="qwen", generation="qwen3", size_b=1.0),
    facts("reasoning3", "reasoning", "base3", family="qwen", generation="qwen3", size_b=1.0),
    facts("behavioural3", "behavioural", "base3", family="qwen", generation="qwen3", size_b=1.0),
    facts("chance"),
]
CONDITIONS = ("plain", "chat", "persona")
DOMAINS = Domains(
    of_study={"a": "Memory", "b": "Memory", "c": "Reasoning", "evangelidis2023upscaling": "Reasoning"},
    developmental=frozenset({"b", "c"}),
    not_in_heat_map=frozenset({"Reasoning"}),
    psych101=frozenset({"a"}),
)
PAIRS = [(one.slug, one.base) for one in CHECKPOINTS if one.base]
KNOWN = {one.slug: one for one in CHECKPOINTS}


@pytest.fixture(scope="module", params=[0, 1])
def rows(request: pytest.FixtureRequest) -> list[Row]:
    made = random_rows(10 + request.param, checkpoints=CHECKPOINTS, conditions=CONDITIONS)
    return [row | {"study": "evangelidis2023upscaling"} if row["study"] == "d" else row for row in made]


@pytest.fixture(scope="module")
def found(rows: list[Row]) -> Findings:
    return findings(frames(rows), CHECKPOINTS, Settings(domains=DOMAINS, draws=200))


class Slow:
    """Every response of every task in a dictionary."""

    def __init__(self, rows: list[Row]) -> None:
        self.of: dict[tuple[str, str], dict[tuple[str, str, int], Row]] = defaultdict(dict)
        for row in rows:
            if row["status"] == "scored":
                key = row["study"], row["transcript"], row["response"]
                self.of[row["checkpoint"], row["condition"]][key] = row
        self.studies = sorted({row["study"] for row in rows})

    def both(self, first: tuple[str, str], second: tuple[str, str], study: str) -> list[tuple[Row, Row]]:
        a, b = self.of[first], self.of[second]
        return [(a[key], b[key]) for key in a if key in b and key[0] == study]

    def d(
        self, first: tuple[str, str], second: tuple[str, str], study: str, *, population: bool = False
    ) -> float | None:
        both = self.both(first, second, study)
        if len(both) < 2:
            return None
        a, b = [x["nll"] for x, _ in both], [y["nll"] for _, y in both]
        variance = statistics.pvariance if population else statistics.variance
        return (statistics.mean(a) - statistics.mean(b)) / math.sqrt((variance(a) + variance(b)) / 2)

    def ds(self, first: tuple[str, str], second: tuple[str, str], studies: Any, **how: bool) -> list[float]:
        return [
            d for study in self.studies if study in studies and (d := self.d(first, second, study, **how)) is not None
        ]


@pytest.fixture(scope="module")
def slow(rows: list[Row]) -> Slow:
    return Slow(rows)


def mean_of_means(values: list[list[float]]) -> float:
    return statistics.mean(statistics.mean(own) for own in values if own)


def test_vision_that_thinks_is_vision_and_generations_are_of_one_stage(found: Findings, slow: Slow) -> None:
    stages = {"instruct": ["instruct"], "reasoning": ["reasoning", "reasoning3"], "vision": ["vision", "thinking"]}
    stages["behavioural"] = ["behavioural3"]
    generations = {"qwen2": ("instruct", ["instruct"]), "qwen3": ("reasoning", ["reasoning3"])}
    for condition in CONDITIONS:

        def mean(slugs: list[str], condition: str = condition) -> Any:
            pairs = [((slug, condition), (str(KNOWN[slug].base), condition)) for slug in slugs]
            return pytest.approx(mean_of_means([slow.ds(*pair, slow.studies) for pair in pairs]), rel=1e-6)

        table = {row["stage"]: row for row in found.by_stage.iter_rows(named=True) if row["condition"] == condition}
        assert {stage: row["d"] for stage, row in table.items()} == {stage: mean(s) for stage, s in stages.items()}
        assert table["vision"]["n_pairs"] == 2
        rows = [row for row in found.by_generation.iter_rows(named=True) if row["condition"] == condition]
        assert {row["generation"]: (row["stage"], row["d"]) for row in rows} == {
            name: (stage, mean(slugs)) for name, (stage, slugs) in generations.items()
        }
        first, last = rows
        assert first["change"] is None
        assert last["change"] == pytest.approx(last["d"] - first["d"])
        assert last["change_low"] < last["change"] < last["change_high"]


def test_domains_have_the_population_sd_and_adjusted_ps(found: Findings, slow: Slow) -> None:
    of_domain = {"Memory": {"a", "b"}, "Reasoning": {"c", "evangelidis2023upscaling"}}
    for condition in CONDITIONS:
        rows = [row for row in found.by_domain.iter_rows(named=True) if row["condition"] == condition]
        assert {row["domain"]: row["published"] for row in rows} == {"Memory": True, "Reasoning": False}
        assert [row["q"] for row in rows] == benjamini_hochberg([row["p"] for row in rows])
        for row in rows:
            pairs = [((post, condition), (base, condition)) for post, base in PAIRS]
            ds = [slow.ds(*pair, of_domain[row["domain"]], population=True) for pair in pairs]
            assert row["d"] == pytest.approx(mean_of_means(ds), rel=1e-6)
            assert row["n_pairs"] == len(PAIRS)
    for row in found.by_pair_and_domain.iter_rows(named=True):
        pair = (row["post"], row["condition"]), (row["base"], row["condition"])
        ds = slow.ds(*pair, of_domain[row["domain"]], population=True)
        assert (row["d"], row["n_studies"]) == (pytest.approx(statistics.mean(ds), rel=1e-6), len(ds))


def test_the_random_effects_of_a_pair_are_of_its_studies_and_their_clustered_errors(found: Findings) -> None:
    by_study = found.misalignment_by_study
    for row in found.misalignment.iter_rows(named=True):
        own = by_study.filter(post=row["post"], base=row["base"], condition=row["condition"])
        expected = random_effects(own["d"].to_list(), [None if se is None else se**2 for se in own["se"]])
        columns = ("mean", "low", "high", "tau", "pi_low", "pi_high")
        for name, column in zip(columns, ("re_d", "re_low", "re_high", "tau", "pi_low", "pi_high"), strict=True):
            value = getattr(expected, name)
            assert row[column] == (None if value is None else pytest.approx(value, rel=1e-6)), column
        assert row["n_positive"] == (own["d"] > 0).sum()
        assert row["n_responses"] == own["n_responses"].sum()
        assert row["n_participants"] == own["n_participants"].sum()


@pytest.mark.parametrize("condition", ["chat", "persona"])
@pytest.mark.parametrize(
    ("subset", "studies"),
    [
        ("all", {"a", "b", "c", "evangelidis2023upscaling"}),
        ("developmental", {"b", "c"}),
        ("published", {"a", "b", "c"}),
    ],
)
def test_conditions_are_contrasted_on_the_same_responses(
    found: Findings, slow: Slow, condition: str, subset: str, studies: set[str]
) -> None:
    rows = {
        row["checkpoint"]: row
        for row in found.contrasts.iter_rows(named=True)
        if (row["condition"], row["studies"]) == (condition, subset)
    }
    if subset == "published" and condition != "persona":
        assert not rows
        return
    population = subset == "published"
    for one in CHECKPOINTS:
        first, second = (one.slug, condition), (one.slug, "plain")
        ds = slow.ds(first, second, studies, population=population)
        if not ds:
            assert one.slug not in rows
            continue
        both = {study: slow.both(first, second, study) for study in sorted(studies)}
        differences = [statistics.mean(x["nll"] - y["nll"] for x, y in own) for own in both.values() if len(own) > 1]
        row = rows[one.slug]
        assert row["d"] == pytest.approx(statistics.mean(ds), rel=1e-6)
        assert row["difference"] == pytest.approx(statistics.mean(differences), rel=1e-6)
        assert row["reference"] == "plain"
    summary = found.contrast_summary.filter(condition=condition, studies=subset)
    for stages, own_rows in (
        (["reasoning"], summary.filter(stage="reasoning")),
        (set(Stage), summary.filter(pl.col("stage").is_null())),
    ):
        slugs = [one.slug for one in CHECKPOINTS if one.stage in stages]
        own_ds = [slow.ds((slug, condition), (slug, "plain"), studies, population=population) for slug in slugs]
        assert own_rows["d"].to_list() == [pytest.approx(mean_of_means(own_ds), rel=1e-6)]


def test_accuracy_is_on_single_letters_that_both_have_scored(found: Findings, slow: Slow) -> None:
    for row in found.accuracy.iter_rows(named=True):
        pair = (row["post"], row["condition"]), (row["base"], row["condition"])
        both = [slow.both(*pair, study) for study in slow.studies]
        letters = [[(x, y) for x, y in own if x["n_options"] is not None] for own in both]
        post = [statistics.mean(x["top1"] for x, _ in own) for own in letters if own]
        base = [statistics.mean(y["top1"] for _, y in own) for own in letters if own]
        assert (row["accuracy_post"], row["accuracy_base"]) == pytest.approx(
            (statistics.mean(post), statistics.mean(base))
        )
        assert row["difference"] == pytest.approx(statistics.mean(post) - statistics.mean(base))
        assert row["n_letters"] == sum(map(len, letters))
        assert row["low"] <= row["difference"] <= row["high"]


def test_a_checkpoint_trained_on_behaviour_is_better_above_zero(found: Findings, slow: Slow) -> None:
    newer = set(slow.studies) - {"a"}
    for condition, (name, studies) in itertools.product(
        CONDITIONS, {"all": set(slow.studies), "psych201": newer}.items()
    ):
        (row,) = found.behavioural.filter(condition=condition, studies=name).iter_rows(named=True)
        ds = slow.ds(("base3", condition), ("behavioural3", condition), studies)
        assert (row["post"], row["d"]) == ("behavioural3", pytest.approx(statistics.mean(ds), rel=1e-6))
        assert row["se"] == pytest.approx(statistics.stdev(ds) / math.sqrt(len(ds)), rel=1e-6)
        assert row["low"] <= row["d"] <= row["high"]


def test_influence_is_the_mean_without_a_study(found: Findings, slow: Slow) -> None:
    rows = found.influence.filter(condition="plain", stage="vision")
    assert rows["change"].abs().to_list() == sorted(rows["change"].abs(), reverse=True)
    for row in rows.iter_rows(named=True):
        others = set(slow.studies) - {row["study"]}
        pairs = [((slug, "plain"), ("base", "plain")) for slug in ("vision", "thinking")]
        assert row["d_without"] == pytest.approx(mean_of_means([slow.ds(*pair, others) for pair in pairs]), rel=1e-6)


def test_pseudo_r2_is_against_chance_on_the_responses_that_both_have(found: Findings, slow: Slow) -> None:
    for row in found.by_study.filter(condition="plain").iter_rows(named=True):
        both = slow.both((row["checkpoint"], "plain"), ("chance", "plain"), row["study"])
        if row["checkpoint"] == "chance" or not both:
            assert row["pseudo_r2"] is None
            continue
        own, chance = (statistics.mean(side[at]["nll"] for side in both) for at in (0, 1))
        assert (row["chance"], row["pseudo_r2"]) == pytest.approx((chance, 1 - own / chance))
        assert row["below_chance"] == (own > chance)


def test_the_transcripts_that_differ_most_are_first(found: Findings, slow: Slow) -> None:
    table = found.transcript_differences.filter(condition="plain")
    assert table["difference"].abs().to_list() == sorted(table["difference"].abs(), reverse=True)
    for row in table.iter_rows(named=True):
        means = []
        for post, base in PAIRS:
            own = [
                x["nll"] - y["nll"]
                for x, y in slow.both((post, "plain"), (base, "plain"), row["study"])
                if x["transcript"] == row["transcript"]
            ]
            means += [statistics.mean(own)] if own else []
        assert row["difference"] == pytest.approx(statistics.mean(means), rel=1e-5, abs=1e-7)
        assert row["n_pairs"] == len(means)


def test_the_interval_of_a_pair_is_that_of_a_slow_bootstrap() -> None:
    checkpoints = [facts("base", "base"), facts("post", "instruct", "base")]
    rows = random_rows(4, checkpoints=checkpoints, conditions=["plain"])
    slow, dice = Slow(rows), random.Random(1)
    both = slow.of["post", "plain"].keys() & slow.of["base", "plain"].keys()
    rows = [row for row in rows if any(key[:2] == (row["study"], row["transcript"]) for key in both)]
    row = findings(frames(rows), checkpoints, Settings(draws=4000)).misalignment.row(0, named=True)
    assert row["n_studies"] > 2
    people: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for study in slow.studies:
        for x, y in slow.both(("post", "plain"), ("base", "plain"), study):
            people[study][x["participant"]].append((x["nll"], y["nll"]))
    drawn = []
    for _ in range(4000):
        ds = []
        for study in dice.choices(list(people), k=len(people)):
            whom = dice.choices(list(people[study]), k=len(people[study]))
            values = [value for who in whom for value in people[study][who]]
            a, b = zip(*values, strict=True)
            spread = math.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / 2)
            ds.append((np.mean(a) - np.mean(b)) / spread)
        drawn.append(statistics.mean(ds))
    n = row["n_studies"]
    tail = 100 * stats.norm.sf(stats.t.ppf(0.975, n - 1) * math.sqrt(n / (n - 1)))
    low, high = np.percentile(drawn, [tail, 100 - tail])
    width = high - low
    assert (row["low"], row["high"]) == (pytest.approx(low, abs=width / 8), pytest.approx(high, abs=width / 8))


def test_pairs_that_share_a_base_are_drawn_together() -> None:
    """Two equal checkpoints: the interval of their stage is that of one of them, not narrower by sqrt(2)."""
    base, one, two = facts("base", "base"), facts("one", "instruct", "base"), facts("two", "instruct", "base")
    rows = random_rows(3, checkpoints=[base, one], conditions=["plain"])
    rows += [row | {"checkpoint": "two"} for row in rows if row["checkpoint"] == "one"]
    found = findings(frames(rows), [base, one, two], Settings(draws=300))
    single, stage = found.misalignment.row(0, named=True), found.by_stage.row(0, named=True)
    for name in ("d", "se", "low", "high", "re_d", "re_low", "re_high", "tau"):
        assert stage[name] == pytest.approx(single[name], rel=1e-5), name
    assert stage["n_pairs"] == 2


def test_clustered_errors_are_wider_where_participants_differ() -> None:
    """Participants who are hard to predict for the post-trained checkpoint in all of their responses."""
    dice = np.random.default_rng(5)
    rows: list[Row] = []
    for who in range(40):
        shift = dice.normal(0, 1)
        for slug, level in (("base", 0.0), ("post", shift)):
            for n in range(50):
                nll = float(np.float32(abs(3 + level + dice.normal(0, 0.5))))
                session = {"study": "a", "experiment": "e", "participant": f"p{who}", "transcript": f"t{who}"}
                scores = {"status": "scored", "nll": nll, "top1": False, "n_options": None}
                rows.append({"checkpoint": slug, "condition": "plain"} | session | {"response": n} | scores)
    row = findings(frames(rows), [facts("base", "base"), facts("post", "instruct", "base")]).misalignment_by_study
    naive, clustered = row["difference_se_naive"][0], row["difference_se"][0]
    assert clustered == pytest.approx(1 / math.sqrt(40), rel=0.25)
    assert clustered / naive > 4


def test_checkpoints_without_a_d_are_not_counted_and_those_of_unknown_stage_are() -> None:
    checkpoints = [facts("one", "base", size_b=1.0), facts("two", size_b=1.0), facts("three", "base", size_b=1.0)]
    rows = random_rows(2, checkpoints=checkpoints, conditions=["chat", "plain"])
    rows = [row for row in rows if row["checkpoint"] != "three" or row["study"] == "a" or row["condition"] == "plain"]
    domains = Domains(of_study={}, developmental=frozenset({"b", "c"}), not_in_heat_map=frozenset())
    found = findings(frames(rows), checkpoints, Settings(domains=domains, draws=50))
    summary = found.contrast_summary.filter(pl.col("studies") != "published")
    counts = {(row["studies"], row["stage"]): row["n_checkpoints"] for row in summary.iter_rows(named=True)}
    expected = {("all", None): 3, ("all", "base"): 2, ("developmental", None): 2, ("developmental", "base"): 1}
    assert counts == expected


def test_the_interval_of_a_domain_has_the_sd_of_its_estimate() -> None:
    """Participants of one study who are all alike: each draw has the d of the sample."""
    checkpoints = [facts("base", "base"), facts("post", "instruct", "base")]
    rows = [
        {"checkpoint": slug, "condition": "plain", "study": "a", "experiment": "e", "participant": f"p{who}"}
        | {"transcript": f"a{who}", "response": n, "status": "scored", "nll": nlls[n], "top1": None}
        for slug, nlls in (("base", (1.0, 2.0)), ("post", (1.5, 2.75)))
        for who in range(2)
        for n in range(2)
    ]
    row = findings(frames(rows), checkpoints, Settings(domains=DOMAINS, draws=50)).by_domain.row(0, named=True)
    assert (row["low"], row["high"]) == (pytest.approx(row["d"]), pytest.approx(row["d"]))


def test_a_checkpoint_with_fewer_transcripts_of_a_study_is_told() -> None:
    checkpoints = [facts("one", "base", size_b=1.0), facts("two", "base", size_b=1.0), facts("chance")]
    rows = random_rows(2, checkpoints=checkpoints, conditions=["plain"])
    kept = {row["transcript"] for row in rows if row["study"] == "a" and row["participant"] != "p1"}
    every = {row["transcript"] for row in rows if row["study"] == "a"}
    assert 0 < len(kept) < len(every)
    rows = [row for row in rows if row["checkpoint"] == "one" or row["study"] != "a" or row["transcript"] in kept]
    skipped = findings(frames(rows), checkpoints, Settings(draws=20)).skipped
    (row,) = skipped.filter(pl.col("reason").str.contains("transcripts")).iter_rows(named=True)
    assert (row["checkpoint"], row["condition"], row["study"]) == ("two", "plain", "a")
    assert row["reason"].startswith(f"it has {len(kept)} of the {len(every)} transcripts of this study")


def test_chance_is_compared_with_also_where_plain_was_not_swept() -> None:
    checkpoints = [facts("one", "base", size_b=1.0), facts("chance")]
    rows = random_rows(2, checkpoints=checkpoints, conditions=["chat"])
    by_study = findings(frames(rows), checkpoints, Settings(draws=20)).by_study
    own = by_study.filter(pl.col("checkpoint") == "one")
    assert own["pseudo_r2"].null_count() < len(own)
    with_plain = [row for row in random_rows(2, checkpoints=checkpoints) if row["checkpoint"] == "one"]
    with_plain += [row for row in rows if row["checkpoint"] == "chance"]
    swept = findings(frames(with_plain), checkpoints, Settings(draws=20)).by_study
    assert set(swept.drop_nulls("pseudo_r2")["condition"]) == {"chat", "plain"}
