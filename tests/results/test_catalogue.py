"""`sources/`: every transcript once, read back exactly, widened without being rewritten."""

from __future__ import annotations

import pytest

from psych_ray.config import Normalise
from psych_ray.errors import ResultsError
from psych_ray.results import catalogue as module
from psych_ray.results.catalogue import catalogue, catalogue_index, read_catalogued, require_same_form
from psych_ray.results.store import open_store
from psych_ray.transcripts.record import Transcript


def people(n: int) -> list[Transcript]:
    return [
        Transcript(
            study=f"study{k % 3}",
            experiment="e",
            participant=str(k),
            text=f"Participant {k} presses <<A>> then <<{k}>>.\nüñ 🙂",
            metadata={"age": f"{20 + k}.0"} if k % 2 else {},
            reaction_times_ms=(100.5, None) if k % 4 == 0 else None,
            true_nll_nats=(0.25, 1.5) if k % 5 == 0 else None,
            is_psych101=(None, True, False)[k % 3],
        )
        for k in range(n)
    ]


def names(store) -> list[str]:
    return [file.name for file in store.files("sources")]


@pytest.fixture
def small_files(monkeypatch):
    monkeypatch.setattr(module, "_FILE_CHARACTERS", 200)


def test_what_goes_in_comes_out(tmp_path, small_files):
    store, everyone = open_store(str(tmp_path)), people(23)
    refs = catalogue(store, iter(everyone))
    assert [ref.id for ref in refs] == [t.id for t in everyone]
    assert len(names(store)) > 3
    assert list(read_catalogued(store, refs)) == everyone
    picked = [refs[k] for k in (20, 3, 11)]
    assert {t.id for t in read_catalogued(store, picked)} == {everyone[k].id for k in (20, 3, 11)}


def test_a_wider_plan_adds_only_what_is_new(tmp_path, small_files):
    store, everyone = open_store(str(tmp_path)), people(20)
    first = catalogue(store, everyone[5:12])
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in names(store)}
    refs = catalogue(store, everyone)
    assert refs[5:12] == first
    assert [ref.id for ref in refs] == [t.id for t in everyone]
    assert all((tmp_path / name).stat().st_mtime_ns == time for name, time in before.items())
    assert sorted(ref.id for ref in catalogue_index(store)) == sorted(t.id for t in everyone)
    assert catalogue(store, everyone) == refs


def test_a_source_file_that_was_changed_is_an_error(tmp_path, small_files):
    store, everyone = open_store(str(tmp_path)), people(8)
    refs = catalogue(store, everyone)
    first, second = names(store)[:2]
    store.write(first, store.read(second))
    with pytest.raises(ResultsError, match=r"damaged .* whose checksum is not that of its name"):
        list(read_catalogued(store, refs))
    (tmp_path / first).unlink()
    with pytest.raises(ResultsError, match="cannot be read"):
        list(read_catalogued(store, refs))


def test_sources_that_were_read_another_way_take_no_more(tmp_path):
    store = open_store(str(tmp_path))
    require_same_form(store, Normalise.none)
    catalogue(store, people(2), normalise=Normalise.none)
    require_same_form(store, Normalise.none)
    with pytest.raises(ResultsError, match=r"was made with transcripts.normalise=none: repeat that, or name another"):
        require_same_form(store, Normalise.psych201)
