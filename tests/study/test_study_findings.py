"""Statistics against slow implementations in plain Python and closed forms, and what must be skipped with a reason."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from psych_ray.results.schema import RESPONSES, CheckpointFacts
from psych_ray.study import findings

Row = dict[str, Any]
STATUSES = ["cut", "empty", "altered", "not_applicable"]


def facts(slug: str, stage: str | None = None, base: str | None = None, **known: Any) -> CheckpointFacts:
    return CheckpointFacts(slug=slug, id=f"lab/{slug}", fingerprint="f", stage=stage, base=base, **known)


def row(checkpoint: str, study: str, response: int, nll: float | None, **other: Any) -> Row:
    scored = nll is not None
    return {
        "checkpoint": checkpoint,
        "condition": "plain",
        "study": study,
        "experiment": "e1",
        "participant": "p1",
        "transcript": "t1",
        "response": response,
        "char_start": 10 * response,
        "char_end": 10 * response + 1,
        "n_tokens": 1,
        "nll": nll,
        "top1": nll < 1 if nll is not None else None,
        "status": "scored" if scored else "cut",
    } | other


def frame(rows: list[Row]) -> pl.LazyFrame:
    names = {"checkpoint": pl.String, "condition": pl.String, "top1": pl.Boolean}
    numbers = dict.fromkeys(("response", "char_start", "char_end", "n_tokens"), pl.Int32)
    texts = dict.fromkeys(("study", "experiment", "participant", "transcript", "status"), pl.Categorical)
    return pl.LazyFrame(rows, schema={**names, **texts, **numbers, "nll": pl.Float32}, strict=False)


def hive(rows: list[Row], root: Path) -> pl.LazyFrame:
    """The rows as a sweep leaves them: parts of the real schema, a few of each checkpoint and condition."""
    parts = defaultdict(list)
    for at, each in enumerate(rows):
        parts[each["checkpoint"], each["condition"], at % 3].append(each)
    for (checkpoint, condition, part), own in parts.items():
        folder = root / f"responses/checkpoint={checkpoint}/condition={condition}"
        folder.mkdir(parents=True, exist_ok=True)
        columns = {name: [each.get(name) for each in own] for name in RESPONSES.names}
        pq.write_table(pa.table(columns, schema=RESPONSES), folder / f"{part}.parquet")
    return pl.scan_parquet(root / "responses/*/*/*.parquet", hive_partitioning=True)


CHECKPOINTS = [
    facts("two-instruct", "instruct", "two-base", family="f", generation="f2", size_b=2.0),
    facts("one-base", "base", family="f", generation="f1", size_b=1.0),
    facts("one-instruct", "instruct", "one-base", family="f", generation="f1", size_b=1.0),
    facts("one-reasoning", "reasoning", "one-base", family="f", generation="f1", size_b=1.0),
    facts("two-base", "base", family="f", generation="f2", size_b=2.0),
    facts("simulator"),
]


def random_rows(seed: int) -> list[Row]:
    """Uneven in every way: studies missing, statuses not scored, other responses scored in each checkpoint."""
    dice = random.Random(seed)
    rows = []
    for condition, checkpoint, study in itertools.product(["chat", "plain"], CHECKPOINTS, "abcd"):
        if dice.random() < 0.12:
            continue
        lossy = dice.random() < 0.5
        for transcript, response in itertools.product("xyz", range(7)):
            lost = lossy and dice.random() < 0.3
            nll = None if lost else float(pl.Series([dice.gammavariate(2, 0.7)], dtype=pl.Float32)[0])
            other = {"status": dice.choice(STATUSES)} if lost else {}
            rows.append(row(checkpoint.slug, study, response, nll, transcript=transcript, condition=condition, **other))
    dice.shuffle(rows)
    return rows


def scored_nlls(rows: list[Row]) -> dict[tuple[str, str, str], dict[tuple[str, int], float]]:
    """(condition, checkpoint, study) to the NLL of each scored response."""
    nlls: dict[tuple[str, str, str], dict[tuple[str, int], float]] = defaultdict(dict)
    for each in rows:
        if each["status"] == "scored":
            key = each["condition"], each["checkpoint"], each["study"]
            nlls[key][each["transcript"], each["response"]] = each["nll"]
    return nlls


def slow_d(rows: list[Row]) -> dict[tuple[str, str, str], dict[str, float]]:
    """(condition, post, base) to the d of each study, one response after the other."""
    nlls = scored_nlls(rows)
    ds: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for condition, post, study in itertools.product(["plain", "chat"], CHECKPOINTS, "abcd"):
        ours, theirs = nlls.get((condition, post.slug, study)), nlls.get((condition, post.base or "", study))
        if ours is None or theirs is None:
            continue
        both = sorted(ours.keys() & theirs.keys())
        left, right = [ours[key] for key in both], [theirs[key] for key in both]
        if len(both) > 1:
            pooled = math.sqrt((statistics.variance(left) + statistics.variance(right)) / 2)
            ds[condition, post.slug, post.base or ""][study] = (
                statistics.fmean(left) - statistics.fmean(right)
            ) / pooled
    return ds


def slow_error(values: list[float]) -> Any:
    """Standard error of a mean, about; None of one value."""
    if len(values) < 2:
        return None
    return pytest.approx(statistics.stdev(values) / math.sqrt(len(values)), rel=1e-11, abs=1e-15)


@pytest.fixture(params=range(4))
def rows(request: pytest.FixtureRequest) -> list[Row]:
    return random_rows(request.param)


def test_the_means_of_a_checkpoint_are_those_of_a_loop_over_rows(rows: list[Row], tmp_path: Path) -> None:
    found = findings(hive(rows, tmp_path), CHECKPOINTS)

    nlls = scored_nlls(rows)
    columns = ["condition", "checkpoint", "study", "n_responses", "nll", "sd", "top1"]
    assert _keyed(found.by_study.select(columns), "condition", "checkpoint", "study") == {
        key: {
            "n_responses": len(values),
            "nll": pytest.approx(statistics.fmean(values.values()), rel=1e-12),
            "sd": pytest.approx(statistics.stdev(values.values()), rel=1e-12),
            "top1": pytest.approx(statistics.fmean(value < 1 for value in values.values()), rel=1e-12),
        }
        for key, values in nlls.items()
    }
    for (condition, checkpoint), actual in _keyed(found.by_checkpoint, "condition", "checkpoint").items():
        studies = [values for key, values in nlls.items() if key[:2] == (condition, checkpoint)]
        assert actual["nll"] == pytest.approx(
            statistics.fmean(statistics.fmean(v.values()) for v in studies), rel=1e-12
        )
        assert actual["n_studies"] == len(studies)
        assert actual["n_responses"] == sum(map(len, studies))


def test_coverage_counts_every_row_once(rows: list[Row]) -> None:
    coverage = findings(frame(rows), CHECKPOINTS).coverage

    for (condition, checkpoint), actual in _keyed(coverage, "condition", "checkpoint").items():
        own = [each for each in rows if (each["condition"], each["checkpoint"]) == (condition, checkpoint)]
        assert actual["responses"] == len(own)
        assert actual["studies"] == len({each["study"] for each in own})
        assert actual["transcripts"] == len({(each["study"], each["transcript"]) for each in own})
        for status in ["scored", *STATUSES]:
            assert actual[status] == sum(each["status"] == status for each in own)
    assert coverage["responses"].sum() == len(rows)


def test_d_is_that_of_a_loop_over_the_responses_scored_in_both(rows: list[Row], tmp_path: Path) -> None:
    found = findings(hive(rows, tmp_path), CHECKPOINTS)

    slow = slow_d(rows)
    actual = _keyed(found.misalignment_by_study, "condition", "post", "base", "study")
    assert {key: values["d"] for key, values in actual.items()} == {
        (*pair, study): pytest.approx(d, rel=1e-11, abs=1e-13) for pair, ds in slow.items() for study, d in ds.items()
    }
    by_pair = _keyed(found.misalignment, "condition", "post", "base")
    assert by_pair.keys() == slow.keys()
    for pair, ds in slow.items():
        assert by_pair[pair]["d"] == pytest.approx(statistics.fmean(ds.values()), rel=1e-11)
        assert by_pair[pair]["n_studies"] == len(ds)
        assert by_pair[pair]["se"] == slow_error(list(ds.values()))


def test_stages_and_generations_are_means_over_pairs_with_errors_over_studies(rows: list[Row]) -> None:
    found = findings(frame(rows), CHECKPOINTS)

    known = {each.slug: each for each in CHECKPOINTS}
    # A generation is over its instruct pairs.
    for table, name in ((found.by_stage, "stage"), (found.by_generation, "generation")):
        groups: dict[tuple[str, Any], list[dict[str, float]]] = defaultdict(list)
        for (condition, post, _), ds in slow_d(rows).items():
            if name == "stage" or known[post].stage == "instruct":
                groups[condition, getattr(known[post], name)].append(ds)
        actual = _keyed(table, "condition", name)
        assert actual.keys() == groups.keys()
        for key, pairs in groups.items():
            assert actual[key]["d"] == pytest.approx(
                statistics.fmean(statistics.fmean(ds.values()) for ds in pairs), rel=1e-11
            )
            assert actual[key]["n_pairs"] == len(pairs)
            studies = [[ds[study] for ds in pairs if study in ds] for study in "abcd"]
            means = [statistics.fmean(ds) for ds in studies if ds]
            assert actual[key]["n_studies"] == len(means)
            assert actual[key]["se"] == slow_error(means)


PAIR = [facts("base", "base"), facts("post", "instruct", "base")]


def study_rows(study: str, base: list[float | None], post: list[float | None], **other: Any) -> list[Row]:
    sides = (("base", base), ("post", post))
    return [row(side, study, at, nll, **other) for side, nlls in sides for at, nll in enumerate(nlls)]


@pytest.mark.parametrize(
    ("base", "post", "d"),
    [
        ([0.0, 2.0], [1.0, 3.0], 1 / math.sqrt(2)),  # both sds are sqrt(2)
        ([0.0, 2.0], [0.0, 2.0], 0.0),
        ([2.0, 2.0, 2.0], [0.0, 1.0, 2.0], -math.sqrt(2)),  # sds 0 and 1
        ([0.0, 2.0, None], [1.0, 3.0, 900.0], 1 / math.sqrt(2)),  # the third is scored in one only
        ([None, 0.0, 2.0, 7.0], [5.0, 1.0, 3.0, None], 1 / math.sqrt(2)),  # as many scored, but not the same
    ],
)
def test_cohens_d_in_closed_form(base: list[float | None], post: list[float | None], d: float) -> None:
    found = findings(frame(study_rows("s", base, post)), PAIR)

    assert found.misalignment_by_study["d"].to_list() == [pytest.approx(d, abs=1e-15)]
    only = found.misalignment_by_study.select("only_post", "only_base").row(0)
    assert only == (sum(nll is None for nll in base), sum(nll is None for nll in post))


def test_a_study_that_one_of_the_pair_lacks_is_skipped_for_both() -> None:
    rows = study_rows("s", [0.0, 2.0], [1.0, 3.0]) + study_rows("only-post", [], [9.0, 1.0])
    found = findings(frame(rows), PAIR)

    assert found.misalignment.select("d", "n_studies").row(0) == (pytest.approx(1 / math.sqrt(2)), 1)
    assert (
        "post",
        "plain",
        "only-post",
        "not compared with base: base has no responses of this study",
    ) in skipped_rows(found)
    assert any(line[:3] == ("base", "plain", "only-post") for line in skipped_rows(found))


@pytest.mark.parametrize(
    ("base", "post", "reason"),
    [
        ([0.1] * 1000, [0.1] * 1000, "d is not defined"),
        ([1.0, None], [None, 1.0], "there are 0"),
        ([1.0, None], [2.0, 1.0], "there are 1"),
        ([None, None], [2.0, 1.0], "base has no scored response"),
        ([2.0, 1.0], [2.0, math.nan], "post has an NLL that is not finite"),
        ([2.0, math.inf], [2.0, 1.0], "base has an NLL that is not finite"),
    ],
)
def test_a_study_without_a_d_is_skipped(base: list[float | None], post: list[float | None], reason: str) -> None:
    found = findings(frame(study_rows("s", base, post)), PAIR)

    assert found.misalignment.is_empty()
    assert found.by_stage.is_empty()
    assert any(line[:3] == ("post", "plain", "s") and reason in line[3] for line in skipped_rows(found))


def test_a_mean_with_an_nll_that_is_not_finite_is_null() -> None:
    found = findings(frame(study_rows("s", [1.0, math.nan], [1.0]) + study_rows("t", [3.0], [1.0])), PAIR)

    means = _keyed(found.by_study, "checkpoint", "study")
    assert means["base", "s"]["nll"] is None
    assert _keyed(found.by_checkpoint, "checkpoint")[("base",)]["nll"] == 3.0


def test_a_pair_without_its_base_is_skipped() -> None:
    rows = study_rows("s", [1.0, 2.0], [1.0, 3.0])
    checkpoints = [
        facts("post", "instruct", "elsewhere"),
        facts("base", "instruct"),
        facts("idle", "base"),
        facts("odd", None, "base"),
    ]
    skipped = skipped_rows(findings(frame([*rows, row("odd", "s", 0, 1.0)]), checkpoints))

    assert ("post", None, None, "its base elsewhere is not in the tables") in skipped
    assert ("base", None, None, "its base is unknown") in skipped
    assert ("idle", None, None, "it has no responses") in skipped
    assert ("odd", None, None, "its stage is unknown, so it is not compared with its base") in skipped


def test_a_condition_that_only_one_of_the_pair_has_is_skipped_in_one_row() -> None:
    rows = study_rows("s", [1.0, 2.0], [1.0, 3.0])
    rows += study_rows("s", [], [1.0, 3.0], condition="chat") + study_rows("t", [], [1.0, 3.0], condition="chat")
    found = findings(frame(rows), PAIR)

    assert found.misalignment["condition"].to_list() == ["plain"]
    assert skipped_rows(found) == [
        ("post", "chat", None, "not compared with base: base has no responses under this condition")
    ]


def test_rows_are_ordered_by_condition_family_generation_stage_and_size() -> None:
    slugs = ["q-10", "q-2.5-instruct", "q-2.5", "q-2-big", "q-2-small"]
    checkpoints = [
        facts("q-10", "base", family="q", generation="q10"),
        facts("q-2.5-instruct", "instruct", "q-2.5", family="q", generation="q2.5"),
        facts("q-2.5", "base", family="q", generation="q2.5"),
        facts("q-2-big", "base", family="q", generation="q2", size_b=70),
        facts("q-2-small", "base", family="q", generation="q2", size_b=8),
    ]
    rows = [row(slug, "s", 0, 1.0, condition=condition) for slug in slugs for condition in ("chat", "plain")]
    found = findings(frame(rows), checkpoints)

    assert found.conditions == ["plain", "chat"]
    assert found.main_condition == "plain"
    assert found.by_checkpoint["checkpoint"].to_list() == list(reversed(slugs)) * 2


def test_the_simulator_is_listed_and_paired_with_nothing() -> None:
    found = findings(frame([row("simulator", "s", 0, 1.0)]), [facts("simulator")])

    assert found.by_checkpoint.select("id", "stage", "size_b", "nll").row(0) == ("lab/simulator", None, None, 1.0)
    assert found.skipped.is_empty()


def test_rows_of_other_checkpoints_are_not_read() -> None:
    rows = study_rows("s", [0.0, 2.0], [1.0, 3.0])
    found = findings(frame([*rows, row("other", "t", 0, 1.0)]), PAIR)

    assert set(found.by_study["checkpoint"]) == {"base", "post"}
    assert found.skipped.is_empty()


def test_no_rows_give_empty_tables_with_their_columns() -> None:
    full, none = findings(frame(random_rows(0)), CHECKPOINTS), findings(frame([]), [])

    for name in full.__dataclass_fields__:
        assert getattr(none, name).is_empty()
        assert getattr(none, name).schema == getattr(full, name).schema
    assert none.main_condition is None


def test_a_slug_occurs_once() -> None:
    with pytest.raises(ValueError, match="two checkpoints have the slug base"):
        findings(frame([]), [facts("base"), facts("base")])


def skipped_rows(found: Any) -> list[tuple[Any, ...]]:
    return list(found.skipped.iter_rows())


def _keyed(table: pl.DataFrame, *keys: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Rows by their key; a key that occurs twice fails."""
    rows = {tuple(each[key] for key in keys): each for each in table.iter_rows(named=True)}
    assert len(rows) == table.height
    return {key: {name: value for name, value in each.items() if name not in keys} for key, each in rows.items()}
