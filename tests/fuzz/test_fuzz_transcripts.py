"""Sources of transcripts, with random bytes in them: one line of refusal, or exactly what was not touched."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_fuzz import Edits, accepted, byte_edits, changed_bytes, changed_json, edited_bytes, fuzz

from psych_ray.config import OnError, TranscriptsConfig, TranscriptSource
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.simulated import simulated_transcripts
from psych_ray.transcripts.sources import read_transcripts

_RECORDS: list[dict[str, Any]] = [
    {
        "text": t.text[:600].rpartition("\n")[0],
        "study": t.study,
        "experiment": t.experiment,
        "participant": t.participant,
        "age": 31,
        "gender": "N/A",
    }
    for t in simulated_transcripts(participants=1, seed=3)
]
_LINES = [json.dumps(record).encode() for record in _RECORDS]


def _zip(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(zipfile.ZipInfo("prompts.jsonl"), content)
    return buffer.getvalue()


_ZIP = _zip(b"\n".join(_LINES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def read(path: Path, on_error: OnError = OnError.skip) -> list[Transcript]:
    return list(read_transcripts(TranscriptsConfig(source=TranscriptSource.files, path=str(path), on_error=on_error)))


@fuzz(3)
@given(changed=changed_bytes(_LINES[0]), on_error=st.sampled_from(OnError))
def test_a_line(folder: Path, changed: bytes, on_error: OnError) -> None:
    path = folder / "s.jsonl"
    path.write_bytes(b"\n".join([_LINES[1], changed, *_LINES[2:]]))
    found = accepted("jsonl", lambda: read(path, on_error))
    path.write_bytes(b"\n".join([_LINES[1], *_LINES[2:]]))
    if found is not None:
        untouched = read(path)
        assert found[0] == untouched[0]
        assert [t for t in found if t in untouched][-len(untouched) + 1 :] == untouched[1:]


@fuzz(3)
@given(record=changed_json(_RECORDS[0] | {"RTs": [1.5], "true_nll_nats": [0.5]}), on_error=st.sampled_from(OnError))
def test_fields(folder: Path, record: Any, on_error: OnError) -> None:
    path = folder / "f.jsonl"
    path.write_bytes(b"\n".join([_LINES[1], json.dumps(record).encode()]))
    found = accepted("fields", lambda: read(path, on_error))
    if found is not None:
        assert len(found) <= 2
        for transcript in found:
            assert [transcript.text[r.start : r.end] for r in transcript.responses]
            transcript.text.encode()


@fuzz(3)
@given(changed=changed_bytes(_ZIP), on_error=st.sampled_from(OnError))
def test_a_zip(folder: Path, changed: bytes, on_error: OnError) -> None:
    path = folder / "s.jsonl.zip"
    path.write_bytes(_ZIP)
    whole = read(path)
    path.write_bytes(changed)
    found = accepted("zip", lambda: read(path, on_error))
    if found is not None:
        assert found == whole  # its checksum


_SAMPLE = "psych-201-test-sample.parquet"


@pytest.fixture(scope="module")
def sample(shared, folder) -> Path:
    path = Path(folder / "sample")
    pq.write_table(pq.read_table(shared / "data" / _SAMPLE).slice(0, 3), path)
    return path


@fuzz(2)
@given(edits=byte_edits(), part=st.sampled_from(["pages", "description"]))
def test_a_parquet_file(folder: Path, sample: Path, edits: Edits, part: str) -> None:
    content = sample.read_bytes()
    path = folder / "t.parquet"
    tail = len(content) - int.from_bytes(content[-8:-4], "little") - 8  # where its description begins
    head, body = (b"", content) if part == "pages" else (content[:tail], content[tail:])
    path.write_bytes(head + edited_bytes(body, edits))
    accepted("parquet", lambda: read(path))


@fuzz(1)
@given(edits=byte_edits())
def test_a_contributed_study(folder: Path, shared: Path, edits: Edits) -> None:
    real = (shared / "data/psych-201/franke2024bayesian/prompts.jsonl.zip").read_bytes()
    path = folder / "franke.jsonl.zip"
    path.write_bytes(edited_bytes(real, edits))
    config = TranscriptsConfig(source=TranscriptSource.files, path=str(path), limit=2)
    accepted("contributed zip", lambda: list(read_transcripts(config)))
