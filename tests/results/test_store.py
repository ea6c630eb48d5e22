"""The results store: names in, bytes out, whole files only, errors that name the path."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from psych_ray.atomic import UNFINISHED
from psych_ray.errors import ResultsError
from psych_ray.results.store import StoredFile, open_store


def test_what_is_written_is_read_under_the_same_name(tmp_path):
    store = open_store(str(tmp_path / "root"))
    assert not (tmp_path / "root").exists(), "opening creates nothing"
    assert store.files("responses") == []
    store.write("responses/b=1/y", b"second")
    store.write("responses/x", b"first")
    store.write("plan.json", b"{}")
    (tmp_path / "root/responses" / f"{UNFINISHED}1").write_bytes(b"half")
    assert [(file.name, file.size) for file in store.files("responses")] == [("responses/b=1/y", 6), ("responses/x", 5)]
    written = (tmp_path / "root/responses/x").stat().st_mtime
    assert StoredFile("responses/x", 5, written) in store.files("responses")
    assert store.read("responses/x") == b"first"
    store.write("responses/x", b"replaced")
    with store.open("responses/x") as file:
        file.seek(-3, 2)
        assert file.read() == b"ced"
    assert store.exists("plan.json")
    assert not store.exists("responses")
    assert open_store(store.location).read("plan.json") == b"{}"
    assert store.local_path("plan.json") == tmp_path / "root/plan.json"
    store.remove(["plan.json", "absent"])
    assert not store.exists("plan.json")


def test_only_one_of_many_creates_a_file(tmp_path):
    store = open_store(str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda k: store.create("lease/x", str(k).encode()), range(32)))
    assert created.count(True) == 1
    assert store.read("lease/x") == str(created.index(True)).encode()
    assert [file.name for file in store.files("lease")] == ["lease/x"]


def test_errors_name_the_path(tmp_path):
    store = open_store(str(tmp_path))
    with pytest.raises(ResultsError, match=r"nothing: cannot be read: No such file"):
        store.read("nothing")
    store.write("responses", b"a file where a folder should be")
    with pytest.raises(ResultsError, match=r"responses/x: cannot be written"):
        store.write("responses/x", b"")
    with pytest.raises(ResultsError, match=r"responses: cannot be listed"):
        store.files("responses")
    with pytest.raises(ResultsError, match="that is a file"):
        open_store(str(tmp_path / "responses"))


def test_what_is_no_regular_file_is_neither_listed_nor_waited_for(tmp_path):
    store = open_store(str(tmp_path))
    store.write("responses/whole", b"content")
    os.mkfifo(tmp_path / "responses/pipe")
    (tmp_path / "responses/zero").symlink_to("/dev/zero")
    (tmp_path / "responses/directory").mkdir()
    assert [file.name for file in store.files("responses")] == ["responses/whole"]
    for name in ("pipe", "zero"):
        with pytest.raises(ResultsError, match=rf"responses/{name}: cannot be read: not a regular file"):
            store.read(f"responses/{name}")
    with pytest.raises(ResultsError, match=r"responses/directory: cannot be read: Is a directory"):
        store.read("responses/directory")


def test_a_file_that_says_it_is_longer_than_memory_is_refused(tmp_path):
    store = open_store(str(tmp_path))
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ResultsError, match=r"sparse: cannot be read: 1,099,511,627,776 bytes are too many"):
        store.read("sparse")


def test_what_links_to_elsewhere_is_not_listed_and_only_links_are_removed(tmp_path):
    store, outside = open_store(str(tmp_path / "root")), tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"of another")
    store.write("responses/own", b"content")
    (tmp_path / "root/responses/link").symlink_to(outside / "file")
    store.remove([file.name for file in store.files("responses")])
    assert (outside / "file").read_bytes() == b"of another"
    for target in (outside, "."):  # a link to its own directory would be listed without end
        link = tmp_path / "root/responses/directory"
        link.symlink_to(target)
        with pytest.raises(ResultsError, match=r"responses/directory: is a link to a directory"):
            store.files("responses")
        link.unlink()


def write_unfinished(path: Path, *, age_s: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("half")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_old_unfinished_files_of_the_store_are_removed_and_no_others(tmp_path):
    file = f"{UNFINISHED}1"
    own = [
        write_unfinished(tmp_path / folder / file, age_s=7200) for folder in (".", "responses/b=1", "sources", "lease")
    ]
    others = [write_unfinished(tmp_path / folder / file, age_s=7200) for folder in ("report", "tracking/run", "notes")]
    young = write_unfinished(tmp_path / "responses" / file, age_s=60)
    open_store(str(tmp_path)).remove_unfinished()
    assert not any(path.exists() for path in own)
    assert all(path.exists() for path in [*others, young])


def test_unfinished_files_that_cannot_be_removed_are_skipped(tmp_path, monkeypatch):
    paths = [write_unfinished(tmp_path / f"responses/{UNFINISHED}{k}", age_s=7200) for k in range(3)]
    unlink = Path.unlink

    def unlink_own(path: Path) -> None:
        if path == paths[1]:
            raise PermissionError(13, "Permission denied", str(path))
        unlink(path)

    monkeypatch.setattr(Path, "unlink", unlink_own)
    open_store(str(tmp_path)).remove_unfinished()
    assert [path.exists() for path in paths] == [False, True, False]


def test_nothing_is_removed_where_nothing_is(tmp_path):
    open_store(str(tmp_path / "absent")).remove_unfinished()
