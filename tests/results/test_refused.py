"""What was not scored is kept by study and reason, beside what other sweeps kept, and is checked when it is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from psych_ray.errors import ResultsError
from psych_ray.results import refused as module
from psych_ray.results.refused import REFUSED, Refusal, read_refused, refusals, write_refused
from psych_ray.results.store import open_store
from psych_ray.transcripts.sources import LeftOut, Skipped


def test_reasons_that_differ_in_numbers_and_quoted_words_are_one():
    skipped = [
        Skipped("f line 3", "`text`, character 12: `<<` inside the response opened at 9", "b"),
        Skipped("f line 1,000", "`text`, character 1,412: `<<` inside the response opened at 1,309", "b"),
        Skipped("f line 4", "`true_nll_nats` entry 0 is 'a 1', not a number", "b"),
        Skipped("g", "is a zip that cannot be read (File is not a zip file)", "a", is_file=True),
        Skipped("h row 1", "`study` is missing"),
    ]
    left = [LeftOut("b", "reaction times", "`RTs` has not one entry for each response", 7)]
    assert refusals(skipped, left) == [
        Refusal("", "transcripts", "`study` is missing", 1, "h row 1: `study` is missing"),
        Refusal("a", "files", skipped[3].reason, 1, f"g: {skipped[3].reason}"),
        Refusal(
            "b",
            "transcripts",
            "`text`, character …: `<<` inside the response opened at …",
            2,
            f"f line 3: {skipped[0].reason}",
        ),
        Refusal("b", "transcripts", "`true_nll_nats` entry … is …, not a number", 1, f"f line 4: {skipped[2].reason}"),
        Refusal("b", "reaction times", "`RTs` has not one entry for each response", 7, ""),
    ]


def test_reasons_of_a_study_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_REASONS", 3)
    found = refusals([Skipped("f", f"reason {'x' * k}", "s") for k in range(10)], [])
    assert [(one.reason, one.n) for one in found] == [
        ("reason ", 1),
        ("reason x", 1),
        ("reason xx", 1),
        ("other reasons", 7),
    ]


def test_a_sweep_replaces_what_it_read_and_keeps_the_rest(tmp_path: Path):
    store = open_store(str(tmp_path))
    write_refused(store, [], studies={"a"})
    assert not store.exists(REFUSED)
    a, b, unknown = (Refusal(study, "transcripts", "r", 2, "e") for study in ("a", "b", ""))
    write_refused(store, [b, unknown, a], studies={"a", "b"})
    assert read_refused(store) == [unknown, a, b]
    write_refused(store, [], studies={"b"})
    assert read_refused(store) == [a]
    write_refused(store, [], studies={"a"})
    assert read_refused(store) == []


def test_a_damaged_file_is_one_line_and_is_written_again(tmp_path: Path):
    store, one = open_store(str(tmp_path)), Refusal("a", "transcripts", "r", 2, "e")
    write_refused(store, [one], studies={"a"})
    content = json.loads(store.read(REFUSED))
    content["rows"][0]["n"] = 3
    rows = [{"study": 1}]
    for changed in (
        b"",
        b"{",
        b"[]",
        json.dumps(content).encode(),
        json.dumps({"rows": rows, "checksum": module._checksum(rows)}).encode(),
    ):
        store.write(REFUSED, changed)
        with pytest.raises(ResultsError, match=r"refused.json: damaged \(.*\); the sweep's command writes it again$"):
            read_refused(store)
    write_refused(store, [one], studies={"a"})
    assert read_refused(store) == [one]
