"""The results store: names in, bytes out, whole files only, errors that name the path."""

from __future__ import annotations

import pytest

from psych_ray.atomic import UNFINISHED
from psych_ray.errors import ResultsError, UnsupportedError
from psych_ray.results.store import open_store


def test_what_is_written_is_read_under_the_same_name(tmp_path):
    store = open_store(str(tmp_path / "root"))
    assert not (tmp_path / "root").exists(), "opening creates nothing"
    assert store.names("responses") == []
    store.write("responses/b=1/y", b"second")
    store.write("responses/x", b"first")
    store.write("plan.json", b"{}")
    (tmp_path / "root/responses" / f"{UNFINISHED}1").write_bytes(b"half")
    assert store.names("responses") == ["responses/b=1/y", "responses/x"]
    assert store.read("responses/x") == b"first"
    store.write("responses/x", b"replaced")
    with store.open("responses/x") as file:
        file.seek(-3, 2)
        assert file.read() == b"ced"
    assert store.exists("plan.json")
    assert not store.exists("responses")
    assert open_store(store.location).read("plan.json") == b"{}"


def test_errors_name_the_path(tmp_path):
    store = open_store(str(tmp_path))
    with pytest.raises(ResultsError, match=r"nothing: cannot be read: No such file"):
        store.read("nothing")
    store.write("responses", b"a file where a folder should be")
    with pytest.raises(ResultsError, match=r"responses/x: cannot be written"):
        store.write("responses/x", b"")
    with pytest.raises(ResultsError, match=r"responses: cannot be listed"):
        store.names("responses")
    with pytest.raises(ResultsError, match="that is a file"):
        open_store(str(tmp_path / "responses"))


@pytest.mark.parametrize("uri", ["s3://bucket/x", "gs://bucket/x"])
def test_object_stores_are_refused(uri):
    with pytest.raises(UnsupportedError, match=uri):
        open_store(uri)
