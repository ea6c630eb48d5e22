"""A snapshot answers from the log and footers what a scan of all rows would, and reads no rows."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, replace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support_table import commit, write_part

from psych_ray.results.parts import (
    NoPartError,
    check_part,
    checksum,
    responses_table,
    to_parquet,
)  # fmt: skip
from psych_ray.results.reading import open_responses
from psych_ray.results.schema import CheckpointFacts, Footer, Part, PartName, ScoringIdentity, Tally
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
    rng, store, units = random.Random(seed), open_store(str(root)), []
    for number in range(8):
        checkpoint, condition = rng.choice("ab"), rng.choice(["plain", "chat"])
        scored = [random_transcript(rng, 100 * number + k) for k in range(rng.randint(1, 5))]
        units.append((scored, footer_of(f"u{number}", checkpoint, condition)))
    commit(store, *units[:5])
    commit(store, *units[5:])
    return store


def rewritten(part: Part, content: bytes, change) -> tuple[PartName, bytes]:
    """A part whose footer's JSON is changed, under the name that fits its content."""
    parquet = pq.ParquetFile(pa.BufferReader(content))
    footer = json.loads(parquet.metadata.metadata[b"psych_ray"])
    change(footer)
    content = to_parquet(parquet.read(), {"psych_ray": json.dumps(footer)})
    return replace(part.name, checksum=checksum(content)), content


@pytest.mark.parametrize("seed", range(6))
def test_it_answers_what_a_scan_of_all_rows_does(tmp_path, seed):
    store = random_store(tmp_path, seed)
    snapshot = Snapshot.read(store)
    with open_responses(store, snapshot.parts) as responses:
        rows = responses.collect()
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


def test_it_lists_only_the_few_files_of_footers_and_opens_no_part(tmp_path, monkeypatch):
    store = random_store(tmp_path, 2)
    listed, opened = [], []
    files, open_ = LocalStore.files, LocalStore.open
    monkeypatch.setattr(LocalStore, "files", lambda self, folder: listed.append(folder) or files(self, folder))
    monkeypatch.setattr(LocalStore, "open", lambda self, name: opened.append(name) or open_(self, name))
    expected = Snapshot.read(store)
    assert listed == ["footers"]
    assert len(opened) == 2, "one file for each commit"
    assert all(name.startswith("footers/") for name in opened)
    for name in opened:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1])
    assert Snapshot.read(store) == expected, "what footers/ does not hold is read from the parts"
    assert len(opened) == 2 + 2 + 8


def test_what_an_older_version_did_not_count_is_counted_in_the_rows(tmp_path):
    store = open_store(str(tmp_path))
    part = write_part(store, [random_transcript(random.Random(0), 1)], footer_of("u1"))

    def older(footer) -> None:
        for field in ("rows", "transcripts", "tallies"):
            del footer[field]

    assert check_part(*rewritten(part, store.read(str(part.name)), older)) == part.footer


def test_unknown_fields_of_a_newer_version_are_ignored_but_not_a_setting_that_changes_scores(tmp_path):
    store = open_store(str(tmp_path))
    part = write_part(store, [random_transcript(random.Random(0), 1)], footer_of("u1"))
    content = store.read(str(part.name))

    def newer(footer) -> None:
        footer["carbon_kg"] = 1.5
        footer["checkpoint"]["licence"] = "mit"
        next(iter(footer["tallies"].values()))["top5"] = 3

    assert check_part(*rewritten(part, content, newer)) == part.footer
    with pytest.raises(NoPartError, match=r"scoring\.temperature, which needs a newer version"):
        check_part(*rewritten(part, content, lambda footer: footer["scoring"].update(temperature=2)))


@pytest.mark.parametrize("field", ["unit", "condition", "checkpoint", "scoring", "engine"])
def test_a_missing_required_field_is_an_error_that_names_it(tmp_path, field):
    store = open_store(str(tmp_path))
    part = write_part(store, [random_transcript(random.Random(0), 1)], footer_of("u1"))
    with pytest.raises(NoPartError, match=rf"damaged, or no part of a sweep .*{field}"):
        check_part(*rewritten(part, store.read(str(part.name)), lambda footer: footer.pop(field)))


def test_a_footer_that_contradicts_its_rows_or_its_name_is_an_error(tmp_path):
    store = open_store(str(tmp_path))
    scored = [random_transcript(random.Random(0), 1)]
    part = write_part(store, scored, footer_of("u1"))
    wrong = asdict(replace(part.footer, rows=part.footer.rows + 1))
    content = to_parquet(responses_table(scored), {"psych_ray": json.dumps(wrong)})
    with pytest.raises(NoPartError, match=rf"its footer has {part.footer.rows + 1} rows, the file {part.footer.rows}"):
        check_part(replace(part.name, checksum=checksum(content)), content)
    with pytest.raises(NoPartError, match="its footer has checkpoint=a, its name b"):
        check_part(replace(part.name, checkpoint="b"), store.read(str(part.name)))


def test_tallies_add_up():
    assert Tally(1, 0.5, 1) + Tally(2, 1.0, 0) == Tally(3, 1.5, 1)
