"""From a folder of studies to the report: what was refused, and the domain of each study, stand in its tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from support_table import commit

from psych_ray.app.cluster import cluster_to_plan_for
from psych_ray.app.prepare import Prepared, checkpoint_facts, prepare, scoring_identity
from psych_ray.app.report import report
from psych_ray.app.verify import verify
from psych_ray.checkpoints.find import simulator_checkpoint
from psych_ray.config import (
    ClusterConfig,
    Config,
    OnError,
    ReportConfig,
    ResultsConfig,
    StudyConfig,
    TranscriptsConfig,
    TranscriptSource,
)
from psych_ray.errors import ConfigError, ResultsError
from psych_ray.results.catalogue import FOLDER, catalogue_index, read_catalogued
from psych_ray.results.refused import REFUSED
from psych_ray.results.schema import Footer
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import open_store
from psych_ray.scoring.scored import SimulatorScorer
from psych_ray.transcripts.conditions import condition_named

RECORD = {"text": "You press <<A>>.", "experiment": "e", "true_nll_nats": [0.5]}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Two studies that can be used, one of them in part, and an archive that cannot."""
    records = {
        "guenther2020LDT": [{"RTs": [1, 2]}, {"RTs": [5]}, {"RTs": []}],
        "mine": [{}, {"text": "<<"}, {"text": "ab <<"}],
    }
    for study, fields in records.items():
        folder = tmp_path / "studies" / study
        folder.mkdir(parents=True)
        made = [json.dumps(RECORD | {"participant": number} | one) for number, one in enumerate(fields)]
        (folder / "prompts.jsonl").write_text("\n".join(made))
    (tmp_path / "studies" / "zip").mkdir()
    (tmp_path / "studies" / "zip" / "prompts.jsonl.zip").write_bytes(b"no zip")
    (tmp_path / "domains.yaml").write_text("domains: {Attention: [mine]}")
    return Config(
        transcripts=TranscriptsConfig(
            source=TranscriptSource.files, path=str(tmp_path / "studies"), on_error=OnError.skip
        ),
        results=ResultsConfig(root=str(tmp_path / "root")),
        cluster=ClusterConfig(nodes=1, cpus=2),
        report=ReportConfig(root=str(tmp_path / "report")),
        study=StudyConfig(domains=str(tmp_path / "domains.yaml")),
    )


def swept(config: Config) -> Prepared:
    """Prepare the sweep, and commit what the simulator says of all its transcripts."""
    store = open_store(config.results.root)
    with cluster_to_plan_for(config.cluster) as cluster:
        prepared = prepare(config, [simulator_checkpoint()], Snapshot.read(store), store, cluster)
    scored = list(SimulatorScorer().score(read_catalogued(store, catalogue_index(store)), condition_named("plain")))
    footer = Footer(
        unit="u",
        condition="plain",
        checkpoint=checkpoint_facts(simulator_checkpoint()),
        scoring=scoring_identity(config),
        engine="simulator",
        tokens=1,
        seconds=1.0,
    )
    commit(store, (scored, footer))
    return prepared


def test_the_report_has_what_was_refused_and_the_domains(config: Config, tmp_path: Path) -> None:
    prepared = swept(config)
    assert len(prepared.skipped) == 3
    assert [str(left) for left in prepared.left_out] == [
        "guenther2020LDT: reaction times of 2 participants left out: `RTs` has not one entry for each response"
    ]
    store = open_store(config.results.root)
    report(config, store, Snapshot.read(store))
    found = pl.read_csv(tmp_path / "report" / "tables" / "refused.csv")
    assert found.select("study", "what", "n").rows() == [
        ("guenther2020LDT", "reaction times", 2),
        ("mine", "transcripts", 2),
        ("zip", "files", 1),
    ]
    assert found["reason"][1] == "`text`, character …: `<<` opens a response that is never closed"
    assert found["example"][1].endswith("mine/prompts.jsonl line 2: " + found["reason"][1].replace("…", "0"))
    by_study = pl.read_csv(tmp_path / "report" / "tables" / "by_study.csv")
    assert by_study.select("study", "domain", "n_responses").rows() == [
        ("guenther2020LDT", "Psycholinguistics", 3),
        ("mine", "Attention", 1),
    ]
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Psycholinguistics" in page
    assert "is a zip that cannot be read" in page


def test_a_later_sweep_of_other_studies_keeps_what_was_refused(config: Config, tmp_path: Path) -> None:
    swept(config)
    first = (tmp_path / "root" / REFUSED).read_bytes()
    config.transcripts.studies = ["guenther*"]
    swept(config)
    assert (tmp_path / "root" / REFUSED).read_bytes() == first


def test_damage_is_found_by_verify_and_told_by_the_report(config: Config, tmp_path: Path) -> None:
    swept(config)
    assert verify(config, say=lambda _: None)[1]
    path = tmp_path / "root" / REFUSED
    path.write_bytes(path.read_bytes().replace(b'"n": 2', b'"n": 3'))
    lines, is_well = verify(config, say=lambda _: None)
    assert not is_well
    assert any("refused.json: damaged (its checksum is not that of its rows)" in line for line in lines)
    store = open_store(config.results.root)
    with pytest.raises(ResultsError, match=r"refused\.json: damaged"):
        report(config, store, Snapshot.read(store))


def test_domains_that_cannot_be_read_are_refused_before_a_sweep(config: Config, tmp_path: Path) -> None:
    from psych_ray.app.sweep import sweep

    (tmp_path / "domains.yaml").write_text("Attention: [mine]")
    config.cluster.nodes = None
    with pytest.raises(ConfigError, match=r"study\.domains=.*has not the keys domains"):
        sweep(config, say=lambda _: None)
    assert not (tmp_path / "root").exists()


def test_a_root_without_sources_has_a_report_that_says_so(config: Config, tmp_path: Path) -> None:
    swept(config)
    shutil.rmtree(tmp_path / "root" / FOLDER)
    store = open_store(config.results.root)
    lines = report(config, store, Snapshot.read(store))
    assert [line.partition(":")[0] for line in lines[-2:]] == ["groups", "viewer"]
    assert all("sources: has no transcripts" in line for line in lines[-2:])
    assert (tmp_path / "report" / "index.html").exists()
