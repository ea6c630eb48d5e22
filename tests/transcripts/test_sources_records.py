"""Which records are usable: JSON lines, one bad thing at a time, on stop and on skip."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from psych_ray.config import OnError, TranscriptsConfig, TranscriptSource
from psych_ray.errors import TranscriptError
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.sources import LeftOut, Skipped, json_lines, read_transcripts
from psych_ray.transcripts.sources import skipping as skipping_module

GOOD = {"text": "You press <<A>>.", "experiment": "demo/1", "participant": 1}


def config(path: Path, **settings: Any) -> TranscriptsConfig:
    return TranscriptsConfig(source=TranscriptSource.files, path=str(path), **settings)


def read(path: Path, **settings: Any) -> list[Transcript]:
    return list(read_transcripts(config(path, **settings)))


def skipping(path: Path, **settings: Any) -> tuple[list[Transcript], list[Skipped]]:
    skipped: list[Skipped] = []
    kept = list(read_transcripts(config(path, on_error=OnError.skip, **settings), on_skipped=skipped.append))
    return kept, skipped


def write(path: Path, lines: Iterable[dict[str, Any] | bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines) + b"\n")
    return path


def one(tmp_path: Path, **fields: Any) -> Transcript:
    (transcript,) = read(write(tmp_path / "study.jsonl", [GOOD | fields]))
    return transcript


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


BAD = [
    (b'{"text": ', "not JSON at character 9: Expecting value"),
    (b'{"text": "a\nb"}', "not JSON at character 9: Unterminated string"),
    (b"[1, 2]", "a JSON list, not an object with fields"),
    (b'"text"', "a JSON str, not an object with fields"),
    (b"null", "a JSON NoneType, not an object with fields"),
    (b"[" * 100_000, "not JSON that can be read: maximum recursion depth exceeded"),
    (b'{"participant": ' + b"1" * 5000 + b"}", "not JSON that can be read: Exceeds the limit (4300 digits)"),
    (b'{"text": "\xff"}', "not UTF-8 at byte 10"),
    ("{}".encode("utf-16"), "not UTF-8 at byte 0"),
    (without("text"), "`text` is missing"),
    (without("experiment"), "`experiment` is missing"),
    (without("participant"), "`participant` is missing"),
    (GOOD | {"text": None}, "`text` is missing"),
    (GOOD | {"text": ""}, "`text` is empty"),
    (GOOD | {"text": " \n"}, "`text` is empty"),
    (GOOD | {"text": ["a"]}, "`text` is a list, not a string"),
    (GOOD | {"text": {"a": 1}}, "`text` is an object, not a string"),
    (GOOD | {"experiment": 3}, "`experiment` is a number, not a string"),
    (GOOD | {"experiment": ""}, "`experiment` is empty"),
    (GOOD | {"participant": True}, "`participant` is a boolean, not a string or a whole number"),
    (GOOD | {"participant": [1]}, "`participant` is a list, not a string or a whole number"),
    (GOOD | {"participant": float("nan")}, "`participant` is a number, not a string or a whole number"),
    (GOOD | {"participant": float("inf")}, "`participant` is a number, not a string or a whole number"),
    (GOOD | {"participant": 1.5}, "`participant` is a number, not a string or a whole number"),
    (GOOD | {"participant": ""}, "`participant` is empty"),
    (GOOD | {"study": 5}, "`study` is a number, not a string"),
    (GOOD | {"study": ""}, "`study` is empty"),
    (GOOD | {"text": "a <<b\n"}, "`text`, character 2: `<<` opens a response that is never closed"),
    (GOOD | {"text": "a>>\nb"}, "`text`, character 1: `>>` closes a response that was not opened"),
    (GOOD | {"text": "<<a<<b>>"}, "`text`, character 3: `<<` inside the response opened at 0"),
    (GOOD | {"text": "\ud800 <<a>>"}, "`text` has half a surrogate pair at character 0"),
    (GOOD | {"gender": "\ud800"}, "`gender` has half a surrogate pair at character 0"),
    (GOOD | {"true_nll_nats": 0.5}, "`true_nll_nats` is a number, not a list"),
    (GOOD | {"true_nll_nats": [0.5, 0.5]}, "`true_nll_nats` has 2 entries for 1 responses"),
    (GOOD | {"true_nll_nats": [None]}, "`true_nll_nats` entry 0 is None, not a number"),
    (GOOD | {"true_nll_nats": [float("nan")]}, "`true_nll_nats` has an entry that is not a number"),
]


@pytest.mark.parametrize(("line", "reason"), BAD, ids=range(len(BAD)))
def test_a_bad_record_stops_with_one_line_or_is_skipped(tmp_path: Path, line: Any, reason: str) -> None:
    path = write(tmp_path / "study.jsonl", [GOOD, b"", line, GOOD | {"participant": 2}])
    with pytest.raises(TranscriptError) as raised:
        read(path)
    message = str(raised.value)
    assert message.startswith(f"{path} line 3: {reason}")
    assert message.endswith("; transcripts.on_error=skip skips it")
    assert len(message.splitlines()) == 1

    kept, skipped = skipping(path)
    assert [t.participant for t in kept] == ["1", "2"]
    assert len(skipped) == (2 if isinstance(line, bytes) and b"\n" in line else 1)
    assert skipped[0].where == f"{path} line 3"
    assert skipped[0].reason.startswith(reason)
    assert len(skipped[0].reason.splitlines()) == 1


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        (3, "`RTs` is a number, not a list"),
        ("12", "`RTs` is a string, not a list"),
        ([], "`RTs` has not one entry for each response"),
        ([None, None], "`RTs` has not one entry for each response"),
        *((entry, "`RTs` has an entry that is not a number") for entry in (["a\nb"], [True], [[1]], [float("inf")])),
        ([10**400], "`RTs` has an entry that is not a number"),
    ],
)
def test_reaction_times_that_cannot_be_used_are_left_out_and_told_once(tmp_path: Path, times: Any, reason: str) -> None:
    records = [GOOD | {"RTs": times}, GOOD | {"participant": 2, "RTs": [5]}, GOOD | {"participant": 3, "RTs": times}]
    told: list[LeftOut] = []
    path = write(tmp_path / "study.jsonl", records)
    found = list(read_transcripts(config(path), on_left_out=told.append))
    assert [t.reaction_times_ms for t in found] == [None, (5.0,), None]
    assert told == [LeftOut("study", "reaction times", reason, 2)]
    assert str(told[0]) == f"study: reaction times of 2 participants left out: {reason}"


def test_a_whole_number_is_an_id_as_it_is_written(tmp_path: Path) -> None:
    assert [one(tmp_path, participant=number).participant for number in (0.0, 0, 12.0, -3)] == [
        "0.0",
        "0",
        "12.0",
        "-3",
    ]


def test_what_comes_before_the_bad_record_is_read(tmp_path: Path) -> None:
    stream = read_transcripts(config(write(tmp_path / "study.jsonl", [GOOD, b"x"])))
    assert next(stream).participant == "1"
    with pytest.raises(TranscriptError, match=r"line 2: not JSON"):
        next(stream)


def test_skipping_works_without_a_listener(tmp_path: Path) -> None:
    path = write(tmp_path / "study.jsonl", [b"x", GOOD])
    assert len(read(path, on_error=OnError.skip)) == 1


def test_a_message_is_one_line_whatever_the_names(tmp_path: Path) -> None:
    path = write(tmp_path / "two\nlines\u2028\x85.jsonl", [b"x"])
    with pytest.raises(TranscriptError) as raised:
        read(path)
    assert len(str(raised.value).splitlines()) == 1
    assert r"two\nlines\u2028\x85.jsonl line 1" in str(raised.value)


def test_a_line_beyond_the_limit_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", 200)
    monkeypatch.setattr(json_lines, "CHUNK_BYTES", 64)
    long = [GOOD | {"text": "x" * n} for n in (201, 1000, 5000)]
    path = write(tmp_path / "study.jsonl", [GOOD, *long, GOOD | {"participant": 2}, GOOD | {"text": "x" * 500}])
    kept, skipped = skipping(path)
    assert [t.participant for t in kept] == ["1", "2"]
    assert [r.where.rpartition(" ")[2] for r in skipped] == ["2", "3", "4", "6"]
    assert {r.reason for r in skipped} == {"the line is longer than 200 bytes"}


def test_a_line_just_within_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "study.jsonl", [GOOD])
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", path.stat().st_size)
    assert len(read(path)) == 1
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", path.stat().st_size - 1)
    with pytest.raises(TranscriptError, match="the line is longer than"):
        skipping(path)


def test_reasons_are_told_where_no_response_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = [b"x", GOOD | {"text": "<<"}, *[b"[]"] * 5]
    for name, content in (("bad", bad), ("without", [GOOD | {"text": "none"}, *bad])):
        path = write(tmp_path / f"{name}.jsonl", content)
        with pytest.raises(TranscriptError) as raised:
            skipping(path)
        message, first = str(raised.value), len(content) - len(bad) + 1
        assert message.startswith("transcripts.on_error=skip skipped 7 records, and no response is left: ")
        assert f"{path} line {first}: not JSON" in message
        assert f"{path} line {first + 1}: `text`, character 0" in message
        assert message.endswith("; and 2 more")
        assert len(message.splitlines()) == 1
    monkeypatch.setattr(skipping_module, "MAX_SKIPPED", 6)
    with pytest.raises(TranscriptError, match="with it more than 6 records are bad; check"):
        skipping(path)


def test_a_good_record(tmp_path: Path) -> None:
    transcript = one(tmp_path, participant=7, RTs=[12], age=31, true_nll_nats=[0.5])
    assert transcript == Transcript(
        study="study",
        experiment="demo/1",
        participant="7",
        text="You press <<A>>.",
        metadata={"age": "31.0"},
        reaction_times_ms=(12.0,),
        true_nll_nats=(0.5,),
        is_psych101=False,
    )


def test_no_response_is_fine(tmp_path: Path) -> None:
    assert one(tmp_path, text="Nothing was asked.").responses == ()
    assert one(tmp_path, text="Nothing was asked.", RTs=[]).reaction_times_ms is None


def test_reaction_times(tmp_path: Path) -> None:
    text = "<<a>>" * 8
    times = one(tmp_path, text=text, RTs=[1, 2.5, "3", None, float("nan"), "", "N/A", -4]).reaction_times_ms
    assert times == (1.0, 2.5, 3.0, None, None, None, None, None)
    assert one(tmp_path, text=text, RTs=[None] * 8).reaction_times_ms is None
    assert one(tmp_path, text=text, RTs=None).reaction_times_ms is None
    assert one(tmp_path, text=text).reaction_times_ms is None


def test_metadata_is_what_is_known_of_the_participant(tmp_path: Path) -> None:
    known = {"age": 37.5, "FACSIMILE A/D": -0.5, "gender": "féminin", "left_handed": False}
    unknown = {"nationality": "N/A", "education": "", "IUS": None, "RRQ": float("nan")}
    per_response = {"attention": [1, 2], "extra": {"a": 1}}
    bookkeeping = {"is_psych101": True, "is_psych101_test": False, "participant_reindexed": "0", "in_eval": True}
    metadata = one(tmp_path, **known, **unknown, **per_response, **bookkeeping).metadata
    assert metadata == {"age": "37.5", "FACSIMILE A/D": "-0.5", "gender": "féminin", "left_handed": "False"}


def test_blank_lines_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    lines = [b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r", b"\r", b"  ", json.dumps(GOOD | {"age": 1}).encode()]
    path = write(tmp_path / "study.jsonl", lines)
    assert [dict(t.metadata) for t in read(path)] == [{}, {"age": "1.0"}]
    path.write_bytes(b"\xef\xbb\xbf\n" + json.dumps(GOOD).encode())
    assert len(read(path)) == 1


def test_exact_repeats_are_numbered_over_the_whole_source(tmp_path: Path) -> None:
    other = GOOD | {"age": 3}
    path = write(tmp_path / "study.jsonl", [GOOD, other, GOOD, GOOD | {"RTs": [4]}, other, GOOD | {"participant": "1"}])
    transcripts = read(path)
    assert [t.copy for t in transcripts] == [0, 1, 2, 3, 4, 5]  # metadata and reaction times make no other transcript
    assert len({t.id for t in transcripts}) == 6
    assert [t.id for t in read(path, limit=3)] == [t.id for t in transcripts[:3]]
