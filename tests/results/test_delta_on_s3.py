"""What deltalake and polars do with `ObjectStore`'s options: conditional commits, the fence, lost answers, limits.

These are facts of other libraries that the table relies on; a release that changes one fails here.
"""

from __future__ import annotations

import time

import cloud_credentials
import polars as pl
import pyarrow as pa
import pytest
import s3_server
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction
from werkzeug.wrappers import Response

from psych_ray.errors import ResultsError, UnreachableError
from psych_ray.results.object_errors import explain
from psych_ray.results.object_store import Limits, ObjectStore

LIMITS = Limits(connect_s=1, request_s=0.5, retry_s=2)
LOG = "_delta_log"


@pytest.fixture
def store(server) -> ObjectStore:
    store = ObjectStore("s3://bucket/root", limits=LIMITS)
    rows = pa.table({"checkpoint": ["a", "b"], "nll": [1.0, 2.0]})
    write_deltalake(
        f"{store.location}/responses", rows, partition_by=["checkpoint"], storage_options=store.delta_options
    )
    server.requests.clear()
    return store


def open_table(store: ObjectStore) -> DeltaTable:
    return DeltaTable(f"{store.location}/responses", storage_options=store.delta_options)


def commit(table: DeltaTable, name: str, number: int) -> None:
    table.create_write_transaction(
        [AddAction(f"checkpoint=a/{name}.parquet", 10, {"checkpoint": "a"}, 0, True, "{}")],
        mode="append",
        schema=table.schema(),
        partition_by=["checkpoint"],
        commit_properties=CommitProperties(app_transactions=[Transaction("psych_ray", number)]),
    )


def committed(store: ObjectStore) -> tuple[int, int | None]:
    table = open_table(store)
    return table.version(), table.transaction_version("psych_ray")


def test_a_commit_is_one_conditional_put(store, server):
    commit(open_table(store), "one", 1)
    assert server.count("PUT") == server.count("PUT", f"{LOG}/00000000000000000001.json") == 1
    assert committed(store) == (1, 1)
    assert len(open_table(store).file_uris()) == 3


def test_the_second_of_two_writers_with_one_application_is_refused(store):
    first, second = open_table(store), open_table(store)
    commit(first, "first", 1)
    with pytest.raises(CommitFailedError, match="Concurrent transaction failed"):
        commit(second, "second", 2)
    assert committed(store) == (1, 1)


def test_without_conditional_writes_a_commit_would_replace_another(store, server):
    """Why `create` asks whether the store knows them: deltalake does not."""
    first, second = open_table(store), open_table(store)

    def meanwhile(request: s3_server.Request) -> Response:
        commit(first, "first", 1)
        return s3_server.ignore_conditions(request)

    server.fail(meanwhile, "PUT", LOG)
    commit(second, "second", 2)
    assert committed(store) == (1, 2)
    assert not any("first" in uri for uri in open_table(store).file_uris())


def test_a_commit_whose_answer_was_lost_is_there_and_raises_os_error(store, server):
    server.fail(s3_server.lose_answer, "PUT", LOG)
    with pytest.raises(OSError, match="error sending request") as raised:
        commit(open_table(store), "one", 1)
    assert committed(store) == (1, 1), "only reading the table again tells"
    told = explain(raised.value, f"{store.location}/responses", "committed", 0)
    assert isinstance(told, UnreachableError)
    assert str(told) == f"s3://bucket/root/responses: cannot be committed: {server.url} does not answer, for 0 s"


def test_a_commit_that_never_arrived_raises_the_same(store, server):
    server.fail(s3_server.reset, "PUT", LOG)
    with pytest.raises(OSError, match="error sending request"):
        commit(open_table(store), "one", 1)
    assert committed(store) == (0, None)
    assert server.count("PUT", LOG) == 1, "deltalake does not repeat a conditional write that got no answer"


def test_a_commit_that_was_carried_out_before_a_server_error_looks_like_that_of_another(store, server):
    server.fail(s3_server.carry_out_and_fail, "PUT", LOG)
    with pytest.raises(CommitFailedError, match="Concurrent transaction failed"):
        commit(open_table(store), "one", 1)
    assert committed(store) == (1, 1)
    assert any("one" in uri for uri in open_table(store).file_uris())


def test_a_commit_is_repeated_while_requests_are_limited(store, server):
    server.fail(s3_server.status(503, "SlowDown"), "PUT", LOG, times=2)
    commit(open_table(store), "one", 1)
    assert committed(store) == (1, 1)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("stall", "http://127.0.0.1:\\d+ does not answer"),
        (s3_server.status(503, "SlowDown"), r"the store limits requests \(503 SlowDown\)"),
    ],
)
def test_opening_a_table_ends_within_the_limits(fault, said, store, server):
    server.fail(server.stall if fault == "stall" else fault, times=1000)
    started = time.monotonic()
    with pytest.raises(OSError) as raised:
        open_table(store)
    assert time.monotonic() - started < LIMITS.retry_s + 3 * LIMITS.request_s
    with pytest.raises(UnreachableError, match=f"responses: cannot be read: {said}"):
        raise explain(raised.value, f"{store.location}/responses", "read", LIMITS.retry_s)


def test_what_deltalake_is_refused_is_explained_as_the_store_does(store, server):
    server.fail(s3_server.status(403, "SignatureDoesNotMatch"), times=1000)
    with pytest.raises(OSError) as raised:
        open_table(store)
    with pytest.raises(ResultsError, match="the secret key is not that of the access key"):
        raise explain(raised.value, f"{store.location}/responses", "read", 0)


def test_polars_reads_the_table_with_the_same_options(store, server):
    table = open_table(store)
    server.fail(s3_server.status(503, "SlowDown"), "GET", ".parquet", times=2)
    assert pl.scan_delta(table).collect().height == 2


def test_deltalake_uses_the_same_profile(store, server, monkeypatch, tmp_path):
    cloud_credentials.use_profile(monkeypatch, tmp_path)
    again = ObjectStore(store.location, limits=LIMITS)
    server.signed_by.clear()
    assert open_table(again).version() == 0
    assert server.signed_by == {"LABKEY eu-central-1"}
