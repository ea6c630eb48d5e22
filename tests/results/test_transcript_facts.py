"""Facts of transcripts without their texts: as they were written, in files of earlier versions, and damaged."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from psych_ray.errors import ResultsError
from psych_ray.results import catalogue as module
from psych_ray.results.catalogue import catalogue
from psych_ray.results.store import open_store
from psych_ray.results.transcript_facts import SCHEMA, transcript_facts
from psych_ray.transcripts.record import Transcript

METADATA = [
    {"age": "23.0", "gender": "female", "clinical diagnosis": "depression"},
    {"age": "nan", "diagnosis": "bipolar"},
    {"age": "about 30", "gender": "other", "PHQ-9": "4"},
    {},
]


def people(n: int) -> list[Transcript]:
    return [
        Transcript(
            study="s",
            experiment="e",
            participant=str(k),
            text=f"Participant {k} presses <<A>> then <<B>>.",
            metadata=METADATA[k % 4],
            reaction_times_ms=(100.5, None) if k % 3 == 0 else None,
            is_psych101=(None, True, False)[k % 3],
        )
        for k in range(n)
    ]


def number(text: str | None) -> float | None:
    try:
        return float(text) if text not in (None, "nan") else None
    except ValueError:
        return None


def expected(transcript: Transcript) -> dict[str, object]:
    of = transcript.metadata
    times = transcript.reaction_times_ms
    return {
        "transcript": transcript.id,
        "n_characters": len(transcript.text),
        "is_psych101": transcript.is_psych101,
        "age": number(of.get("age")),
        "gender": of.get("gender"),
        "diagnosis": of.get("clinical diagnosis", of.get("diagnosis")),
        "reaction_times_ms": None if times is None else list(times),
    }


def test_facts_are_those_of_the_transcripts(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_FILE_CHARACTERS", 100)
    store, everyone = open_store(str(tmp_path)), people(14)
    catalogue(store, everyone)
    assert len(list((tmp_path / "sources").iterdir())) > 2
    facts = transcript_facts(store)
    assert facts.schema == SCHEMA
    key = lambda row: row["transcript"]  # noqa: E731
    assert sorted(facts.to_dicts(), key=key) == sorted(map(expected, everyone), key=key)


def test_a_root_without_sources(tmp_path):
    facts = transcript_facts(open_store(str(tmp_path)))
    assert (len(facts), facts.schema) == (0, SCHEMA)


def test_a_file_of_an_earlier_version(tmp_path):
    store = open_store(str(tmp_path))
    catalogue(store, people(3))
    (path,) = (tmp_path / "sources").iterdir()
    pq.write_table(pq.read_table(path).drop_columns("is_psych101"), path)
    facts = transcript_facts(store)
    assert facts["is_psych101"].to_list() == [None] * 3
    assert facts["age"].to_list() == [23.0, None, None]


def test_a_damaged_file_is_an_error(tmp_path):
    store = open_store(str(tmp_path))
    catalogue(store, people(3))
    (path,) = (tmp_path / "sources").iterdir()
    rows = pq.read_table(path)
    pq.write_table(rows.set_column(0, "transcript", rows["n_characters"]), path)
    with pytest.raises(ResultsError, match=r"damaged \(it has other columns\)"):
        transcript_facts(store)
    pq.write_table(rows.drop_columns("metadata"), path)
    with pytest.raises(ResultsError, match=r"damaged \(No match for FieldRef.Name\(metadata\)"):
        transcript_facts(store)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ResultsError, match=r"sources/.*damaged .*; remove it and sweep again"):
        transcript_facts(store)
