"""Whatever is wrong with a results root is named, dropped by a repair, and scored again to the same table."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from support_roots import (
    Killed,
    complete,
    counts,
    first_part,
    footer,
    forge,
    path,
    rows,
    stop_at,
    transcripts,
    write_unit,
)

from psych_ray.app.verify import verify as verify_command
from psych_ray.config import Config, ResultsConfig
from psych_ray.errors import ResultsError
from psych_ray.results.catalogue import SOURCES, catalogue
from psych_ray.results.compact import compact
from psych_ray.results.faults import Remedy
from psych_ray.results.footers import write_footers
from psych_ray.results.lease import hold_lease
from psych_ray.results.log import ResponsesLog
from psych_ray.results.parts import checksum, read_part, to_parquet
from psych_ray.results.repair import repair
from psych_ray.results.schema import Part
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import LocalStore, ResultsStore, open_store
from psych_ray.results.table import open_table
from psych_ray.results.verify import verify
from psych_ray.transcripts.record import Transcript


@pytest.fixture
def store(whole, tmp_path) -> ResultsStore:
    shutil.copytree(whole, tmp_path / "root")
    return open_store(str(tmp_path / "root"))


def flip(file: Path, seed: int = 1) -> None:
    rng = np.random.default_rng(seed)
    content = bytearray(file.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    file.write_bytes(bytes(content))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def the_part(store: ResultsStore) -> Path:
    return path(store, first_part(store).name)


def only(folder: str) -> Callable[[ResultsStore], Path]:
    def find(store: ResultsStore) -> Path:
        return max(path(store, folder).iterdir())

    return find


def commit_of_parts(store: ResultsStore) -> Path:
    return path(store, "responses/_delta_log/00000000000000000002.json")


def exchange(store: ResultsStore) -> Path:
    first, second, *_ = (path(store, part.name) for part in ResponsesLog(store).parts())
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    return first


def another_root(store: ResultsStore) -> Part:
    other = open_store(f"{store.location}-other")
    refs = catalogue(
        other, [Transcript(study="x", experiment="e", participant="p", text="<<A>>", true_nll_nats=(1.0,))]
    )
    part = write_unit(other, "a", refs)
    shutil.copy(path(other, part.name), path(store, part.name))
    return part


def on(find: Callable[[ResultsStore], Path], change: Callable[[Path], object]) -> Callable[[ResultsStore], Path]:
    def damage(store: ResultsStore) -> Path:
        file = find(store)
        change(file)
        return file

    return damage


DAMAGE = {
    "part emptied": on(the_part, lambda file: file.write_bytes(b"")),
    "part truncated": on(the_part, truncate),
    "part flipped": on(the_part, flip),
    "part missing": on(the_part, Path.unlink),
    "parts exchanged": exchange,
    "part of another root": lambda store: path(store, another_root(store).name),
    "part copied to another task": lambda store: _copied(store, "checkpoint=b", the_part(store).name),
    "part copied beside itself": lambda store: _copied(store, "checkpoint=a", "copy.parquet"),
    "commit emptied": on(commit_of_parts, lambda file: file.write_bytes(b"")),
    "commit truncated": on(commit_of_parts, truncate),
    "commit deleted": on(commit_of_parts, Path.unlink),
    "commit without an add": on(commit_of_parts, lambda file: _replaced(file, '{"add"', '{"bdd"')),
    "commit of another size": on(commit_of_parts, lambda file: _replaced(file, '"size":', '"size":1')),
    "commit of other counts": on(commit_of_parts, lambda file: _replaced(file, 'numRecords\\": ', 'numRecords\\": 1')),
    "commit of another task": on(commit_of_parts, lambda file: _replaced(file, '"checkpoint":"a"', '"checkpoint":"c"')),
    "first commit deleted": on(lambda store: only_commit(store, 0), Path.unlink),
    "last commit deleted": on(lambda store: only_commit(store, -1), Path.unlink),
    "columns of the log": on(
        lambda store: only_commit(store, 0),
        lambda file: _replaced(file, 'nll\\",\\"type\\":\\"float', 'nll\\",\\"type\\":\\"double'),
    ),
    "log that forbids removals": on(
        lambda store: only_commit(store, 0),
        lambda file: _replaced(file, '"configuration":{', '"configuration":{"delta.appendOnly":"true",'),
    ),
    "hint of the log": on(
        lambda store: path(store, "responses/_delta_log/_last_checkpoint"),
        lambda file: file.write_bytes(b'{"version":99,"size":3}'),
    ),
    "log gone": on(lambda store: path(store, "responses/_delta_log"), shutil.rmtree),
    "sources flipped": on(only("sources"), flip),
    "sources truncated": on(only("sources"), truncate),
    "sources emptied": on(only("sources"), lambda file: file.write_bytes(b"")),
    "footers flipped": on(only("footers"), flip),
    "footers emptied": on(only("footers"), lambda file: file.write_bytes(b"")),
}


FOUND_BY_PARTS = {
    "commit emptied",
    "commit without an add",
    "commit of another size",
    "commit of other counts",
    "last commit deleted",
}
"""The log is whole, but says another thing."""


def only_commit(store: ResultsStore, index: int) -> Path:
    return sorted(path(store, "responses/_delta_log").glob("*.json"))[index]


def _copied(store: ResultsStore, task: str, name: str) -> Path:
    copy = path(store, f"responses/{task}/condition=plain/{name}")
    shutil.copy(the_part(store), copy)
    return copy


def _replaced(file: Path, old: str, new: str) -> None:
    content = file.read_text()
    assert old in content
    file.write_text(content.replace(old, new, 1))


def assert_repaired(store: ResultsStore, expected, *, names: Path | str) -> None:
    """The damage is named, a repair drops it, and what a sweep then scores makes the table what it was."""
    found = verify(store)
    relative = str(names).removeprefix(f"{store.location}/")
    assert any(
        fault.name.startswith(relative) or relative.startswith(f"{fault.name}/") or relative in fault.what
        for fault in found.faults
    ), found.faults
    lines: list[str] = []
    after = repair(store, say=lines.append)
    assert {fault.remedy for fault in after.faults} <= {Remedy.sweep}
    assert all("\n" not in line for line in lines)
    assert len(lines) >= len(found.faults)
    complete(store)
    assert verify(store).faults == ()
    assert rows(store).equals(expected)


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_damaged_is_named_and_repaired(kind, store):
    expected = rows(store)
    damaged = DAMAGE[kind](store)
    assert_repaired(store, expected, names="responses/checkpoint=" if kind in FOUND_BY_PARTS else damaged)


def test_nothing_is_wrong_with_what_was_written(store):
    found = verify(store)
    assert (found.parts, found.rows, found.transcripts) == (6, rows(store).height, 9)
    assert (found.faults, found.unknown, found.uncommitted, found.replaced) == ((), (), 0, 0)
    before = rows(store)
    assert repair(store, say=pytest.fail) == found
    assert rows(store).equals(before)


def doubled(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table.slice(0, 2)])


def column(name: str, change: Callable) -> Callable[[pa.Table], pa.Table]:
    def changed(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index(name)
        return table.set_column(index, table.schema.field(name), change(table[name]))

    return changed


def renamed(values: pa.ChunkedArray) -> pa.Array:
    return pa.array(["other"] * len(values)).dictionary_encode()


FORGED = {
    "rows twice": doubled,
    "rows twice in order": lambda table: table.take(sorted([*range(len(table)), 0, 1])),
    "a row removed": lambda table: table.slice(0, len(table) - 1),
    "rows in another order": lambda table: table.take([1, 0, *range(2, len(table))]),
    "char_start": column("char_start", lambda values: pc.add(values, pa.scalar(1, pa.int32()))),
    "char_end": column("char_end", lambda values: pc.add(values, pa.scalar(1, pa.int32()))),
    "study": column("study", renamed),
    "participant": column("participant", renamed),
    "status": column("status", renamed),
    "transcript": column("transcript", lambda values: pa.array(list(reversed(values.to_pylist()))).dictionary_encode()),
    "nll null": column("nll", lambda values: pa.nulls(len(values), pa.float32())),
    "nll below 0": column("nll", lambda values: pc.negate(values)),
    "nll infinite": column("nll", lambda values: pc.divide(values, pa.scalar(0, pa.float32()))),
    "n_tokens": column("n_tokens", lambda values: pc.subtract(values, pa.scalar(1, pa.int32()))),
    "type": lambda table: table.set_column(4, "response", table["response"].cast(pa.int64())),
}


@pytest.mark.parametrize("kind", FORGED)
def test_rows_that_do_not_fit_the_sources_are_found_under_a_fitting_name_and_footer(kind, store):
    expected = rows(store)
    changed = FORGED[kind](pq.read_table(the_part(store)))
    assert_repaired(store, expected, names=str(forge(store, FORGED[kind], **counts(changed))))


def test_a_changed_likelihood_is_found_by_the_tallies(store):
    expected = rows(store)
    change = column("nll", lambda values: pc.add(values, pa.scalar(0.5, pa.float32())))
    assert_repaired(store, expected, names=str(forge(store, change)))


@pytest.mark.parametrize(
    "change",
    [
        {"scoring": {"dtype": "bfloat16", "cut": "tokens", "cut_at": None, "parity": False}},
        {"checkpoint": {"fingerprint": "g"}},
    ],
)
def test_a_part_of_other_settings_or_weights_is_dropped(change, store):
    expected = rows(store)
    name = forge(store, lambda table: table, **change)
    assert any("than most rows" in fault.what for fault in verify(store).faults)
    assert_repaired(store, expected, names=str(name))


def test_a_transcript_that_two_parts_of_the_table_hold_is_dropped_from_one(store):
    expected = rows(store)
    refs = catalogue(store, transcripts())
    again = write_unit(store, "a", refs[1:3])
    log = ResponsesLog(store)
    log.take_over()
    log.commit([again])
    assert_repaired(store, expected, names=f"responses/checkpoint=a/condition=plain/{again.name.unit}")


def test_a_source_text_that_was_changed_is_found_under_a_fitting_name(store):
    expected = rows(store)
    file = only("sources")(store)
    table = pq.read_table(file)
    texts = [text.replace("one", "eins") for text in table["text"].to_pylist()]
    content = to_parquet(table.set_column(8, SOURCES.field("text"), pa.array(texts, pa.large_string())))
    forged = file.with_name(f"{file.name.partition('-')[0]}-{checksum(content)}.parquet")
    file.unlink()
    forged.write_bytes(content)
    assert_repaired(store, expected, names=forged)


def test_sources_that_are_gone_are_told_and_written_again(store):
    expected = rows(store)
    shutil.rmtree(path(store, "sources"))
    (fault,) = verify(store).faults
    assert (fault.name, fault.remedy) == ("sources", Remedy.sweep)
    assert "9 transcripts" in fault.what
    complete(store)
    assert verify(store).faults == ()
    assert rows(store).equals(expected)


def test_a_copy_of_a_footer_that_differs_is_removed(store):
    part = read_part(store, first_part(store).name)
    shutil.rmtree(path(store, "footers"))
    write_footers(
        store,
        [
            Part(
                part.name,
                part.size,
                footer("a", [], rows=part.footer.rows, transcripts=part.footer.transcripts, tallies={}),
            )
        ],
    )
    (fault,) = verify(store).faults
    assert fault.name == "footers"
    assert repair(store, say=lambda _: None).faults == ()


@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_a_file_of_footers_that_psych_ray_cannot_have_written_is_removed(content, store):
    expected = rows(store)
    name = f"footers/{checksum(content)}.parquet"
    store.write(name, content)
    assert_repaired(store, expected, names=path(store, name))


@pytest.mark.parametrize("made_by", ["nonsense", "[]", '{"checkpoint": [], "scoring": {}}', "[" * 100_000])
def test_footers_that_are_no_footers_are_not_read_and_removed(made_by, store):
    expected, known = rows(store), Snapshot.read(store)
    for file in list(path(store, "footers").iterdir()):
        table = pq.read_table(file)
        index = table.schema.get_field_index("made_by")
        content = to_parquet(table.set_column(index, table.schema.field(index), pa.array([made_by] * len(table))))
        file.unlink()
        forged = f"footers/{checksum(content)}.parquet"
        store.write(forged, content)
    assert Snapshot.read(store) == known
    assert_repaired(store, expected, names=path(store, forged))


def test_a_root_of_an_earlier_version_is_repaired_with_all_its_rows(store):
    expected = rows(store)
    for part in ResponsesLog(store).parts():
        file = path(store, part.name)
        file.rename(file.with_name(f"{part.name.unit}.parquet"))
    for folder in ("responses/_delta_log", "footers"):
        shutil.rmtree(path(store, folder))
    (fault,) = verify(store).faults
    assert fault.name == "responses/_delta_log"
    assert repair(store, say=lambda _: None).faults == ()
    assert rows(store).equals(expected)
    assert store.files("damaged") == []


def test_a_log_that_was_made_anew_after_a_compaction_has_every_row_once(store):
    expected = rows(store)
    with open_table(store, "test", say=pytest.fail) as table:
        assert compact(table).after == 2
    assert verify(store).replaced == 6
    shutil.rmtree(path(store, "responses/_delta_log"))
    assert repair(store, say=lambda _: None).parts == 2
    assert rows(store).equals(expected), "nothing is to be scored again"


def test_what_a_running_sweep_is_writing_is_no_fault(store):
    new = write_unit(store, "a", catalogue(store, transcripts(12))[9:])
    (fault,) = verify(store).faults
    assert (fault.name, fault.remedy) == (str(new.name), Remedy.take_in)
    with hold_lease(store, "test", seconds=60, say=pytest.fail):
        found = verify(store)
        assert (found.faults, found.uncommitted) == ((), 1)
        with pytest.raises(ResultsError, match="is in use by test"):
            repair(store, say=pytest.fail)
        hours_ago = time.time() - 7200
        os.utime(path(store, new.name), (hours_ago, hours_ago))
        assert [fault.name for fault in verify(store).faults] == [str(new.name)]
    assert repair(store, say=lambda _: None).parts == 7


def test_nothing_is_told_while_others_write(store, monkeypatch):
    """Parts are committed, replaced and removed beside the verification."""
    monkeypatch.setattr("psych_ray.results.table.KEPT_HOURS", 0)
    failures: list[BaseException] = []

    def write() -> None:
        try:
            with open_table(store, "test", say=pytest.fail) as table:
                for k in range(24):
                    refs = catalogue(store, transcripts(12 + k))
                    table.commit([write_unit(store, task, refs[-1:]) for task in ("a", "b")])
                    if k % 8 == 7:
                        compact(table)
                        assert table.recover() == []
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    n = 0
    while writer.is_alive():
        assert verify(store).faults == ()
        n += 1
    writer.join()
    assert failures == []
    assert n > 3
    assert verify(store).parts == 2


def test_a_repair_that_was_killed_can_be_repeated(store, tmp_path):
    expected = rows(store)
    flip(the_part(store))
    flip(only("sources")(store))
    truncate(commit_of_parts(store))
    for call in itertools.count(1, 11):
        root = tmp_path / str(call)
        shutil.copytree(store.location, root)
        killed = open_store(str(root))
        with pytest.MonkeyPatch.context() as patched:
            stop_at(patched, call, after=call % 2 == 0)
            try:
                repair(killed, say=lambda _: None)
            except Killed:
                pass
            else:
                break
        killed.remove(["lease/holder.json"])  # that of a process which is gone is free
        assert {fault.remedy for fault in repair(killed, say=lambda _: None).faults} <= {Remedy.sweep, Remedy.set_aside}
        complete(killed)
        repair(killed, say=lambda _: None)
        assert verify(killed).faults == ()
        assert rows(killed).equals(expected), call
    assert call > 40


def test_nothing_leaves_that_could_not_be_copied(store, monkeypatch):
    damaged = [the_part(store), only("sources")(store), commit_of_parts(store)]
    for file in damaged:
        truncate(file)
    content = [file.read_bytes() for file in damaged]
    with monkeypatch.context() as patched:
        write = LocalStore.write

        def full(self, name, content) -> None:
            if name.startswith("damaged/"):
                raise ResultsError("no space left")
            write(self, name, content)

        patched.setattr(LocalStore, "write", full)
        with pytest.raises(ResultsError, match="no space left"):
            repair(store, say=pytest.fail)
    assert [file.read_bytes() for file in damaged] == content
    repair(store, say=lambda _: None)
    kept = [file.read_bytes() for file in path(store, "damaged").rglob("*") if file.is_file()]
    assert all(one in kept for one in content)


def test_files_of_others_are_told_and_stay(store):
    notes = path(store, "responses/checkpoint=a/notes.txt")
    notes.write_text("mine")
    found = verify(store)
    assert (found.faults, found.unknown) == ((), ("responses/checkpoint=a/notes.txt",))
    repair(store, say=pytest.fail)
    assert notes.read_text() == "mine"


def test_the_command_says_what_is_wrong_in_a_line_each(store):
    config = Config(results=ResultsConfig(root=store.location))
    lines, is_well = verify_command(config, say=pytest.fail)
    assert is_well
    assert lines == [f"6 parts, {rows(store).height} rows, 9 transcripts: nothing is wrong"]
    flip(the_part(store))
    store.write("plan.json", b"{[")
    lines, is_well = verify_command(config, say=pytest.fail)
    assert not is_well
    assert len(lines) == 3
    assert "plan.json: damaged" in lines[1]
    assert lines[2].startswith("5 parts")
    assert f"2 things are wrong; psych-ray verify repair=true results.root={store.location}" in lines[2]
    config.repair = True
    said: list[str] = []
    lines, is_well = verify_command(config, say=said.append)
    assert is_well
    assert len(said) == 2
    assert len(list(path(store, "damaged").rglob("*.parquet"))) == 1
    with pytest.raises(ResultsError, match="no sweep there yet"):
        verify_command(Config(results=ResultsConfig(root=f"{store.location}/none")), say=pytest.fail)


@pytest.mark.slow
def test_every_flipped_bit_is_found_or_changes_nothing(whole, tmp_path):
    """100 bits of all files of a root."""
    rng = np.random.default_rng(20)
    root = tmp_path / "root"
    shutil.copytree(whole, root)
    store = open_store(str(root))
    expected = rows(store)
    files = sorted(file for file in root.rglob("*") if file.is_file())
    unnoticed = 0
    for _ in range(100):
        file = files[rng.integers(len(files))]
        content = file.read_bytes()
        flip(file, seed=int(rng.integers(1 << 30)))
        if not verify(store).faults:
            assert rows(store).equals(expected), file
            unnoticed += 1
        file.write_bytes(content)
    assert unnoticed < 50, "only what no reader uses"
    assert verify(store).faults == ()
