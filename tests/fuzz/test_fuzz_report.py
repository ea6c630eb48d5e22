"""The report of studies and checkpoints with random names: it is written, and its names are data everywhere."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import fields
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support_fuzz import accepted, fuzz

from psych_ray.report import write_report
from psych_ray.report.page import SCRIPTS
from psych_ray.results.schema import CheckpointFacts
from psych_ray.study import findings
from psych_ray.study.schemas import table
from psych_ray.study.tables import Findings

_NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12) | st.sampled_from(
    ["<script>x</script>", "=1+1", "$\\frac{1}$", "[/]", "a\nb", "\x00", "\x1b[31m", "{{ 7 }}", "a" * 300, "'"]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@fuzz(0.05)
@given(studies=st.lists(_NAMES, min_size=1, max_size=2, unique=True), name=_NAMES, family=_NAMES)
@example(studies=["=1+1", "<script>"], name="<script>x</script>", family="$\\frac{1}$")
def test_names(folder: Path, studies: list[str], name: str, family: str) -> None:
    facts = [
        CheckpointFacts(
            slug=slug, id=name + slug, fingerprint="f", family=family, generation=family, stage=stage, base=base
        )
        for slug, stage, base in (("a", "base", None), ("b", "instruct", "a"))
    ]
    rows = [
        {
            "checkpoint": slug,
            "condition": "plain",
            "study": study,
            "experiment": study,
            "participant": name,
            "transcript": "t",
            "response": k,
            "nll": 1.0 + k + n,
            "top1": k == 0,
            "status": "scored",
        }
        for n, slug in enumerate("ab")
        for study in studies
        for k in range(3)
    ]
    made = findings(pl.LazyFrame(rows), facts)
    found = Findings(**{one.name: table(one.name, getattr(made, one.name)) for one in fields(made)})
    written = accepted("report", lambda: write_report(found, folder, title=name, about={"results": name}))
    assert written is not None
    page = written.page.read_text("utf-8", "surrogatepass")
    assert len(re.findall(r"<script\b(?! type=.application/json)", page)) == len(SCRIPTS)
    for path in [path for path in written.tables if path.suffix == ".csv"]:
        for row in csv.reader(io.StringIO(path.read_text("utf-8"), newline="")):
            for cell in row:
                assert not cell.startswith(("=", "+", "@", "\t", "\r", "\n"))
                assert not cell.startswith("-") or float(cell) < 0
