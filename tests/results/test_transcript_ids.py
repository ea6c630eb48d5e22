"""Sets of transcripts behave like sets of strings, and footers are the same after ids were numbers in memory."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from psych_ray.results.footers import Footers, merge_footers, read_footers, scan_footers, write_footers
from psych_ray.results.log import LoggedPart
from psych_ray.results.schema import CheckpointFacts, Footer, Measured, Part, PartName, ScoringIdentity, Tally
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import ResultsStore, open_store
from psych_ray.results.transcript_ids import TranscriptIds, TranscriptSet, committed_among, is_repeated


@pytest.mark.parametrize("seed", range(20))
def test_a_set_answers_what_a_set_of_strings_does(seed):
    rng = random.Random(seed)
    names = [f"t{k}" for k in range(rng.randint(1, 60))]
    ids = TranscriptIds()
    sets = [(TranscriptSet(ids), set[str]()) for _ in range(3)]
    for _ in range(30):
        tested, plain = rng.choice(sets)
        some = rng.choices(names, k=rng.randint(0, 9))
        assert tested.isdisjoint(some) == plain.isdisjoint(some)
        tested.update(some)
        plain.update(some)
        assert tested == plain
        assert len(tested) == len(plain)
        assert set(names) - tested == set(names) - plain
        assert [name in tested for name in [*names, "x", 3]] == [name in plain for name in [*names, "x", 3]]
    asked = rng.choices([*names, "unknown"], k=40)
    for (tested, plain), held in zip(sets, committed_among([tested for tested, _ in sets], asked), strict=True):
        assert held.tolist() == [name in plain for name in asked]
        assert set(tested) == plain


@pytest.mark.parametrize("seed", range(10))
def test_lists_of_ids_survive_as_numbers(seed):
    rng = random.Random(seed)
    lists = [[f"t{rng.randint(0, 20)}" for _ in range(rng.randint(0, 6))] for _ in range(rng.randint(0, 12))]
    half = len(lists) // 2
    array = pa.chunked_array([lists[:half], lists[half:]], pa.list_(pa.string()))
    ids = TranscriptIds()
    ids.add(["t3", "t21"])
    encoded = ids.encode(array.slice(1) if seed % 2 else array)
    assert ids.decode(encoded).to_pylist() == (lists[1:] if seed % 2 else lists)
    assert [[ids[number] for number in row] for row in encoded.to_pylist()] == ids.decode(encoded).to_pylist()


def test_a_number_that_is_there_twice_is_seen():
    assert is_repeated(np.array([0, 3, 3]), 4)
    assert not is_repeated(np.array([0, 3, 1]), 4)
    assert not is_repeated(np.array([], np.int64), 0)


def part(k: int, rng: random.Random, **more) -> Part:
    checkpoint, condition = "ab"[k % 2], ("plain", "chat")[k // 2 % 2]
    footer = Footer(
        unit=f"u{k}",
        condition=condition,
        checkpoint=CheckpointFacts(slug=checkpoint, id=checkpoint, fingerprint="f"),
        scoring=ScoringIdentity(dtype="float32", cut="tokens", cut_at=None, parity=False),
        engine="transformers",
        rows=7,
        rows_by_status={"scored": 7},
        transcripts=[f"t{k}-{n}" for n in range(rng.randint(1, 9))],
        tallies={"s": Tally(7, 3.5, 2)},
        straddling_edges={"tokens": 99, "s": 1},
        **{"tokens": 100 * k, "seconds": 0.5 * k, "device": "2 GPUs" if k % 3 else "GPU"} | more,
    )
    return Part(PartName(checkpoint, condition, f"u{k}", f"{k:032x}"), 100 + k, footer)


def logged(parts: list[Part]) -> list[LoggedPart]:
    return [LoggedPart(part.name, part.size, part.footer.rows) for part in parts]


def made(store: ResultsStore, n: int = 30) -> list[Part]:
    rng = random.Random(n)
    parts = [part(k, rng) for k in range(n)]
    for first in range(0, n, 4):
        write_footers(store, parts[first : first + 4])
    rng.shuffle(parts)
    return parts


def test_footers_are_read_as_they_were_written_also_after_they_were_merged(tmp_path, monkeypatch):
    store = open_store(str(tmp_path))
    parts = made(store)
    assert read_footers(store, logged(parts)) == parts
    before = Snapshot.of(store, logged(parts), scan_footers(store, logged(parts)))
    monkeypatch.setattr("psych_ray.results.footers._FILES_AT_MOST", 2)
    monkeypatch.setattr("psych_ray.results.footers._IDS_PER_FILE", 100)
    merge_footers(store, scan_footers(store, logged(parts)))
    n_ids = sum(len(one.footer.transcripts) for one in parts)
    assert n_ids > 100
    assert len(list(store.files("footers"))) == -(-n_ids // 100)
    assert read_footers(store, logged(parts)) == parts
    after = Snapshot.of(store, logged(parts), scan_footers(store, logged(parts)))
    assert after == before
    assert (
        after.committed
        == before.committed
        == {
            task: {one for part in parts if part.name.task == task for one in part.footer.transcripts}
            for task in before.tasks
        }
    )
    names = {file.name for file in store.files("footers")}
    merge_footers(store, scan_footers(store, logged(parts)))
    assert {file.name for file in store.files("footers")} == names, "few enough stay as they are"


def test_a_snapshot_sums_what_was_measured_by_device_and_leaves_out_what_was_not(tmp_path):
    store = open_store(str(tmp_path))
    parts = made(store)
    snapshot = Snapshot.of(store, logged(parts), scan_footers(store, logged(parts)))
    for task, found in snapshot.tasks.items():
        of_task = [one.footer for one in parts if one.name.task == task]
        for measured in found.measured:
            timed = [one for one in of_task if one.device == measured.device and one.tokens and one.seconds]
            sums = sum(one.tokens for one in timed), sum(one.seconds for one in timed)
            assert measured == Measured(measured.device, sums[0], pytest.approx(sums[1]))
        assert {one.device for one in found.measured} == {one.device for one in of_task if one.seconds}
        has_all = all(one.tokens for one in of_task)
        assert found.tokens == (sum(one.tokens for one in of_task) if has_all else None)
    assert any(found.tokens is None for found in snapshot.tasks.values())


def test_footers_of_earlier_versions_and_wrong_ones_have_measured_nothing(tmp_path):
    store, rng = open_store(str(tmp_path)), random.Random(0)
    parts = [part(0, rng, device=None, tokens="many", seconds=[]), part(4, rng, device=None, tokens=50, seconds=2.0)]
    write_footers(store, parts)
    footers = scan_footers(store, logged(parts))
    assert isinstance(footers, Footers)
    (task,) = Snapshot.of(store, logged(parts), footers).tasks.values()
    assert task.measured == (Measured(None, 50, 2.0),)
    assert task.tokens is None
