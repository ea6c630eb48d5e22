"""A snapshot answers from footers what a scan of all rows would, and reads rows only of parts of older versions."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, replace

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from psych_ray.errors import ResultsError
from psych_ray.results import parts as parts_module
from psych_ray.results.parts import PartName, commit_part, part_names, read_footer, responses_table, to_parquet
from psych_ray.results.reading import scan_responses
from psych_ray.results.schema import CheckpointFacts, Footer, ScoringIdentity, Tally
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import LocalStore, ResultsStore, open_store
from psych_ray.scoring.scored import ScoredTranscript
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.status import Status


def footer_of(unit: str, checkpoint: str = "a", condition: str = "plain") -> Footer:
    return Footer(
        unit=unit,
        condition=condition,
        checkpoint=CheckpointFacts(slug=checkpoint, id=checkpoint, fingerprint="f"),
        scoring=ScoringIdentity(dtype="float32", cut="tokens", cut_at=None, parity=False),
        engine="transformers",
        versions={"torch": "2"},
    )


def random_transcript(rng: random.Random, participant: int) -> ScoredTranscript:
    n = rng.randint(1, 9)
    transcript = Transcript(
        study=rng.choice(["s1", "s2"]), experiment="e", participant=str(participant), text="<<A>> " * n
    )
    status = np.array([rng.choice(list(Status)).code for _ in range(n)], np.int8)
    use = status == Status.scored.code
    return ScoredTranscript(
        transcript,
        n_tokens_R=np.ones(n, np.int32),
        nll_R=np.where(use, np.array([rng.expovariate(1) for _ in range(n)]), np.nan).astype(np.float32),
        top1_R=None if rng.random() < 0.2 else use & np.array([rng.random() < 0.5 for _ in range(n)]),
        status_R=status,
        tokens_read=n,
    )


def random_store(root, seed: int) -> ResultsStore:
    rng, store = random.Random(seed), open_store(str(root))
    for number in range(8):
        checkpoint, condition = rng.choice("ab"), rng.choice(["plain", "chat"])
        scored = [random_transcript(rng, 100 * number + k) for k in range(rng.randint(1, 5))]
        commit_part(store, scored, footer_of(f"u{number}", checkpoint, condition))
    return store


def rewrite(store: ResultsStore, name: PartName, change) -> None:
    """Write a part again with its footer's JSON changed."""
    with store.open(str(name)) as file:
        parquet = pq.ParquetFile(file)
        content = json.loads(parquet.metadata.metadata[b"psych_ray"])
        change(content)
        store.write(str(name), to_parquet(parquet.read(), {"psych_ray": json.dumps(content)}))


def write_as_before_counts(store: ResultsStore, name: PartName) -> None:
    """Write a part again as earlier versions did: without counts but for rows by status, in the schema's metadata."""
    with store.open(str(name)) as file:
        parquet = pq.ParquetFile(file)
        content = json.loads(parquet.metadata.metadata[b"psych_ray"])
        for field in ("rows", "transcripts", "tallies"):
            del content[field]
        table = parquet.read().replace_schema_metadata({"psych_ray": json.dumps(content)})
    store.write(str(name), to_parquet(table))


@pytest.mark.parametrize("seed", range(6))
def test_it_answers_what_a_scan_of_all_rows_does(tmp_path, seed):
    store = random_store(tmp_path, seed)
    snapshot = Snapshot.read(store)
    rows = scan_responses(store, snapshot.parts).collect()
    assert len(snapshot.parts) == 8
    assert snapshot.tasks.keys() == set(rows.select("checkpoint", "condition").iter_rows())
    for (checkpoint, condition), task in snapshot.tasks.items():
        of_task = rows.filter(pl.col("checkpoint") == checkpoint, pl.col("condition") == condition)
        assert task.transcripts == snapshot.committed[checkpoint, condition] == set(of_task["transcript"].unique())
        assert task.rows == of_task.height
        counts = of_task.group_by(pl.col("status").cast(pl.String)).len()
        assert task.rows_by_status == dict(counts.iter_rows())
        for study, tally in task.tallies.items():
            scored = of_task.filter(pl.col("study").cast(pl.String) == study, pl.col("nll").is_not_null())
            assert tally.responses == scored.height
            assert tally.nll_nats == pytest.approx(sum(scored["nll"].to_list()), rel=1e-12)
            assert tally.top1 == scored["top1"].sum()
        assert task.tallies.keys() == set(of_task["study"].cast(pl.String).unique())
    assert snapshot.tallies.keys() == snapshot.tasks.keys()
    assert snapshot.scoring == (footer_of("u").scoring,)
    assert {facts.slug for facts in snapshot.checkpoints} <= {"a", "b"}
    assert snapshot.versions == ({"torch": "2"},)


