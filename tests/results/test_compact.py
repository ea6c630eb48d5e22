"""A compaction changes no row, whatever happens meanwhile: it is killed, the store fails, others read."""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from support_roots import Killed, complete, first_part, path, rows, stop_at, transcripts, write_unit

from psych_ray.app.compact import compact as compact_command
from psych_ray.config import Config, ResultsConfig
from psych_ray.errors import ResultsError
from psych_ray.results.catalogue import catalogue
from psych_ray.results.compact import Compacted, compact
from psych_ray.results.log import ResponsesLog
from psych_ray.results.parts import read_part
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import LocalStore, ResultsStore, open_store
from psych_ray.results.table import open_table
from psych_ray.results.verify import verify
from psych_ray.sweep.unit import Unit


@pytest.fixture
def store(whole, tmp_path) -> ResultsStore:
    shutil.copytree(whole, tmp_path / "root")
    return open_store(str(tmp_path / "root"))


def compacted(store: ResultsStore, **limits: int) -> Compacted:
    with open_table(store, "test", say=pytest.fail) as table:
        return compact(table, **limits)


def test_few_parts_hold_the_same_rows_and_say_the_same_of_them(store):
    expected, before = rows(store), Snapshot.read(store)
    assert compacted(store) == Compacted(before=6, after=2, damaged=())
    assert rows(store).equals(expected)
    after = Snapshot.read(store)
    assert after.committed == before.committed
    for task, was in before.tasks.items():
        now = after.tasks[task]
        assert now.rows_by_status == was.rows_by_status
        for study, tally in was.tallies.items():
            assert (now.tallies[study].responses, now.tallies[study].top1) == (tally.responses, tally.top1)
            assert now.tallies[study].nll_nats == pytest.approx(tally.nll_nats, rel=1e-12)
    merged = read_part(store, first_part(store).name).footer
    assert (merged.tokens, merged.seconds, merged.straddling_edges) == (21, 1.5, {"s0": 3})
    assert verify(store).faults == ()
    assert complete(store) == []
    assert Snapshot.read(store) == after, "nothing is to be scored again"
    assert compacted(store) == Compacted(before=2, after=2, damaged=())


def test_a_new_part_is_named_as_the_unit_of_its_transcripts(store):
    refs = {ref.id: ref for ref in catalogue(store, transcripts())}
    compacted(store)
    name = first_part(store).name
    held = read_part(store, name).footer.transcripts
    assert name.unit == Unit("a", "plain", tuple(refs[one] for one in held)).id


def test_parts_stay_below_the_limits(store):
    complete(store, 30)
    expected = rows(store)
    most = max(part.rows for part in ResponsesLog(store).parts())
    done = compacted(store, rows=3 * most)
    assert done.before == 20
    assert 6 <= done.after <= 10
    assert all(part.rows <= 3 * most for part in ResponsesLog(store).parts())
    assert compacted(store, rows=3 * most).after == done.after
    assert rows(store).equals(expected)


def test_what_other_versions_made_is_not_mixed(store, monkeypatch):
    from support_roots import footer

    monkeypatch.setattr("support_roots.footer", lambda *args: footer(*args, versions={"torch": "9"}))
    complete(store, 18)
    assert compacted(store).after == 4
    assert sorted(map(str, Snapshot.read(store).versions)) == ["{'torch': '9'}", "{}"]


