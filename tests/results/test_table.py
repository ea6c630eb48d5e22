"""The table is what its log lists: no copied, lost, damaged or doubled file changes a row of it unnoticed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from support_table import DAMAGE, TASK, assert_damage_is_told, committed, people, recovered, responses, silent, written

from psych_ray.errors import ResultsError
from psych_ray.results.catalogue import catalogue
from psych_ray.results.lease import hold_lease
from psych_ray.results.log import ResponsesLog, TakenOverError
from psych_ray.results.parts import checksum
from psych_ray.results.schema import Part
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import LocalStore, ResultsStore, open_store
from psych_ray.results.table import open_table
from psych_ray.transcripts.record import Transcript


@pytest.fixture
def store(tmp_path) -> ResultsStore:
    return open_store(str(tmp_path / "root"))


def path(store: ResultsStore, part: Part) -> Path:
    return Path(store.location) / str(part.name)


def files(store: ResultsStore) -> set[str]:
    return {file.name for file in store.files("responses") if file.name.endswith(".parquet")}


def test_what_is_written_belongs_to_the_table_once_it_is_committed(store):
    refs = people(store)
    with open_table(store, "test", say=silent) as table:
        first, second = written(store, refs[:3], "u1"), written(store, refs[3:], "u2")
        table.commit([first])
        assert responses(store).height == 6
        table.commit([second])
    rows = responses(store)
    assert rows.height == 16
    assert rows.unique(["transcript", "response"]).height == 16
    assert Snapshot.read(store).committed == {TASK: {ref.id for ref in refs}}


def test_a_transcript_is_committed_once_however_often_it_was_scored(store):
    refs = people(store)
    with open_table(store, "test", say=silent) as table:
        table.commit([written(store, refs[:4], "u1")])
        table.commit([written(store, refs[2:6], "u2"), written(store, refs[4:], "u3"), written(store, refs[6:], "u4")])
        table.commit([written(store, refs[:4], "u1", condition="chat")])
    assert Snapshot.read(store).tasks.keys() == {TASK, ("a", "chat")}
    rows = responses(store)
    assert rows.height == 16 + 8
    assert rows.unique(["transcript", "response", "condition"]).height == rows.height
    assert len(files(store)) == 3, "what was superseded is removed, so that a plain glob reads the same"


def test_a_commit_that_failed_can_be_repeated_and_nothing_is_removed(store, monkeypatch):
    part = None
    with open_table(store, "test", say=silent) as table:
        part = written(store, people(store))
        with monkeypatch.context() as patched:
            patched.setattr(LocalStore, "write", lambda *_: (_ for _ in ()).throw(ResultsError("no space left")))
            with pytest.raises(ResultsError, match="no space left"):
                table.commit([part])
        table.commit([part])
        table.commit([part])
    assert responses(store).height == 16
    assert files(store) == {str(part.name)}


def test_whole_parts_that_no_driver_committed_are_committed_once(store):
    parts = committed(store)
    refs = people(store, 20)
    new = written(store, refs[8:11], "u9")
    again = written(store, refs[8:10], "u10")
    old = written(store, refs[:2], "u0again")
    foreign = Path(store.location) / "responses/checkpoint=a/condition=plain/notes.txt"
    foreign.write_text("mine")
    assert recovered(store) == []
    assert not path(store, old).exists(), "its transcripts were committed before"
    assert path(store, new).exists() != path(store, again).exists()
    rows = responses(store)
    assert rows.unique(["transcript", "response"]).height == rows.height
    assert rows.height in {16 + 6, 16 + 4}
    assert foreign.read_text() == "mine"
    assert {str(part.name) for part in parts} < files(store)


def test_parts_that_do_not_belong_are_left_out_and_told(store):
    committed(store)
    refs = people(store, 20)
    other = open_store(f"{store.location}-other")
    elsewhere = [Transcript(study="x", experiment="e", participant="p", text="<<A>>", true_nll_nats=(1.0,))]
    parts = {
        "other settings": written(store, refs[8:9], "u11", dtype="bfloat16"),
        "other weights of that name": written(store, refs[9:10], "u12", fingerprint="g"),
        "transcripts that are not in sources/": written(other, catalogue(other, elsewhere), "u13"),
    }
    shutil.copy(path(other, parts["transcripts that are not in sources/"]), Path(store.location) / "responses")
    alien = parts["transcripts that are not in sources/"]
    shutil.copy(path(other, alien), path(store, alien))
    before = responses(store)
    lines = recovered(store)
    assert len(lines) == 3
    for reason, part in parts.items():
        assert any(str(part.name) in line and reason in line for line in lines)
        assert path(store, part).exists(), "it may be somebody's"
    assert responses(store).equals(before)


@pytest.mark.parametrize("kind", DAMAGE)
def test_no_change_of_a_file_changes_the_table_silently(kind, store):
    rng = np.random.default_rng(3)
    for _ in range(6):
        shutil.rmtree(store.location, ignore_errors=True)
        assert_damage_is_told(store, kind, rng)


def test_a_second_process_is_refused_and_told_who_writes(store):
    with (
        open_table(store, "psych-ray sweep", say=silent),
        pytest.raises(ResultsError, match=r"is in use by psych-ray sweep of .* \(process \d+"),
        open_table(store, "test", say=silent),
    ):
        pass
    assert recovered(store) == [], "free again"


def test_whoever_was_taken_over_can_commit_nothing(store, monkeypatch):
    refs = people(store)
    monkeypatch.setattr("psych_ray.results.table.hold_lease", _no_lease)
    with open_table(store, "first", say=silent) as late:
        late.commit([written(store, refs[:2], "u1")])
        late_part = written(store, refs[2:4], "u2")
        with open_table(store, "second", say=silent) as table:  # commits u2 as well: it is whole
            table.commit([written(store, refs[4:6], "u3")])
            for _ in range(2):
                with pytest.raises(TakenOverError, match="another psych-ray took over"):
                    late.commit([late_part])
            table.commit([written(store, refs[6:], "u4")])
        with pytest.raises(TakenOverError):
            late.commit([late_part])
    assert responses(store).height == 16


def test_of_many_that_take_over_at_the_same_moment_one_can_commit(store):
    logs = [ResponsesLog(store) for _ in range(6)]
    with open_table(store, "test", say=silent):
        pass
    for log in logs:
        log._table = log._open_or_create()
        log._number = 2
    outcomes = []
    for log in logs:
        try:
            log._write(log._table, [])
            log._advance(log._table)
            outcomes.append("took over")
        except Exception as error:  # noqa: BLE001
            outcomes.append(str(error))
    assert outcomes.count("took over") == 1
    assert sum("Concurrent transaction" in outcome for outcome in outcomes) == 5


def test_a_commit_whose_answer_was_lost_is_found_in_the_log(store, monkeypatch):
    with open_table(store, "test", say=silent) as table:
        part = written(store, people(store))
        write, calls = ResponsesLog._write, []

        def lose_the_answer(self, delta, actions) -> None:
            write(self, delta, actions)
            calls.append(actions)
            write(self, delta, actions)  # the library's own second attempt

        with monkeypatch.context() as patched:
            patched.setattr(ResponsesLog, "_write", lose_the_answer)
            table.commit([part])
        assert len(calls) == 1
    assert responses(store).height == 16


@pytest.mark.parametrize("content", [b"{", b"\0" * 100, b'{"add":{}}\n', b"[]"])
def test_a_damaged_log_is_one_line_that_names_the_way_out(store, content):
    committed(store)
    (Path(store.location) / "responses/_delta_log/00000000000000000002.json").write_bytes(content)
    with pytest.raises(ResultsError, match=r"_delta_log: .* verify repair=true") as error:
        Snapshot.read(store)
    assert "\n" not in str(error.value)


def test_a_full_disk_at_a_commit_is_said(store, monkeypatch):
    arrow = "\n   \x1b[31m↳\x1b[0m "
    said = f"Generic LocalFileSystem error{arrow}Unable to copy{arrow}No space left on device\n"
    with open_table(store, "test", say=silent) as table:
        part = written(store, people(store))
        with monkeypatch.context() as patched:
            patched.setattr(ResponsesLog, "_write", lambda *_: (_ for _ in ()).throw(OSError(said)))
            with pytest.raises(
                ResultsError, match=r"\(Generic LocalFileSystem error: Unable .*: No space left on device\)"
            ):
                table.commit([part])
        table.commit([part])
    assert responses(store).height == 16


def test_parts_of_an_earlier_version_are_taken_into_the_log(store):
    refs = people(store)
    part = written(store, refs, "u1")
    path(store, part).rename(path(store, part).with_name("u1.parquet"))
    assert recovered(store) == []
    assert files(store) == {str(part.name)}
    assert responses(store).height == 16


def test_many_files_of_footers_become_one(store, monkeypatch):
    monkeypatch.setattr("psych_ray.results.footers._FILES_AT_MOST", 3)
    refs = people(store)
    with open_table(store, "test", say=silent) as table:
        for k in range(8):
            table.commit([written(store, refs[k : k + 1], f"u{k}")])
    assert len(store.files("footers")) == 8
    expected = Snapshot.read(store)
    recovered(store)
    assert len(store.files("footers")) == 1
    assert Snapshot.read(store) == expected


def test_files_of_footers_stay_few_while_one_process_commits(store, monkeypatch):
    monkeypatch.setattr("psych_ray.results.footers._MERGED_AT_ONCE", 3)
    monkeypatch.setattr("psych_ray.results.table.merge_footers", lambda store, footers: None)
    n_files = []
    with open_table(store, "test", say=silent) as table:
        refs = people(store, 30)
        for k, ref in enumerate(refs):
            table.commit([written(store, [ref], f"u{k}")])
            n_files.append(len(store.files("footers")))
    assert max(n_files) == 2 + 2 + 2
    assert n_files[26] == 1, "27 were merged to 9, 3 and 1"
    monkeypatch.setattr("psych_ray.results.footers.read_part", lambda *_: pytest.fail("its footer was merged"))
    assert [*Snapshot.read(store).committed.values()] == [{ref.id for ref in refs}]


def test_a_file_of_footers_that_is_merged_while_it_is_read_is_no_error(store, monkeypatch):
    committed(store)
    expected = Snapshot.read(store)
    read = LocalStore.read

    def merged_meanwhile(self, name: str) -> bytes:
        if name.startswith("footers/"):
            self.remove([name])
        return read(self, name)

    monkeypatch.setattr(LocalStore, "read", merged_meanwhile)
    assert Snapshot.read(store) == expected
    content = b"no Parquet"
    store.write(f"footers/{checksum(content)}.parquet", content)
    assert Snapshot.read(store) == expected


def test_the_log_says_how_many_rows_a_part_has(store):
    committed(store)
    for file in (Path(store.location) / "responses/_delta_log").glob("*2.json"):
        file.write_text(file.read_text().replace('numRecords\\": 4', 'numRecords\\": 5'))
    with pytest.raises(ResultsError, match="4 rows, its log has 5"):
        Snapshot.read(store)


def test_two_logged_parts_with_the_same_transcript_are_an_error(store):
    (first, *_) = committed(store)
    again = written(store, [ref for ref in people(store) if ref.id in first.footer.transcripts], "u9")
    log = ResponsesLog(store)
    log.take_over()
    log.commit([again])
    with pytest.raises(ResultsError, match="two parts of the table hold the same transcript"):
        Snapshot.read(store)


def _no_lease(*args, **more):
    """A lease that was not seen: only the log refuses then."""
    from contextlib import nullcontext
    from types import SimpleNamespace

    return nullcontext(SimpleNamespace(require=lambda: None))


def test_the_lease_of_a_process_that_is_gone_is_free_at_once(store):
    with hold_lease(store, "test", seconds=60, say=silent):
        holder = json.loads(store.read("lease/holder.json"))
    holder["process"] = 2**22 + 1
    store.write("lease/holder.json", json.dumps(holder).encode())
    assert recovered(store) == []


def test_a_lease_from_the_future_is_taken_over_once_it_was_not_renewed(store):
    with hold_lease(store, "test", seconds=60, say=silent):
        holder = json.loads(store.read("lease/holder.json")) | {"process_space": "of another machine"}
    path = store.local_path("lease/holder.json")
    for content in (json.dumps(holder).encode(), b"damaged", b"[" * 100_000):
        store.write("lease/holder.json", content)
        os.utime(path, (4e9, 4e9))
        waited, said = [], []
        with hold_lease(store, "test", seconds=60, say=said.append, sleep=waited.append):
            assert 60 <= sum(waited) < 70
        assert len(said) == 1


def test_a_log_cannot_have_other_files_removed(store, tmp_path):
    committed(store)
    outside = tmp_path / "outside.parquet"
    outside.write_bytes(b"of another")
    paths = ["../../outside.parquet", str(outside), "checkpoint=a/condition=plain/\0.parquet"]
    paths += [f"../{file.name}" for file in store.files("sources")]
    removals = [{"remove": {"path": path, "deletionTimestamp": 1, "dataChange": True, "size": 1}} for path in paths]
    newest = max(store.local_path("responses/_delta_log").glob("*.json"))
    newest.write_text("\n".join([newest.read_text().strip(), *map(json.dumps, removals)]) + "\n")
    before = store.files("sources")
    assert recovered(store) == []
    assert store.files("sources") == before
    assert outside.read_bytes() == b"of another"


@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir])
def test_what_hides_an_entry_of_the_log_is_named(put, store):
    committed(store)
    newest = max(store.local_path("responses/_delta_log").glob("*.json"))
    newest.unlink()
    put(newest)
    for act in (Snapshot.read, recovered):
        with pytest.raises(ResultsError, match=rf"{newest.name}: is not a regular file; remove it"):
            act(store)
    newest.rmdir() if newest.is_dir() else newest.unlink()
    recovered(store)
    assert len(Snapshot.read(store).parts) == 4
