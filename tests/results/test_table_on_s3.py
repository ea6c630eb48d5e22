"""The table in a bucket: damaged objects are told as files are, one process writes, and a bucket may be away."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import s3_server
from support_table import DAMAGE, assert_damage_is_told, committed, people, recovered, responses, silent, written

from psych_ray.errors import ResultsError, UnreachableError
from psych_ray.results import lease
from psych_ray.results.lease import hold_lease
from psych_ray.results.object_store import Limits, ObjectStore
from psych_ray.results.store import open_store
from psych_ray.results.table import ResponsesTable, open_table

LIMITS = Limits(connect_s=1, request_s=1, retry_s=1, first_s=0.5)
HOLDER = "lease/holder.json"


@pytest.fixture
def store(server) -> ObjectStore:
    return ObjectStore("s3://bucket/root", limits=LIMITS)


@pytest.mark.parametrize("kind", DAMAGE)
def test_no_change_of_an_object_changes_the_table_silently(kind, store):
    assert_damage_is_told(store, kind, np.random.default_rng(3))


@pytest.mark.slow
def test_a_table_is_written_once_while_a_fifth_of_all_requests_fail(server):
    store = ObjectStore("s3://bucket/root", limits=Limits(connect_s=1, request_s=0.5, retry_s=20))
    server.fail_at_random(s3_server.TRANSIENT, 0.2, seed=1)
    refs = people(store, 12)
    with open_table(store, "test", say=silent) as table:
        for k in range(0, 12, 3):
            table.commit([written(store, refs[k : k + 3], f"u{k}")])
    assert recovered(store) == []
    server.clear_faults()
    rows = responses(store)
    assert rows.height == rows.unique(["transcript", "response"]).height == 24


def test_a_lease_is_told_by_whole_seconds_and_still_held_by_who_renews_it(store, monkeypatch):
    """As seen from another machine, which cannot tell whether the process runs."""
    monkeypatch.setattr(lease, "_process_space", lambda: "")
    with open_table(store, "psych-ray sweep", say=silent, lease_seconds=1) as table:
        for _ in range(3):
            with (
                pytest.raises(ResultsError, match=r"s3://bucket/root is in use by psych-ray sweep of .* \(process \d+"),
                hold_lease(store, "test", seconds=1, say=lambda _: None),
            ):
                pass
        table.require_held()
    assert not store.exists(HOLDER)


@pytest.mark.parametrize("machine", ["this", "another"])
def test_the_lease_of_a_process_that_was_killed_is_taken_over(machine, store):
    with hold_lease(store, "test", seconds=60, say=silent):
        holder = json.loads(store.read(HOLDER))
    holder |= {"process": 2**22 + 1} if machine == "this" else {"process_space": ""}
    store.write(HOLDER, json.dumps(holder).encode())
    lines: list[str] = []
    with hold_lease(store, "test", seconds=1, say=lines.append):
        assert json.loads(store.read(HOLDER))["id"] != holder["id"]
    assert ["waiting to learn whether it still is" in line for line in lines] == [True] * (machine == "another")


@pytest.mark.slow
def test_a_bucket_that_is_away_is_waited_for_as_long_as_the_settings_say(store, server):
    refs = people(store)
    with open_table(store, "test", say=silent, lease_seconds=1, unreachable_seconds=4) as table:
        server.is_gone, began = True, time.monotonic()
        with pytest.raises(UnreachableError):
            written(store, refs)
        table.require_held()
        server.is_gone = False
        table.commit([written(store, refs[:4])])
        server.is_gone, began = True, time.monotonic()
        with pytest.raises(ResultsError, match=r"does not answer, for \d+ s; given up, the same command continues"):
            _require_for(table, 20)
        assert 2 < time.monotonic() - began < 8  # counted from the last answer
        began = time.monotonic()
    assert time.monotonic() - began < 4, "the lease is left to the next process"
    server.is_gone = False
    store.remove([HOLDER])  # by its number, this process seems to be one that still sweeps
    assert recovered(store) == []
    assert responses(store).height == 8


def _require_for(table: ResponsesTable, seconds: float) -> None:
    """Do what the driver does between two outcomes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        table.require_held()
        time.sleep(0.05)


def test_a_wrong_address_is_told_soon(server):
    server.fail_at_random([server.stall], 1)
    began = time.monotonic()
    with pytest.raises(UnreachableError, match=rf"{server.url} does not answer, for \d s: check .* AWS_ENDPOINT_URL"):
        ObjectStore("s3://bucket/root", limits=LIMITS).require_answer()
    assert time.monotonic() - began < 2
    server.clear_faults()
    with pytest.raises(ResultsError, match="there is no bucket absent"):
        open_store("s3://absent/root")
    committed(open_store("s3://bucket/root"))