def test_a_part_that_fails_its_check_is_told_and_left(store):
    damaged = first_part(store)
    content = bytearray(path(store, damaged.name).read_bytes())
    content[len(content) // 2] ^= 1
    path(store, damaged.name).write_bytes(content)
    lines, is_well = compact_command(Config(results=ResultsConfig(root=store.location)), say=lambda _: None)
    assert not is_well
    assert str(damaged.name) in lines[0]
    assert "verify repair=true" in lines[0]
    assert path(store, damaged.name).read_bytes() == content
    left = ResponsesLog(store).parts()
    assert damaged in left
    assert len(left) == 3


def test_replaced_files_stay_for_readers_and_are_removed_later(store, monkeypatch):
    expected = rows(store)
    config = Config(results=ResultsConfig(root=store.location))
    lines, is_well = compact_command(config, say=lambda _: None)
    assert is_well
    assert "2 parts instead of 6" in lines[0]
    assert "1 h" in lines[1]
    assert "not by a glob" in lines[1]
    everything = f"{store.location}/responses/**/*.parquet"
    assert pl.scan_parquet(everything).select(pl.len()).collect().item() == 2 * expected.height
    assert complete(store) == []
    assert len(store.files("responses")) > 8
    monkeypatch.setattr("psych_ray.results.table.KEPT_HOURS", 0)
    assert complete(store) == []
    found = pl.scan_parquet(everything, hive_partitioning=True).collect()
    assert found.select(expected.columns).sort("checkpoint", "transcript", "response").equals(expected)
    with pytest.raises(ResultsError, match="no responses there yet"):
        compact_command(Config(results=ResultsConfig(root=f"{store.location}/none")), say=pytest.fail)
    assert not Path(f"{store.location}/none").exists()


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_moment_nothing_is_lost_or_doubled(whole, tmp_path, after):
    expected = rows(open_store(str(whole)))
    for call in itertools.count(1):
        root = tmp_path / str(call)
        shutil.copytree(whole, root)
        store = open_store(str(root))
        with open_table(store, "test", say=pytest.fail) as table, pytest.MonkeyPatch.context() as patched:
            calls = stop_at(patched, call, after=after)
            try:
                compact(table)
            except Killed:
                pass
            else:
                break
        assert rows(store).equals(expected), calls
        assert compacted(store).after == 2
        assert rows(store).equals(expected), calls
        assert verify(store).faults == ()
    assert call > 8


def test_a_store_that_fails_leaves_the_table_as_it_was(store, monkeypatch):
    expected = rows(store)
    with open_table(store, "test", say=pytest.fail) as table:
        with monkeypatch.context() as patched:
            patched.setattr(LocalStore, "write", lambda *_: (_ for _ in ()).throw(ResultsError("no space left")))
            with pytest.raises(ResultsError, match="no space left"):
                compact(table)
        assert rows(store).equals(expected)
        assert compact(table).after == 2


def test_only_what_is_in_the_table_can_be_replaced(store):
    refs = catalogue(store, transcripts(12))
    with open_table(store, "test", say=pytest.fail) as table:
        other, first = write_unit(store, "a", refs[9:]), read_part(store, first_part(store).name)
        for new, old in ((other, [first]), (other, [other])):
            with pytest.raises(ResultsError, match="does not hold what it was to replace"):
                table.replace(new, old)


def test_who_reads_meanwhile_reads_the_same_rows(tmp_path):
    store = open_store(str(tmp_path / "root"))
    complete(store, 60, per_unit=2)
    expected = rows(store)
    stop, reads, differing = threading.Event(), [0, 0], []

    def read(reader: int) -> None:
        while not stop.is_set():
            try:
                if not rows(store).equals(expected):
                    differing.append("other rows")
            except Exception as error:  # noqa: BLE001
                differing.append(str(error))
            reads[reader] += 1

    readers = [threading.Thread(target=read, args=(k,)) for k in range(2)]
    for reader in readers:
        reader.start()
    while min(reads) < 2:
        time.sleep(0.01)
    compacted(store, rows=20)
    before = list(reads)
    while min(now - then for now, then in zip(reads, before, strict=True)) < 2:
        time.sleep(0.01)
    stop.set()
    for reader in readers:
        reader.join()
    assert differing == []


def test_a_killed_process_loses_nothing(tmp_path):
    store = open_store(str(tmp_path / "root"))
    complete(store, 120, per_unit=2)
    expected = rows(store)
    n_files = len(store.files("responses"))
    code = (
        "import sys, time; from psych_ray.results.store import open_store\n"
        "from psych_ray.results.table import open_table\n"
        "from psych_ray.results import compact\n"
        "written = compact.write_table\n"
        "compact.write_table = lambda *args: (time.sleep(0.02), written(*args))[1]\n"
        "with open_table(open_store(sys.argv[1]), 'test', say=print) as table: compact.compact(table, rows=12)"
    )
    rng = np.random.default_rng()
    process = subprocess.Popen([sys.executable, "-c", code, store.location])
    while len(store.files("responses")) < n_files + 6 and process.poll() is None:
        time.sleep(0.001)
    time.sleep(rng.random() / 20)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert rows(store).equals(expected)
    assert len(ResponsesLog(store).parts()) < 120, "it was killed in the middle"
    done = compacted(store)
    assert done.before > done.after == 2
    assert rows(store).equals(expected)
    assert verify(store).faults == ()
