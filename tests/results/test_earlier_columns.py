"""Roots of versions whose parts and log lack the columns that were added later: read, swept on, verified, compacted."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from support_roots import complete, path, rows

from psych_ray.errors import ResultsError
from psych_ray.results import log as log_module
from psych_ray.results import parts as parts_module
from psych_ray.results.compact import compact
from psych_ray.results.log import ResponsesLog
from psych_ray.results.schema import ADDED_LATER, RESPONSES
from psych_ray.results.store import ResultsStore, open_store
from psych_ray.results.table import open_table
from psych_ray.results.verify import verify

EARLIER = pa.schema([column for column in RESPONSES if column.name not in ADDED_LATER])


@pytest.fixture
def store(tmp_path, monkeypatch) -> ResultsStore:
    """Six transcripts under two checkpoints, as an earlier version wrote them."""
    store = open_store(str(tmp_path / "root"))
    write = parts_module._rows
    with monkeypatch.context() as patched:
        patched.setattr(log_module, "RESPONSES", EARLIER)
        patched.setattr(parts_module, "_rows", lambda scored: write(scored).select(EARLIER.names))
        complete(store, 6)
    assert columns_of_log(store) == [*EARLIER.names, "checkpoint", "condition"]
    return store


def columns_of_log(store: ResultsStore) -> list[str]:
    return [column.name for column in DeltaTable(str(path(store, "responses"))).schema().fields]


def faults(store: ResultsStore) -> list[object]:
    return list(verify(store).faults)


def test_it_is_read_and_verified_with_nulls(store):
    found = rows(store)
    assert found.columns == [*RESPONSES.names, "checkpoint", "condition"]
    assert found.height == 2 * 15
    assert found["nll"].null_count() == 2 * 6
    assert all(found[name].null_count() == found.height for name in ADDED_LATER)
    assert faults(store) == []
    assert columns_of_log(store) == [*EARLIER.names, "checkpoint", "condition"]


def test_it_is_swept_on_and_every_reader_finds_the_new_columns(store):
    before = rows(store)
    complete(store, 9)
    after = rows(store)
    earlier = after["transcript"].is_in(before["transcript"].implode())
    assert after.filter(earlier).equals(before)
    new = after.filter(~earlier)
    assert new.height == 2 * 7
    assert new["n_options"].to_list() == [n for _ in "ab" for n in new_options(new)]
    assert set(new["n_options"].drop_nulls()) == {1, 2}
    assert set(columns_of_log(store)) == {*RESPONSES.names, "checkpoint", "condition"}
    by_delta = pl.scan_delta(str(path(store, "responses"))).collect().sort("checkpoint", "transcript", "response")
    assert by_delta["n_options"].equals(after["n_options"])
    assert by_delta["nll"].equals(after["nll"])
    assert faults(store) == []
    assert complete(store, 9) == []


def new_options(new: pl.DataFrame) -> list[int | None]:
    """Of the rows of one checkpoint: A, nothing, and in transcripts of three responses C."""
    lengths = new.filter(checkpoint="a").group_by("transcript", maintain_order=True).len()["len"]
    return [n for length in lengths for n in ([1, None] if length == 2 else [2, None, 2])]


def test_it_is_compacted_and_stays_what_it_is(store):
    complete(store, 9)
    before = rows(store)
    with open_table(store, "test", say=lambda _: None) as table:
        compacted = compact(table)
    assert (compacted.before, compacted.after) == (6, 4)
    assert rows(store).equals(before)
    assert faults(store) == []


def test_a_log_that_lacks_another_column_is_refused(tmp_path, monkeypatch):
    store = open_store(str(tmp_path / "root"))
    fewer = pa.schema([column for column in RESPONSES if column.name != "char_end"])
    with monkeypatch.context() as patched:
        patched.setattr(log_module, "RESPONSES", fewer)
        log = ResponsesLog(store)
        log.take_over()
    with pytest.raises(ResultsError, match="its log describes other columns"):
        ResponsesLog(store).parts()
