"""A part is whole or absent, holds exactly the promised columns, and anything that reads Parquet reads it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from support_table import commit, write_part

from psych_ray.errors import ResultsError
from psych_ray.results.log import ResponsesLog
from psych_ray.results.parts import NoPartError, check_part, read_part, responses_table
from psych_ray.results.reading import open_responses
from psych_ray.results.schema import RESPONSES, CheckpointFacts, Footer, PartName, ScoringIdentity, Tally
from psych_ray.results.store import open_store
from psych_ray.scoring.calibration import COLUMNS, NLL_AT, OF_OPTIONS
from psych_ray.scoring.scored import ScoredTranscript
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.status import Status

HERE = Path(__file__).parent
TEXT = "You press <<A>>. You say <<>>. Then <<two words>>, and <<B>>."


def scored(participant: str = "1", study: str = "study/with=odd characters", text: str = TEXT) -> ScoredTranscript:
    transcript = Transcript(study=study, experiment="../exp1.csv", participant=participant, text=text)
    return ScoredTranscript(
        transcript,
        n_tokens_R=np.array([1, 0, 2, 0], np.int32),
        nll_R=np.array([0.5, np.nan, 7.25, np.nan], np.float32),
        top1_R=np.array([True, False, False, False]),
        status_R=np.array([s.code for s in (Status.scored, Status.empty, Status.scored, Status.cut)], np.int8),
        tokens_read=20,
        straddling_edges=1,
    )


def footer(unit: str = "u1", slug: str = "Qwen--Qwen3-8B-Base", condition: str = "plain") -> Footer:
    return Footer(
        unit=unit,
        condition=condition,
        checkpoint=CheckpointFacts(slug=slug, id="Qwen/Qwen3-8B-Base", fingerprint="f", size_b=8.0, stage="base"),
        scoring=ScoringIdentity(dtype="float32", cut="tokens", cut_at=None, parity=False),
        engine="transformers",
        versions={"torch": "2"},
    )


def test_rows_are_the_promised_columns(tmp_path):
    store = open_store(str(tmp_path))
    part = write_part(store, [scored("1"), scored("2")], footer())
    table = pq.read_table(tmp_path / str(part.name), partitioning=None)
    assert table.schema.remove_metadata() == RESPONSES
    rows = table.to_pylist()
    assert len(rows) == 8
    assert [r["participant"] for r in rows] == ["1"] * 4 + ["2"] * 4
    assert [r["response"] for r in rows] == [0, 1, 2, 3] * 2
    assert [r["status"] for r in rows[:4]] == ["scored", "empty", "scored", "cut"]
    assert [r["nll"] for r in rows[:4]] == [0.5, None, 7.25, None]
    assert [r["top1"] for r in rows[:4]] == [True, None, False, None]
    assert [r["n_options"] for r in rows[:4]] == [2, None, None, 2]
    assert {r[name] for r in rows for name in COLUMNS} == {None}
    assert [TEXT[r["char_start"] : r["char_end"]] for r in rows[:4]] == ["A", "", "two words", "B"]
    assert rows[0]["transcript"] != rows[4]["transcript"], "equal texts of different participants stay apart"


def test_columns_of_calibration_are_null_where_there_is_no_number(tmp_path):
    calibration_RC = np.full((4, len(COLUMNS)), np.nan, np.float32)
    calibration_RC[0] = np.arange(len(COLUMNS)) / 16
    calibration_RC[2, : len(NLL_AT)] = 1.5
    store = open_store(str(tmp_path))
    part = write_part(store, [replace(scored(), calibration_RC=calibration_RC)], footer())
    rows = pq.read_table(tmp_path / str(part.name), partitioning=None).select(COLUMNS).to_pylist()
    assert list(rows[0].values()) == [*(k / 16 for k in range(len(COLUMNS) - 1)), False]
    assert set(rows[1].values()) == set(rows[3].values()) == {None}
    assert [rows[2][name] for name in COLUMNS] == [1.5] * len(NLL_AT) + [None] * len(OF_OPTIONS)


def test_a_scorer_without_arg_max_leaves_top1_null():
    one = scored()
    without = ScoredTranscript(one.transcript, one.n_tokens_R, one.nll_R, None, one.status_R, 0)
    assert responses_table([without])["top1"].null_count == 4


def test_no_rows_make_an_empty_table_of_the_same_schema():
    assert responses_table([]).schema == RESPONSES


def test_polars_and_arrow_read_the_hive_layout_without_us(tmp_path):
    store = open_store(str(tmp_path))
    commit(store, ([scored()], footer()), ([scored("2")], footer("u2", slug="other")))
    frame = pl.scan_parquet(f"{tmp_path}/responses/*/*/*.parquet", hive_partitioning=True).collect()
    assert set(frame["checkpoint"]) == {"Qwen--Qwen3-8B-Base", "other"}
    assert set(frame["condition"]) == {"plain"}
    assert frame.height == 8
    with open_responses(store, ResponsesLog(store).parts()) as responses:
        assert responses.collect().equals(frame)
    dataset = ds.dataset(tmp_path / "responses", partitioning="hive")
    assert dataset.to_table().num_rows == 8
    delta = pl.scan_delta(str(tmp_path / "responses")).collect()
    names = [name for name, dtype in frame.schema.items() if dtype == pl.Categorical]
    assert delta.sort("checkpoint", "response").equals(
        frame.with_columns(pl.col(names).cast(pl.String)).sort("checkpoint", "response")
    )


def test_the_footer_records_what_made_the_part_and_counts_its_rows(tmp_path):
    store = open_store(str(tmp_path))
    written = write_part(store, [scored("1"), scored("2", study="other")], footer())
    assert read_part(store, written.name) == written
    found = written.footer
    assert found.checkpoint == footer().checkpoint
    assert found.scoring == footer().scoring
    assert (found.rows, found.rows_by_status) == (8, {"scored": 4, "empty": 2, "cut": 2})
    assert found.transcripts == [scored("1").transcript.id, scored("2", study="other").transcript.id]
    assert found.tallies == {"study/with=odd characters": Tally(2, 7.75, 1), "other": Tally(2, 7.75, 1)}
    raw = pq.read_metadata(tmp_path / str(written.name)).metadata[b"psych_ray"]
    assert json.loads(raw)["engine"] == "transformers"


def test_a_damaged_part_is_an_error_that_names_it(tmp_path):
    store = open_store(str(tmp_path))
    name = write_part(store, [scored()], footer()).name
    whole = store.read(str(name))
    for damaged in (whole[:-20], whole[:100] + whole[-100:], b""):
        store.write(str(name), damaged)
        with pytest.raises(ResultsError, match=rf"{name}: damaged: {len(damaged):,} bytes"):
            read_part(store, name)


def test_every_flipped_bit_is_found(tmp_path):
    store = open_store(str(tmp_path))
    part = write_part(store, [scored()], footer())
    whole = store.read(str(part.name))
    rng = np.random.default_rng(0)
    for position, bit in zip(rng.integers(len(whole), size=400), rng.integers(8, size=400), strict=True):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(bit)
        with pytest.raises(NoPartError, match="damaged"):
            check_part(part.name, bytes(damaged))


def test_what_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="that is a file"):
        open_store(str(tmp_path / "file"))
    store = open_store(str(tmp_path))
    (tmp_path / "responses").write_text("in the way")
    with pytest.raises(ResultsError, match="cannot be written"):
        write_part(store, [scored()], footer())
    assert not list(tmp_path.rglob(".unfinished-*"))


WRITER = """
import itertools, sys, time
sys.path[:0] = [{here!r}, {above!r}]
from support_table import write_part
from test_parts import footer, scored
from psych_ray.results.store import open_store
store = open_store({root!r})
print("ready", flush=True)
for k in itertools.count():
    write_part(store, [scored(str(k % 7))], footer(f"u{{k % 7}}"))
