"""Published values: carried over as they were read, set beside a run of the same kind, and refused beside another."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from psych_ray.checkpoints.listed import listed_card, listed_ids
from psych_ray.results.schema import CheckpointFacts
from psych_ray.study.domains import load_domains
from psych_ray.study.published import _data, _flat, published
from psych_ray.study.schemas import SCHEMAS, table
from psych_ray.study.tables import Findings
from psych_ray.transcripts.normalise import is_excluded
from psych_ray.transcripts.simulated import TASKS

STUDIES = sorted(study for study in load_domains().of_study if study not in TASKS and not is_excluded(study))
CARDS = [asdict(card) for name in listed_ids(["*"]) if (card := listed_card(name))]


def slug(id_: str) -> str:
    return id_.replace("/", "--")


def checkpoints() -> list[CheckpointFacts]:
    return [CheckpointFacts(slug=slug(card["id"]), id=card["id"], fingerprint="f") for card in CARDS]


def by_study(**participants: int) -> pl.DataFrame:
    known = _data()["participants"] | participants
    rows = [
        {"checkpoint": slug(card["id"]), "condition": "plain", "study": study, "n_participants": known.get(study, 40)}
        for card in CARDS
        for study in STUDIES
    ]
    return table("by_study", pl.DataFrame(rows))


def study_run(off: float = 0.0) -> dict[str, pl.DataFrame]:
    """Tables of a run of every checkpoint whose values are `off` beside the published ones."""
    values: dict[str, dict[str, Any]] = {
        id_: {
            "nll": _data()["nll"][group][size] + off,
            "accuracy": _data()["accuracy"].get(group, {}).get(size, 0) + off,
        }
        for group, sizes in _data()["checkpoints"].items()
        for size, ids in sizes.items()
        for id_ in ids
    }
    by_checkpoint = [
        {"checkpoint": slug(id_), "condition": "plain", "low": own["nll"] - 0.05, "high": own["nll"] + 0.05,
         "accuracy_low": own["accuracy"] - 0.001, "accuracy_high": own["accuracy"] + 0.001, **own}
        for id_, own in values.items()
    ]  # fmt: skip
    pairs = {
        card["id"]: {"post": slug(card["id"]), "base": slug(card["base"]), "condition": "plain"}
        for card in CARDS
        if card.get("base")
    }
    stages = {
        **{id_: _data()["by_stage"][stage] for stage in _data()["by_stage"] for id_ in _flat(_data()["pairs"][stage])}
    }
    generations = {id_: d for name, d in _data()["by_generation"].items() for id_ in _data()["pairs"][name]}
    return {
        "by_study": by_study(),
        "coverage": table("coverage", pl.DataFrame([{"checkpoint": slug(i), "condition": "discrete"} for i in values])),
        "by_checkpoint": table("by_checkpoint", pl.DataFrame(by_checkpoint)),
        "misalignment": table(
            "misalignment",
            pl.DataFrame([{**pairs[id_], "d": generations.get(id_, d) + off} for id_, d in stages.items()]),
        ),
        "by_pair_and_domain": table(
            "by_pair_and_domain",
            pl.DataFrame(
                [
                    {**pairs[id_], "domain": domain, "d": d + off}
                    for domain, d in _data()["by_domain"].items()
                    for id_ in _flat(_data()["pairs"]["by_domain"])
                ]
            ),
        ),
        "contrasts": table(
            "contrasts",
            pl.DataFrame(
                [
                    {
                        "checkpoint": slug(i),
                        "condition": "persona",
                        "reference": "plain",
                        "studies": "published",
                        "d": -off,
                    }
                    for i in _data()["persona_benefit"]["checkpoints"]
                ]
            ),
        ),
        "behavioural": table(
            "behavioural",
            pl.DataFrame(
                [
                    {**pairs[id_], "studies": studies, "d": d + off, "low": 0.0, "high": 0.9}
                    for id_, d in _data()["behavioural"].items()
                    for studies in ("all", "psych201")
                ]
            ),
        ),
    }


def verdicts(rows: pl.DataFrame) -> dict[str, set[str]]:
    return {finding: set(of["verdict"]) for (finding,), of in rows.group_by("finding")}


def test_the_values_are_the_facts_that_were_read(shared: Path) -> None:
    path = shared / "facts" / "published.yaml"
    if not path.is_file():
        pytest.skip(f"no facts at {path}")
    facts = yaml.safe_load(path.read_text())
    ours = _data()
    assert (ours["nll"], ours["accuracy"]) == (facts["nll"], facts["accuracy"])
    assert {name: ours[name] for name in facts["misalignment"]} == facts["misalignment"]
    assert ours["persona_benefit"]["between"] == facts["persona_benefit"]["mean_d_between"]
    assert list(ours["behavioural"].values()) == [facts["centaur"]["mean_d"]]


def test_they_are_of_the_checkpoints_of_the_study() -> None:
    ids = {card["id"] for card in CARDS}
    for group, sizes in _data()["checkpoints"].items():
        assert _data()["nll"][group].keys() == sizes.keys()
        assert set(_flat(list(sizes.values()))) <= ids
    assert set(_data()["persona_benefit"]["checkpoints"]) <= ids
    assert set(_data()["participants"]) <= set(STUDIES)
    for stage in ("instruct", "reasoning", "vision"):
        stages = {"vision", "vision_reasoning"} if stage == "vision" else {stage}
        posts = {card["id"] for card in CARDS if card["stage"] in stages and card.get("base")}
        assert set(_flat(_data()["pairs"][stage])) == posts
    assert len(_flat(_data()["pairs"]["by_domain"])) == len(set(_flat(_data()["pairs"]["by_domain"]))) == 25


def test_a_run_of_the_study_agrees() -> None:
    rows = published(Findings(**study_run()), checkpoints())
    assert rows.schema == pl.Schema(SCHEMAS["published"])
    of_stage = rows.filter(pl.col("finding") == "by_stage")
    # In these tables the pairs of a generation have its d, so the means of stages are others.
    assert verdicts(rows.filter(pl.col("finding") != "by_stage")) == {
        finding: {"agrees"}
        for finding in ("nll", "accuracy", "by_generation", "by_domain", "persona_benefit", "behavioural")
    }
    assert len(of_stage) == 3
    assert len(rows) == 27 + 22 + 3 + 4 + 7 + 1 + 1
    assert rows["difference"].to_list() == pytest.approx((rows["value"] - rows["published"]).to_list())


def test_two_checkpoints_of_one_size_are_averaged() -> None:
    run = study_run()
    llama = pl.col("checkpoint") == "meta-llama--Llama-3.1-8B"
    run["by_checkpoint"] = run["by_checkpoint"].with_columns(pl.when(llama).then(1.0).otherwise("nll").alias("nll"))
    rows = published(Findings(**run), checkpoints())
    row = rows.filter(finding="nll", group="llama3-base", size_b=8.0).row(0, named=True)
    assert row["value"] == pytest.approx((1.765 + 1) / 2)
    assert row["low"] is None
    assert (row["verdict"], row["reason"]) == ("differs", "by more than the reading error")


def test_what_differs_says_whether_the_interval_covers_it() -> None:
    rows = published(Findings(**study_run(off=0.03)), checkpoints())
    assert verdicts(rows)["nll"] == {"differs"}
    single = rows.filter(finding="nll", size_b=0.6)
    assert set(single["reason"]) == {
        "by more than the reading error; the interval of this run covers the published value"
    }
    accuracy = rows.filter(finding="accuracy", size_b=0.6)
    assert set(accuracy["reason"]) == {
        "by more than the reading error, and the interval of this run does not cover the published value"
    }
    # Persona benefit is the negative of the contrast.
    assert rows.filter(finding="persona_benefit")["value"].to_list() == pytest.approx([0.03])


def test_intervals_are_taken_from_means_over_the_same_pairs() -> None:
    run = study_run()
    mean = run["misalignment"].filter(pl.col("post").is_in([slug(i) for i in _data()["pairs"]["qwen3"]]))["d"].mean()
    own = {"condition": "plain", "generation": "qwen3", "d": mean, "low": 0.1, "high": 0.2, "n_pairs": 5}
    for n_pairs, interval in ((5, (0.1, 0.2)), (6, (None, None))):
        run["by_generation"] = table("by_generation", pl.DataFrame([own | {"n_pairs": n_pairs}]))
        rows = published(Findings(**run), checkpoints()).filter(finding="by_generation", group="qwen3")
        assert rows.select("low", "high").row(0) == interval
    of_all = {"condition": "persona", "reference": "plain", "studies": "published", "d": 0.0, "low": -0.1, "high": 0.3}
    run["contrast_summary"] = table("contrast_summary", pl.DataFrame([of_all | {"n_checkpoints": 22}]))
    rows = published(Findings(**run), checkpoints()).filter(finding="persona_benefit")
    assert rows.select("low", "high").row(0) == (-0.3, 0.1)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            {"by_study": by_study(wu2023chunking=101)},
            "it has 101 participants of wu2023chunking, more than the test set",
        ),
        ({"by_study": by_study(dezfouli2019=5)}, "it has 5 participants of dezfouli2019, the test set has 10"),
        (
            {"by_study": by_study().filter(pl.col("study").is_in(STUDIES[:100]))},
            f"it has 100 of the {len(STUDIES)} studies of the test set",
        ),
        ({"by_study": by_study().clear()}, "it has no responses under plain"),
    ],
)
def test_other_data_is_not_compared(changed: dict[str, pl.DataFrame], reason: str) -> None:
    rows = published(Findings(**(study_run() | changed)), checkpoints())
    assert set(rows["verdict"]) == {"not comparable"}
    assert all(given.endswith(reason) for given in rows["reason"])
    assert rows["value"].null_count() == 0


def test_nine_tenths_of_the_studies_are_enough() -> None:
    run = study_run() | {"by_study": by_study().filter(pl.col("study").is_in(STUDIES[: round(0.9 * len(STUDIES)) + 1]))}
    assert verdicts(published(Findings(**run), checkpoints()))["nll"] == {"agrees"}


def test_other_checkpoints_and_settings_are_not_compared() -> None:
    run = study_run()
    run["misalignment"] = run["misalignment"].filter(pl.col("post") != "Qwen--Qwen3-4B")
    run["coverage"] = run["coverage"].filter(pl.col("checkpoint") != "Qwen--Qwen3-4B")
    rows = published(Findings(**run), checkpoints())
    assert rows.filter(finding="by_generation", group="qwen3")["reason"].to_list() == [
        "the published value is of 5 checkpoints, of which this run has 4"
    ]
    accuracy = rows.filter(finding="accuracy", verdict="not comparable")
    assert accuracy.select("group", "size_b").rows() == [("qwen3-reasoning", 4.0)]
    assert "discrete was not swept" in accuracy["reason"][0]
    unlike = published(Findings(**study_run()), checkpoints(), parity=False)
    assert set(unlike["verdict"]) == {"not comparable"}
    assert "scoring.parity=false" in unlike["reason"][0]


def test_accuracy_is_that_of_discrete_transcripts() -> None:
    run = study_run()
    discrete = run["by_checkpoint"].with_columns(
        pl.lit("discrete").alias("condition"),
        pl.col("accuracy") + 0.1,
        pl.col("nll") + 1,
        pl.lit(0.9).alias("accuracy_high"),
    )
    rows = published(Findings(**run | {"by_checkpoint": pl.concat([run["by_checkpoint"], discrete])}), checkpoints())
    row = rows.filter(finding="accuracy", group="qwen3-base", size_b=4.0).row(0, named=True)
    assert (row["value"], row["high"]) == pytest.approx((0.798, 0.9))
    assert verdicts(rows)["nll"] == {"agrees"}


def test_checkpoints_of_ones_own_have_no_rows() -> None:
    own = table("by_checkpoint", pl.DataFrame([{"checkpoint": "mine", "condition": "plain", "nll": 1.0}]))
    facts = [CheckpointFacts(slug="mine", id="mine", fingerprint="f")]
    rows = published(Findings(by_checkpoint=own), facts)
    assert len(rows) == 0
    assert rows.schema == pl.Schema(SCHEMAS["published"])
