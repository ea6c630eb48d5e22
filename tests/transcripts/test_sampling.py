"""Samples: the same for the same seed in any order, of the sizes that were asked for, without bias."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psych_ray.config import OnError, TranscriptsConfig, TranscriptSource
from psych_ray.errors import TranscriptError
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.sources import LeftOut, Skipped, read_transcripts
from psych_ray.transcripts.sources.sampling import Sample


def write(path: Path, participants: list[int], **fields: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"text": "You press <<A>>.", "experiment": "e"} | fields
    path.write_text("".join(json.dumps(record | {"participant": k}) + "\n" for k in participants))
    return path


def read(path: Path, **settings: Any) -> list[Transcript]:
    return list(read_transcripts(TranscriptsConfig(source=TranscriptSource.files, path=str(path), **settings)))


def test_a_sample_keeps_the_order_of_the_source_and_does_not_depend_on_it(tmp_path: Path) -> None:
    write(tmp_path / "a" / "prompts.jsonl", list(range(50)))
    write(tmp_path / "b" / "prompts.jsonl", list(range(4)))
    drawn = read(tmp_path, sample=8)
    assert Counter(t.study for t in drawn) == {"a": 8, "b": 4}
    numbers = [int(t.participant) for t in drawn]
    assert numbers[:8] == sorted(numbers[:8]) != list(range(8))
    assert read(tmp_path, sample=8) == drawn
    assert read(tmp_path, sample=8, seed=1) != drawn
    assert {t.id for t in read(tmp_path, sample=5)} <= {t.id for t in drawn}
    write(tmp_path / "a" / "prompts.jsonl", list(range(49, -1, -1)))
    assert {t.id for t in read(tmp_path, sample=8)} == {t.id for t in drawn}
    assert [t.participant for t in read(tmp_path, sample=8, limit=3)][:3] == [
        t.participant for t in reversed(drawn) if t.study == "a"
    ][:3]


@pytest.mark.parametrize(("participants", "drawn"), [(9, 0), (10, 1), (29, 2), (70, 7), (999, 99), (2_000, 100)])
def test_the_size_of_the_hubs_test_set(participants: int, drawn: int) -> None:
    sample = Sample(100, 0.1, 201)
    for k in range(participants):
        sample.add("s", str(k))
    assert len(sample.drawn()) == drawn
    assert sample.not_drawn() == ({"s": participants} if not drawn else {})


def test_every_transcript_is_drawn_equally_often() -> None:
    counts = np.zeros(20)
    for seed in range(2_000):
        sample = Sample(5, None, seed)
        for k in range(20):
            sample.add("s", str(k))
        counts[[int(one) for one in sample.drawn()]] += 1
    assert np.abs(counts - 500).max() < 5 * np.sqrt(2_000 * 0.25 * 0.75)


def test_a_study_of_which_nothing_is_drawn_is_told(tmp_path: Path) -> None:
    write(tmp_path / "a" / "prompts.jsonl", list(range(10)))
    write(tmp_path / "b" / "prompts.jsonl", list(range(7)))
    config = TranscriptsConfig(source=TranscriptSource.files, path=str(tmp_path), sample_fraction=0.1)
    told: list[LeftOut] = []
    assert [t.study for t in read_transcripts(config, on_left_out=told.append)] == ["a"]
    assert [str(one) for one in told] == [
        "b: all transcripts of 7 participants left out: transcripts.sample_fraction=0.1 of so many is less than one"
    ]
    with pytest.raises(TranscriptError, match=r"^b: all transcripts of 7 participants left out"):
        read(tmp_path, sample_fraction=0.1, studies=["b"])


def test_what_is_skipped_is_told_once_and_copies_keep_their_ids(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", [1] * 30)
    with path.open("a") as file:
        file.write("no JSON\n")
    config = TranscriptsConfig(source=TranscriptSource.files, path=str(path), sample=4, on_error=OnError.skip)
    skipped: list[Skipped] = []
    drawn = list(read_transcripts(config, on_skipped=skipped.append))
    assert len(skipped) == 1
    everyone = {t.id: t.copy for t in read(path, on_error=OnError.skip)}
    assert [everyone[t.id] for t in drawn] == [t.copy for t in drawn] != [0, 1, 2, 3]


def test_simulated_participants_are_drawn_too() -> None:
    drawn = list(read_transcripts(TranscriptsConfig(participants=6, sample=2)))
    assert set(Counter(t.study for t in drawn).values()) == {2}
    everyone = {t.id for t in read_transcripts(TranscriptsConfig(participants=6))}
    assert {t.id for t in drawn} <= everyone


@pytest.mark.parametrize("settings", [{"sample": 0}, {"sample_fraction": 0.0}, {"sample_fraction": 1.5}])
def test_sizes_that_no_sample_has(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^transcripts\.sample"):
        TranscriptsConfig(**settings)
