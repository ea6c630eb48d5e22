"""Roots of versions whose ids of transcripts hashed metadata too: they are read and verified, and not swept on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from support_table import commit

from psych_ray.app.cluster import cluster_to_plan_for
from psych_ray.app.prepare import Prepared, checkpoint_facts, prepare, scoring_identity
from psych_ray.app.status import status_of
from psych_ray.app.verify import verify
from psych_ray.checkpoints.find import simulator_checkpoint
from psych_ray.config import ClusterConfig, Config, ResultsConfig, TranscriptsConfig
from psych_ray.errors import ResultsError
from psych_ray.results import catalogue as module
from psych_ray.results.catalogue import SOURCES, catalogue, catalogue_index, read_catalogued
from psych_ray.results.parts import checksum, to_parquet
from psych_ray.results.schema import Footer
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import LocalStore, ResultsStore, open_store
from psych_ray.scoring.scored import SimulatorScorer
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.sources import read_transcripts

FIRST_BANDIT = "72e03b13ee961175615a2c8ed62640e4"
"""Id of the demo's first participant in roots of version 1."""


def earlier(transcripts: list[Transcript]) -> list[Transcript]:
    return [replace(transcript, id_rule=1) for transcript in transcripts]


def write_earlier(store: ResultsStore, transcripts: list[Transcript]) -> None:
    """Write a file of `sources/` as versions did that hashed metadata: without the last column, without a form."""
    rows = [module._row(transcript) for transcript in earlier(transcripts)]
    content = to_parquet(pa.Table.from_pylist(rows, schema=pa.schema(list(SOURCES)[:-1])))
    store.write(f"sources/{module._hash(earlier(transcripts))}-{checksum(content)}.parquet", content)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        transcripts=TranscriptsConfig(participants=2),
        results=ResultsConfig(root=str(tmp_path / "root")),
        cluster=ClusterConfig(nodes=1, cpus=2),
    )


@pytest.fixture
def root(config: Config) -> LocalStore:
    """A complete root of the simulator, as an earlier version wrote it."""
    store = open_store(config.results.root)
    write_earlier(store, list(read_transcripts(config.transcripts)))
    commit_all(config, store)
    return store


def commit_all(config: Config, store: ResultsStore) -> None:
    """Commit what the simulator says of all transcripts of the store."""
    scored = SimulatorScorer().score(read_catalogued(store, catalogue_index(store)), condition_named("plain"))
    footer = Footer(
        unit="u",
        condition="plain",
        checkpoint=checkpoint_facts(simulator_checkpoint()),
        scoring=scoring_identity(config),
        engine="simulator",
        tokens=1,
        seconds=1.0,
    )
    commit(store, (list(scored), footer))


def test_the_first_rule_gives_the_ids_of_earlier_versions() -> None:
    first = next(read_transcripts(TranscriptsConfig(participants=2)))
    assert (first.study, first.participant, replace(first, id_rule=1).id) == ("demo_bandit", "0", FIRST_BANDIT)
    assert first.id != FIRST_BANDIT


def test_an_earlier_root_is_read_and_found_whole(config: Config, root: LocalStore) -> None:
    (task,) = status_of(root).tasks
    assert (task.transcripts, task.transcripts_missing) == (8, 0)
    lines, is_well = verify(config, say=lambda _: None)
    assert is_well, lines


def prepared(config: Config, store: ResultsStore) -> Prepared:
    with cluster_to_plan_for(config.cluster) as cluster:
        return prepare(config, [simulator_checkpoint()], Snapshot.read(store), store, cluster)


def test_a_root_that_lost_its_sources_takes_the_same_transcripts_only(config: Config, root: LocalStore) -> None:
    shutil.rmtree(Path(root.location) / "sources")
    with pytest.raises(ResultsError, match=r"has lost its sources/, and none of these transcripts has the id"):
        prepared(config, root)
    assert not (Path(root.location) / "sources").exists()
    config.results.root += "-new"
    store = open_store(config.results.root)
    catalogue(store, read_transcripts(config.transcripts))
    commit_all(config, store)
    shutil.rmtree(Path(store.location) / "sources")
    assert [task.missing for task in prepared(config, store).tasks] == [()]


def test_an_earlier_root_is_not_swept_on(config: Config, root: LocalStore) -> None:
    before = {path: path.read_bytes() for path in Path(root.location).rglob("*") if path.is_file()}
    with pytest.raises(ResultsError) as raised:
        prepared(config, root)
    assert len(str(raised.value).splitlines()) == 1
    assert str(raised.value).startswith(f"{root.location}: was made by an earlier version")
    assert {path: path.read_bytes() for path in Path(root.location).rglob("*") if path.is_file()} == before