def test_a_store_without_parts_is_an_empty_snapshot(tmp_path):
    assert Snapshot.read(open_store(str(tmp_path))) == Snapshot(
        parts=(), tasks={}, scoring=(), checkpoints=(), versions=()
    )


def test_parts_of_an_older_version_are_counted_in_their_rows(tmp_path):
    store = random_store(tmp_path, 1)
    expected = Snapshot.read(store)
    for name in part_names(store)[::2]:
        write_as_before_counts(store, name)
    assert Snapshot.read(store) == expected


def test_it_lists_once_and_reads_no_rows(tmp_path, monkeypatch):
    store = random_store(tmp_path, 2)
    listed, opened = [], []
    names, open_ = LocalStore.names, LocalStore.open
    monkeypatch.setattr(LocalStore, "names", lambda self, folder: listed.append(folder) or names(self, folder))
    monkeypatch.setattr(LocalStore, "open", lambda self, name: opened.append(name) or open_(self, name))
    monkeypatch.setattr(parts_module, "_counted", None)
    snapshot = Snapshot.read(store)
    assert listed == ["responses"]
    assert sorted(opened) == [str(name) for name in snapshot.parts]


def test_unknown_fields_of_a_newer_version_are_ignored_but_not_a_setting_that_changes_scores(tmp_path):
    store = random_store(tmp_path, 3)
    name = part_names(store)[0]
    before = read_footer(store, name)

    def newer(content) -> None:
        content["carbon_kg"] = 1.5
        content["checkpoint"]["licence"] = "mit"
        next(iter(content["tallies"].values()))["top5"] = 3

    rewrite(store, name, newer)
    assert read_footer(store, name) == before
    rewrite(store, name, lambda content: content["scoring"].update(temperature=2))
    with pytest.raises(ResultsError, match=r"scoring\.temperature, which needs a newer version"):
        read_footer(store, name)


@pytest.mark.parametrize("field", ["unit", "condition", "checkpoint", "scoring", "engine"])
def test_a_missing_required_field_is_an_error_that_names_the_part(tmp_path, field):
    store = open_store(str(tmp_path))
    commit_part(store, [random_transcript(random.Random(0), 1)], footer_of("u1"))
    (name,) = part_names(store)
    rewrite(store, name, lambda content: content.pop(field))
    with pytest.raises(ResultsError, match=rf"u1\.parquet: damaged, or no part of a sweep .*{field}"):
        Snapshot.read(store)


def test_a_footer_that_contradicts_its_file_is_an_error_that_names_the_part(tmp_path):
    store = open_store(str(tmp_path))
    scored = [random_transcript(random.Random(0), 1)]
    footer = commit_part(store, scored, footer_of("u1"))
    (name,) = part_names(store)
    wrong = json.dumps(asdict(replace(footer, rows=footer.rows + 1)))
    content = store.read(str(name))
    store.write(str(name), to_parquet(responses_table(scored), {"psych_ray": wrong}))
    with pytest.raises(ResultsError, match=rf"u1\.parquet: its footer has rows={footer.rows + 1}, the file"):
        Snapshot.read(store)
    store.write(str(name), content)
    store.write(str(PartName("b", "plain", "u1")), content)
    with pytest.raises(ResultsError, match=r"checkpoint=b/condition=plain/u1\.parquet: its footer has checkpoint=a"):
        Snapshot.read(store)


def test_tallies_add_up():
    assert Tally(1, 0.5, 1) + Tally(2, 1.0, 0) == Tally(3, 1.5, 1)
