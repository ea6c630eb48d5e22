"""summary.json: it follows its schema, and its numbers are those of the tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import polars as pl
import pytest
from made_findings import made_findings, minimal_findings

from psych_ray.config import FINDINGS
from psych_ray.report import findings, write_report
from psych_ray.report.summary import schema, summary
from psych_ray.study.tables import Findings


def summary_of(found: Findings) -> str:
    told = [(finding, finding.statements(found)) for finding in findings.ALL]
    return summary(found, told, title="t", about={"engine": "e"})


@pytest.mark.parametrize("found", [made_findings(), minimal_findings(), Findings()], ids=["full", "minimal", "empty"])
def test_the_summary_follows_its_schema(found: Findings) -> None:
    content = json.loads(summary_of(found))

    jsonschema.Draft202012Validator.check_schema(json.loads(schema()))
    jsonschema.validate(content, json.loads(schema()))
    names = [one["name"] for one in (*content["findings"], *content["without_data"])]
    assert sorted(names) == sorted(FINDINGS)


def test_a_summary_of_another_form_is_refused_by_the_schema() -> None:
    content = json.loads(summary_of(minimal_findings()))
    content["findings"][0]["statements"][0]["numbers"][0]["estimate"] = "0.5"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, json.loads(schema()))


def test_numbers_are_those_of_the_tables() -> None:
    found = made_findings()
    content = {one["name"]: one for one in json.loads(summary_of(found))["findings"]}
    (row,) = found.by_stage.filter(pl.col("stage") == "reasoning").iter_rows(named=True)
    numbers = [n for one in content["misalignment_by_stage"]["statements"] for n in one["numbers"]]

    (number,) = [n for n in numbers if n["of"] == "stage reasoning"]
    assert (number["estimate"], number["low"], number["high"]) == (row["d"], row["low"], row["high"])
    assert number["n"] == {
        "pairs": row["n_pairs"],
        "studies": row["n_studies"],
        "participants": row["n_participants"],
        "responses": row["n_responses"],
    }


def test_numbers_that_json_does_not_have_are_null() -> None:
    found = made_findings()
    rows = found.by_stage.with_columns(d=pl.lit(float("nan")), high=pl.lit(float("inf")))
    content = summary_of(replace(found, by_stage=rows))

    assert "NaN" not in content
    assert "Infinity" not in content


def test_the_schema_stands_beside_the_summary(tmp_path: Path) -> None:
    files = write_report(minimal_findings(), tmp_path, title="t", about={}, figures=["nll_by_size"])

    assert json.loads((tmp_path / "summary.schema.json").read_text()) == json.loads(schema())
    jsonschema.validate(json.loads(files.summary.read_text()), json.loads(schema()))
