"""Transcripts for the page's viewer: which, of which checkpoints, with the scores that the table holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from psych_ray.app.viewed import viewed_checkpoints, viewed_transcripts
from psych_ray.results.catalogue import FOLDER, catalogue
from psych_ray.results.store import ResultsStore, open_store
from psych_ray.study.schemas import table
from psych_ray.study.tables import Findings
from psych_ray.transcripts.record import Transcript

CHECKPOINTS = [("b", "base", None), ("p", "instruct", "b"), ("q", "instruct", "b"), ("chance", None, None)]


def transcript(study: str, participant: int) -> Transcript:
    text = f"{study} {participant}: <<A>> then <<>> then <<B>>."
    return Transcript(study=study, experiment="e", participant=str(participant), text=text)


TRANSCRIPTS = [transcript(study, at) for study in ("s1", "s2", "s3") for at in range(3)]


@pytest.fixture
def store(tmp_path: Path) -> ResultsStore:
    store = open_store(str(tmp_path / "root"))
    catalogue(store, TRANSCRIPTS)
    return store


def responses(without: str = "") -> dict[tuple[str, str], pl.LazyFrame]:
    """The rows of each task; the checkpoint `without` has no rows."""
    rows = [
        {
            "checkpoint": slug,
            "condition": condition,
            "transcript": one.id,
            "response": response,
            "nll": None if response == 1 else number + at + 0.25 * response + (condition == "chat"),
            "status": "empty" if response == 1 else "scored",
        }
        for at, one in enumerate(TRANSCRIPTS)
        for number, (slug, _, _) in enumerate(CHECKPOINTS)
        for condition in ("plain", "chat")
        for response in range(3)
    ]
    frame = pl.DataFrame(rows).with_columns(pl.col("transcript", "status").cast(pl.Categorical))
    by_task = frame.partition_by("checkpoint", "condition", as_dict=True)
    return {
        (str(slug), str(condition)): own.clear().lazy() if slug == without else own.lazy()
        for (slug, condition), own in by_task.items()
    }


def findings() -> Findings:
    coverage = pl.DataFrame({"checkpoint": "b", "condition": ["plain", "chat"]})
    known = [{"checkpoint": slug, "id": slug, "stage": stage, "size_b": None if stage is None else 1.0, "condition":
              "plain"} for slug, stage, _ in CHECKPOINTS]  # fmt: skip
    pairs = [{"post": "p", "base": "b", "condition": "plain", "d": 0.1}, {"post": "q", "base": "b", "condition":
              "plain", "d": -0.3}]  # fmt: skip
    order = [8, 7, 0, 6, 1, 4]  # s3, s3, s1, s3, s1, s2
    differences = [
        {"condition": "plain", "study": TRANSCRIPTS[at].study, "transcript": TRANSCRIPTS[at].id} for at in order
    ]
    return Findings(
        coverage=table("coverage", coverage),
        by_checkpoint=table("by_checkpoint", pl.DataFrame(known)),
        misalignment=table("misalignment", pl.DataFrame(pairs)),
        transcript_differences=table("transcript_differences", pl.DataFrame(differences)),
    )


def names(store: ResultsStore, found: Findings, n: int) -> list[tuple[str, str]]:
    viewed, lines = viewed_transcripts(store, responses(), found, n=n)
    assert lines == []
    return [(one.study, one.participant) for one in viewed]


def test_the_largest_differences_come_in_turn_from_each_study(store: ResultsStore) -> None:
    assert names(store, findings(), 5) == [("s3", "2"), ("s1", "0"), ("s2", "1"), ("s3", "1"), ("s1", "1")]
    assert names(store, findings(), 100)[5:] == [("s3", "0")]


def test_without_differences_the_first_of_each_study(store: ResultsStore) -> None:
    found = replace(findings(), transcript_differences=table("transcript_differences", pl.DataFrame()))
    assert names(store, found, 4) == [("s1", "0"), ("s2", "0"), ("s3", "0"), ("s1", "1")]


def test_scores_are_those_of_the_main_condition(store: ResultsStore) -> None:
    ((one, *_), _) = viewed_transcripts(store, responses(), findings(), n=1)

    assert [one.text[start:end] for start, end in one.spans] == ["A", "", "B"]
    assert one.nll == {slug: [8.0 + at, None, 8.5 + at] for at, slug in enumerate(("b", "p", "q", "chance"))}
    assert one.status["p"] == [None, "empty", None]


def test_a_transcript_that_a_checkpoint_lacks_has_no_scores(store: ResultsStore) -> None:
    ((one, *_), _) = viewed_transcripts(store, responses(without="q"), findings(), n=1)
    assert one.nll["q"] == [None, None, None]


def test_checkpoints_are_few_pairs_of_largest_d_first_references_last(monkeypatch: pytest.MonkeyPatch) -> None:
    assert viewed_checkpoints(findings()) == ["b", "p", "q", "chance"]
    monkeypatch.setattr("psych_ray.app.viewed.MAX_CHECKPOINTS", 3)
    assert viewed_checkpoints(findings()) == ["b", "q", "chance"]


def test_none_are_read_where_none_are_wanted_or_there_are_no_checkpoints(tmp_path: Path) -> None:
    nothing = open_store(str(tmp_path / "nothing"))
    assert viewed_transcripts(nothing, responses(), findings(), n=0) == ([], [])
    assert viewed_transcripts(nothing, responses(), Findings(), n=5) == ([], [])
    viewed, (line,) = viewed_transcripts(nothing, responses(), findings(), n=5)
    assert viewed == []
    assert line.startswith("viewer:  none on the page, as transcripts cannot be read: ")
    assert "sources" in line


def test_damaged_sources_are_a_line_and_no_viewer(store: ResultsStore, tmp_path: Path) -> None:
    (path,) = (tmp_path / "root" / FOLDER).glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-40] + b"x" * 40)

    viewed, lines = viewed_transcripts(store, responses(), findings(), n=5)

    assert viewed == []
    (line,) = lines
    assert line.startswith("viewer:  none on the page, as transcripts cannot be read: ")
    assert "damaged" in line
    assert "\n" not in line
