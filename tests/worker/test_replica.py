"""A replica without Ray, with a tiny checkpoint over demo transcripts: load, score, write, check."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from support_table import responses, silent

from psych_ray.checkpoints.disk_entry import entries
from psych_ray.checkpoints.find import Checkpoint, find_checkpoints, simulator_checkpoint
from psych_ray.config import CheckpointsConfig, CheckpointSource, EngineName
from psych_ray.errors import ConditionError, FailureKind, ResultsError
from psych_ray.results.catalogue import catalogue
from psych_ray.results.parts import read_part
from psych_ray.results.schema import CheckpointFacts, ScoringIdentity
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import open_store
from psych_ray.results.table import open_table
from psych_ray.results.verify import verify
from psych_ray.scoring import load_scorer, loading
from psych_ray.scoring.calibration import COLUMNS
from psych_ray.sweep.failure import failure_of
from psych_ray.sweep.unit import Unit
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.options import option_letters
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.simulated import simulated_transcripts
from psych_ray.worker.replica import Replica
from psych_ray.worker.spec import ReplicaSpec

IDENTITY = ScoringIdentity(dtype="float32", cut="tokens", cut_at=None, parity=False)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint, byte_tokenizer_directory) -> Checkpoint:
    path = tiny_checkpoint("Llama", byte_tokenizer_directory)
    (found,) = find_checkpoints(CheckpointsConfig(source=CheckpointSource.local, paths=[str(path)]))
    return found


@pytest.fixture(scope="module")
def transcripts() -> list[Transcript]:
    return list(simulated_transcripts(participants=2, seed=3))


def spec(checkpoint: Checkpoint, root: Path, **more) -> ReplicaSpec:
    facts = CheckpointFacts(slug=checkpoint.slug, id=checkpoint.card.id, fingerprint=checkpoint.fingerprint)
    return ReplicaSpec(
        checkpoints=(checkpoint,),
        facts={checkpoint.slug: facts},
        identity=IDENTITY,
        engine=EngineName.transformers,
        device="cpu",
        results_root=str(root),
        **more,
    )


def test_it_writes_the_scores_of_a_unit_and_the_footer_counts_them(checkpoint, transcripts, tmp_path):
    store = open_store(str(tmp_path))
    refs = tuple(catalogue(store, transcripts))
    replica = Replica(spec(checkpoint, tmp_path, device_name="2 CPU cores"))
    assert replica.load().seconds > 0
    first = Unit(checkpoint.slug, "plain", refs[:3])
    report = replica.score(first)
    rest = replica.score(Unit(checkpoint.slug, "plain", refs[3:]))
    assert report.part is not None
    assert rest.part is not None
    with pytest.raises(ResultsError, match="no log that lists them"):
        Snapshot.read(store)
    with open_table(store, "test", say=silent):
        pass  # commits whole parts that no driver did

    scorer = load_scorer(checkpoint, spec(checkpoint, tmp_path).scoring)
    expected = {s.transcript.id: s for s in scorer.score(transcripts, condition_named("plain"))}
    rows = responses(store)
    assert rows.height == sum(len(t.responses) for t in transcripts)
    for (transcript,), found in rows.group_by("transcript"):
        scored = expected[str(transcript)]
        assert np.allclose(found.sort("response")["nll"].to_numpy(), scored.nll_R, atol=1e-4)
        assert found.sort("response")["top1"].to_list() == scored.top1_R.tolist()
        calibration = found.sort("response").select(pl.col(COLUMNS).cast(pl.Float32).fill_null(np.nan)).to_numpy()
        np.testing.assert_allclose(calibration, scored.calibration_RC, atol=1e-4)
        assert found["n_options"].is_not_null().any() == found["options_hit"].is_not_null().any()
    assert rows["options_hit"].drop_nulls().n_unique() == 2
    assert verify(store).faults == ()

    footer = report.part.footer
    assert read_part(store, report.part.name) == report.part
    of_first = rows.filter(pl.col("transcript").is_in(footer.transcripts))
    assert set(footer.transcripts) == {ref.id for ref in refs[:3]}
    assert footer.rows == report.responses == of_first.height == first.n_responses
    assert (report.checkpoint, report.condition, report.unit) == (*first.task, first.id)
    assert footer.tokens == report.tokens > 0
    assert footer.device == "2 CPU cores"
    assert footer.engine == scorer.engine_name
    assert footer.versions.keys() >= {"psych_ray", "torch", "transformers"}
    assert report.by_study == footer.tallies
    for study, tally in footer.tallies.items():
        of_study = of_first.filter(pl.col("study").cast(pl.String) == study, pl.col("nll").is_not_null())
        assert (tally.responses, tally.top1) == (of_study.height, of_study["top1"].sum())
        assert tally.nll_nats == pytest.approx(of_study["nll"].cast(pl.Float64).sum(), rel=1e-12)
    assert Snapshot.read(store).committed == {(checkpoint.slug, "plain"): {t.id for t in transcripts}}


def test_without_calibration_its_columns_are_null_and_the_scores_the_same(checkpoint, transcripts, tmp_path):
    tables = []
    for calibration in (True, False):
        store = open_store(str(tmp_path / str(calibration)))
        refs = tuple(catalogue(store, transcripts[:2]))
        replica = Replica(spec(checkpoint, tmp_path / str(calibration), calibration=calibration))
        replica.load()
        report = replica.score(Unit(checkpoint.slug, "plain", refs))
        assert report.part is not None
        tables.append(pl.read_parquet(Path(store.location) / str(report.part.name)))
    kept, left_out = tables
    assert kept.drop(COLUMNS).equals(left_out.drop(COLUMNS))
    assert all(left_out[name].null_count() == left_out.height for name in COLUMNS)
    assert kept["n_options"].is_not_null().any()
    assert kept["nll_t400"].null_count() == kept["nll"].null_count() == 0


def test_only_rank_0_writes(checkpoint, transcripts, tmp_path):
    store = open_store(str(tmp_path))
    refs = tuple(catalogue(store, transcripts[:2]))
    replica = Replica(spec(checkpoint, tmp_path), rank=1)
    replica.load()
    report = replica.score(Unit(checkpoint.slug, "plain", refs))
    assert report.responses == sum(ref.n_responses for ref in refs)
    assert report.part is None
    assert store.files("responses") == []


def test_it_reports_its_self_check_and_how_transcripts_align(checkpoint, transcripts, tmp_path):
    replica = Replica(spec(checkpoint, tmp_path))
    replica.load()
    (report,) = replica.check(transcripts)
    assert report.checkpoint == checkpoint.slug
    assert all(check.passed for check in report.checks)
    assert sum(report.responses.values()) == sum(len(t.responses) for t in transcripts)
    assert not any(report.straddling_edges.values()), "a token of one byte holds no edge"


def test_the_simulator_needs_no_weights(transcripts, tmp_path):
    store = open_store(str(tmp_path))
    refs = tuple(catalogue(store, transcripts))
    simulator = simulator_checkpoint()
    replica = Replica(spec(simulator, tmp_path))
    replica.load()
    report = replica.score(Unit(simulator.slug, "plain", refs))
    true = {t.study: sum(sum(x.true_nll_nats or ()) for x in transcripts if x.study == t.study) for t in transcripts}
    assert {study: tally.nll_nats for study, tally in report.by_study.items()} == pytest.approx(true, rel=1e-6)
    assert report.part is not None
    rows = pl.read_parquet(tmp_path / str(report.part.name))
    assert set(rows["n_options"].drop_nulls()) == {len(option_letters(t)) for t in transcripts if option_letters(t)}
    assert all(rows[name].null_count() == rows.height for name in COLUMNS)


@pytest.mark.parametrize(
    ("engine", "needed"),
    [(EngineName.transformers, False), (EngineName.deepspeed_tp, True), (EngineName.deepspeed_zero, True)],
)
def test_deepspeed_engines_need_a_process_group(tmp_path, engine, needed):
    one = spec(simulator_checkpoint(), tmp_path)
    assert ReplicaSpec(**(vars(one) | {"engine": engine})).needs_process_group is needed


def test_its_count_of_work_grows_while_it_loads_and_with_every_layer_that_runs(checkpoint, transcripts, tmp_path):
    store = open_store(str(tmp_path))
    refs = tuple(catalogue(store, transcripts))
    replica = Replica(spec(checkpoint, tmp_path))
    seen = {replica.work.done}
    loading = threading.Thread(target=replica.load)
    loading.start()
    while loading.is_alive():
        seen.add(replica.work.done)
    assert len(seen) > 5
    (scorer,) = replica._scorers.values()
    (only,) = transcripts[:1]
    before = replica.work.done
    list(scorer.score([only], condition_named("plain")))
    assert replica.work.done == before + 1 + 2, "a text and two layers"
    before = replica.work.done
    replica.score(Unit(checkpoint.slug, "plain", refs))
    assert replica.work.done >= before + len(refs)


def test_weights_are_fetched_to_the_disk_of_the_node_and_loaded_from_there(
    checkpoint, transcripts, tmp_path, monkeypatch
):
    loaded: list[tuple[Path, list[bool]]] = []
    real = loading.load_model

    def recorded(card, directory, *args, **options):
        loaded.append((directory, [e.try_lock(shared=False) is None for e in entries(directory.parent)]))
        return real(card, directory, *args, **options)

    monkeypatch.setattr(loading, "load_model", recorded)
    disk, tables = tmp_path / "disk", []
    for name, more in (("there", {}), ("fetched", {"disk": str(disk), "disk_gb": 1.0})):
        store = open_store(str(tmp_path / name))
        refs = tuple(catalogue(store, transcripts[:2]))
        replica = Replica(spec(checkpoint, tmp_path / name, **more))
        assert replica.load().notes == ()
        part = replica.score(Unit(checkpoint.slug, "plain", refs)).part
        assert part is not None
        assert part.footer.checkpoint.fingerprint == checkpoint.fingerprint
        with open_table(store, "test", say=silent):
            pass
        tables.append(responses(store))
    assert tables[0].equals(tables[1])
    there, fetched = loaded
    assert there == (Path(str(checkpoint.card.path)), [])
    assert fetched[0].is_relative_to(disk)
    assert fetched[1] == [True], "nobody may remove it meanwhile"


def test_a_line_says_where_weights_are_read_that_have_no_room(checkpoint, tmp_path):
    replica = Replica(spec(checkpoint, tmp_path, disk=str(tmp_path / "disk"), disk_gb=1e-6))
    (note,) = replica.load().notes
    assert note.startswith(f"{checkpoint.card.id}: read where it lies, not from checkpoints.disk={tmp_path}/disk on ")


def test_a_chat_template_that_explodes_is_an_error_of_the_checkpoint_under_chat_alone(
    checkpoint, transcripts, tmp_path
):
    exploding = tmp_path / "exploding"
    shutil.copytree(str(checkpoint.card.path), exploding)
    (exploding / "chat_template.jinja").write_text("{{ 'a' * 10 ** 10 }}")
    (found,) = find_checkpoints(CheckpointsConfig(source=CheckpointSource.local, paths=[str(exploding)]))
    store = open_store(str(tmp_path / "root"))
    refs = tuple(catalogue(store, transcripts))
    replica = Replica(spec(found, tmp_path / "root"))
    replica.load()
    with pytest.raises(ConditionError, match=r"its chat template takes more than 0\.5 GB of memory") as raised:
        replica.score(Unit(found.slug, "chat", refs))
    assert failure_of(raised.value).kind == FailureKind.task
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("psych-ray")]
    assert replica.score(Unit(found.slug, "plain", refs)).responses > 0
