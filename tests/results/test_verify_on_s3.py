"""Verification, repair and compaction of a root in a bucket."""

from __future__ import annotations

import pytest
from support_roots import complete, rows

from psych_ray.results.compact import Compacted, compact
from psych_ray.results.faults import Remedy
from psych_ray.results.log import ResponsesLog
from psych_ray.results.object_store import ObjectStore
from psych_ray.results.repair import repair
from psych_ray.results.store import ResultsStore, open_store
from psych_ray.results.table import open_table
from psych_ray.results.verify import LOG, verify


@pytest.fixture
def store(server) -> ResultsStore:
    return open_store("s3://bucket/root")


def damage(store: ResultsStore, name: str) -> None:
    content = bytearray(store.read(name))
    content[len(content) // 2] ^= 1
    store.write(name, bytes(content))


def test_a_bucket_is_verified_repaired_and_compacted_as_a_directory_is(store):
    assert isinstance(store, ObjectStore)
    complete(store)
    expected = rows(store)
    assert verify(store).faults == ()
    part, lost = ResponsesLog(store).parts()[:2]
    (source,) = store.files("sources")
    damage(store, str(part.name))
    damage(store, source.name)
    store.remove([str(lost.name)])
    assert {fault.name for fault in verify(store).faults} == {str(part.name), str(lost.name), source.name}
    assert {fault.remedy for fault in repair(store, say=lambda _: None).faults} == {Remedy.sweep}
    assert len(store.files("damaged")) == 2
    complete(store)
    assert verify(store).faults == ()
    assert rows(store).equals(expected)
    with open_table(store, "test", say=pytest.fail) as table:
        assert compact(table) == Compacted(before=6, after=2, damaged=())
    assert rows(store).equals(expected)
    assert verify(store).faults == ()
    store.write(f"{LOG}/{0:020}.json", b"{")
    assert {fault.remedy for fault in verify(store).faults} == {Remedy.remake}
    assert repair(store, say=lambda _: None).faults == ()
    assert rows(store).equals(expected)