"""


def test_a_writer_killed_at_any_moment_leaves_whole_parts_only(tmp_path):
    code = WRITER.format(here=str(HERE), above=str(HERE.parent), root=str(tmp_path))
    for delay in (0.005, 0.05, 0.02, 0.11):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(delay)
            writer.send_signal(signal.SIGKILL)
        store = open_store(str(tmp_path))
        names = [PartName.parse(file.name) for file in store.files("responses")]
        for name in names:
            assert name is not None
            assert read_part(store, name).footer.rows == 4
    assert names
    old = time.time() - 7200
    left = tmp_path / "responses/checkpoint=x/.unfinished-1"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    os.utime(left, (old, old))
    store.remove_unfinished()
    assert not left.exists()


@pytest.mark.parametrize("name", ["seed=3", "a[b]*c?", "{a,b}", "100% #x", "~"])
def test_the_path_of_a_root_may_hold_any_character(tmp_path, name):
    store = open_store(str(tmp_path / name))
    part, _ = commit(
        store, ([scored()], footer(slug="2024")), ([scored("2")], footer("u2", slug="2025", condition="chat"))
    )
    with open_responses(store, ResponsesLog(store).parts()) as responses:
        frame = responses.collect()
    assert frame.columns == [*RESPONSES.names, "checkpoint", "condition"]
    assert frame.group_by("checkpoint", "condition").len().sort("checkpoint").rows() == [
        ("2024", "plain", 4),
        ("2025", "chat", 4),
    ]
    assert (tmp_path / name / str(part.name)).is_file()


def test_a_path_that_deltalake_cannot_read_is_refused_in_one_line(tmp_path):
    with pytest.raises(ResultsError, match="100%25: deltalake cannot read"):
        open_store(str(tmp_path / "100%25"))


def test_pandas_reads_it_too(tmp_path):
    pandas = pytest.importorskip("pandas")
    store = open_store(str(tmp_path))
    commit(store, ([scored()], footer()))
    frame = pandas.read_parquet(tmp_path / "responses")
    assert len(frame) == 4
    assert isinstance(pq.read_table(tmp_path / "responses"), pa.Table)
