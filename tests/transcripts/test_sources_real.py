"""Real contributions and a real piece of the published test set: counts, columns, memory."""

import os
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from psych_ray.config import TranscriptsConfig, TranscriptSource
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.sources import read_transcripts

PARTICIPANTS_AND_RESPONSES = {
    "busch2024_stroop": (125, 11_040),
    "dezfouli2019": (101, 132_251),
    "franke2024bayesian": (302, 1_208),
    "guenther2020LDT": (146, 75_870),
    "guenther2023associations_individual": (281, 4_215),
    "guenther2024substitutions": (878, 46_370),
    "little2024functionestimation": (171, 60_324),
    "thoma2025riskychoice": (301, 2_709),
    "xu2023augmenting": (79, 13_496),
}
READ_IN_PART = ("alsobay2025publicGoodsGame", "sandbrink2024metacontrol", "spektor2024lossaversion", "zhu2024games")


@pytest.fixture(scope="module")
def data() -> Path:
    beside = Path(__file__).resolve().parents[3] / "shared"
    data = Path(os.environ.get("PSYCH_RAY_SHARED", beside)) / "data"
    if not data.is_dir():
        pytest.skip(f"no real data at {data}; PSYCH_RAY_SHARED=DIR names the folder that holds `data`")
    return data


def config(path: Path, **settings: Any) -> TranscriptsConfig:
    return TranscriptsConfig(source=TranscriptSource.files, path=str(path), **settings)


@pytest.mark.parametrize("study", PARTICIPANTS_AND_RESPONSES)
def test_a_study_in_full(data: Path, study: str) -> None:
    participants = responses = 0
    ids = set()
    for transcript in read_transcripts(config(data / "psych-201", studies=[study])):
        assert transcript.study == study
        participants += 1
        responses += len(transcript.responses)
        ids.add(transcript.id)
    assert (participants, responses) == PARTICIPANTS_AND_RESPONSES[study]
    assert len(ids) == participants


def test_all_studies_in_part(data: Path) -> None:
    transcripts = list(read_transcripts(config(data / "psych-201", limit=5)))
    studies = sorted([*PARTICIPANTS_AND_RESPONSES, *READ_IN_PART])
    assert [t.study for t in transcripts] == [study for study in studies for _ in range(5)]
    assert len({t.id for t in transcripts}) == 5 * len(studies)


def test_a_large_study_is_never_in_memory_as_a_whole(data: Path) -> None:
    path = data / "psych-201" / "alsobay2025publicGoodsGame" / "prompts.jsonl.zip"
    participants = responses = 0
    ids = set()
    tracemalloc.start()
    try:
        for transcript in read_transcripts(config(path)):
            participants += 1
            responses += len(transcript.responses)
            ids.add(transcript.id)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (participants, responses) == (3_912, 113_955)
    assert len(ids) == participants
    assert peak_bytes < 8 * 2**20


def test_what_contributors_write_beside_the_text(data: Path) -> None:
    def first(study: str) -> Transcript:
        return next(read_transcripts(config(data / "psych-201" / study)))

    stroop = first("busch2024_stroop")  # reaction times as strings
    assert stroop.metadata == {"age": "37.0"}
    assert stroop.reaction_times_ms is not None
    assert stroop.reaction_times_ms[:3] == (1159.0, 3268.0, 877.0)
    assert set(first("sandbrink2024metacontrol").metadata) == {"FACSIMILE A/D", "FACSIMILE Compul", "FACSIMILE SW"}
    assert first("thoma2025riskychoice").metadata == {"age": "31.0", "gender": "female", "condition": "repeated"}
    assert first("xu2023augmenting").metadata == {}
    assert first("dezfouli2019").metadata == {"clinical diagnosis": "depression"}


@pytest.mark.parametrize("source", [TranscriptSource.files, TranscriptSource.psych201])
def test_the_published_sample(data: Path, source: TranscriptSource) -> None:
    path = data / "psych-201-test-sample.parquet"
    transcripts = list(read_transcripts(TranscriptsConfig(source=source, path=str(path))))
    assert sorted(Counter(t.study for t in transcripts).values()) == [20] * 6
    assert len({t.id for t in transcripts}) == 120
    assert transcripts[0].metadata == {"age": "37.0"}
    assert transcripts[0].reaction_times_ms is None
    assert all("N/A" not in t.metadata.values() for t in transcripts)
    timed = [t for t in transcripts if t.reaction_times_ms is not None]
    assert timed
    assert all(len(t.reaction_times_ms or ()) == len(t.responses) for t in timed)


def test_the_published_sample_and_the_contributions_agree_in_ids_and_in_what_the_hub_holds_of_people(
    data: Path,
) -> None:
    path = data / "psych-201-test-sample.parquet"
    sample = list(read_transcripts(config(path)))
    studies = sorted({t.study for t in sample})
    contributed = {t.id: t for t in read_transcripts(config(data / "psych-201", studies=studies))}
    columns = set(pq.read_schema(path).names)
    for transcript in sample:
        found = contributed[transcript.id]
        assert found.text == transcript.text
        assert found.is_psych101 is transcript.is_psych101 is False
        assert {name: value for name, value in found.metadata.items() if name in columns} == transcript.metadata
    assert len(studies) == 6
