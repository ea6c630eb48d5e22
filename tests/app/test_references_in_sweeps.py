"""References as checkpoints: found, planned under one condition, without a GPU, and added to roots without them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support_table import commit

from psych_ray.app.cluster import cluster_to_plan_for
from psych_ray.app.plan import plan
from psych_ray.app.prepare import Prepared, checkpoint_facts, find, prepare, scoring_identity
from psych_ray.app.status import status_of
from psych_ray.app.sweep import replica_specs
from psych_ray.checkpoints.find import REFERENCES, load_group
from psych_ray.config import CheckpointsConfig, CheckpointSource, ClusterConfig, Config, Reference, ResultsConfig
from psych_ray.config import TranscriptsConfig as Transcripts
from psych_ray.errors import CheckpointError, ResultsError
from psych_ray.results.catalogue import catalogue, catalogue_index, read_catalogued
from psych_ray.results.schema import Footer
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import ResultsStore, open_store
from psych_ray.scoring.references import reference_scorer
from psych_ray.sweep.unit import Unit
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.sources import read_transcripts
from psych_ray.worker.replica import Replica

BOTH = [Reference.chance, Reference.frequencies]


@pytest.fixture
def model(tiny_checkpoint, byte_tokenizer_directory) -> Path:
    made = tiny_checkpoint("Llama", byte_tokenizer_directory)
    return made.rename(made.with_name("a"))


def config_of(model: Path, root: Path, *conditions: str, references: list[Reference]) -> Config:
    return Config(
        checkpoints=CheckpointsConfig(source=CheckpointSource.local, paths=[str(model)], references=references),
        transcripts=Transcripts(participants=2),
        conditions=list(conditions),
        results=ResultsConfig(root=str(root / "root")),
        cluster=ClusterConfig(nodes=1, cpus=8, gpus=2, gpu_memory_gb=80, memory_gb=100),
    )


def prepared(config: Config, store: ResultsStore) -> Prepared:
    with cluster_to_plan_for(config.cluster) as cluster:
        return prepare(config, find(config, say=print), Snapshot.read(store), store, cluster)


def tasks(config: Config) -> set[tuple[str, str]]:
    return {(task.checkpoint, task.condition) for task in prepared(config, open_store(config.results.root)).tasks}


def test_each_is_scored_under_one_condition_plain_where_there_is_plain(model, tmp_path):
    config = config_of(model, tmp_path, "chat", "plain", references=BOTH)
    own = {("a", "chat"), ("a", "plain")}
    assert tasks(config) == own | {("chance", "plain"), ("frequencies", "plain")}
    store = open_store(config.results.root)
    planned = {(task["checkpoint"], task["condition"]) for task in json.loads(store.read("plan.json"))}
    assert planned == tasks(config) == {(task.checkpoint, task.condition) for task in status_of(store).tasks}
    config = config_of(model, tmp_path, "chat", "persona", references=BOTH)
    assert tasks(config) == {("a", "chat"), ("a", "persona"), ("chance", "chat"), ("frequencies", "chat")}
    assert tasks(config_of(model, tmp_path, "chat", references=[])) == {("a", "chat")}


def test_they_have_no_stage_size_or_base_and_no_other_than_their_own_name(model, tmp_path):
    found = find(config_of(model, tmp_path, "plain", references=list(Reference)), say=print)
    for one, reference in zip(found[1:], Reference, strict=True):
        facts = checkpoint_facts(one)
        assert (facts.slug, facts.id, facts.family) == (reference.value, reference.value, "reference")
        assert (facts.stage, facts.size_b, facts.base) == (None, None, None)
    assert {load_group(one) for one in found} == {"a", REFERENCES}
    assert len({one.fingerprint for one in found}) == len(found)


def test_one_replica_without_a_gpu_scores_all_of_them(model, tmp_path):
    config = config_of(model, tmp_path, "plain", references=list(Reference))
    store = open_store(config.results.root)
    ready = prepared(config, store)
    assert ready.placements[REFERENCES].reason == "no weights"
    assert (ready.devices["a"].name, ready.devices[REFERENCES].name) == ("GPU", "4 CPU cores")
    spec = replica_specs(ready, config)[REFERENCES]
    assert (spec.of_references, spec.ranks, len(spec.checkpoints)) == (True, 1, 3)
    replica = Replica(spec)
    assert replica.load().notes == ()
    for task in ready.tasks[1:]:
        reports = [replica.score(unit) for unit in task.missing]
        expected = list(
            reference_scorer(task.checkpoint).score(read_catalogued(store, task.transcripts), condition_named("plain"))
        )
        assert sum(report.responses for report in reports) == task.n_responses
        scored = sum(tally.responses for report in reports for tally in report.by_study.values())
        assert scored == sum(int((one.nll_R >= 0).sum()) for one in expected) > 0
    assert replica.work.done > 0


def test_a_plan_counts_no_gpu_hours_of_them(model, tmp_path):
    planned = plan(config_of(model, tmp_path, "plain", references=BOTH), say=print)
    hours = {one.weights: one.gpu_hours for one in planned.weights}
    assert hours[REFERENCES] == 0 < hours["a"]
    assert "rates are assumed, not measured; times to load are assumed" in planned.lines


def commit_reference(config: Config, store: ResultsStore, reference: Reference) -> None:
    """Commit the whole of a reference."""
    (checkpoint,) = (one for one in find(config, say=print) if one.slug == reference)
    refs = catalogue_index(store)
    footer = Footer(
        unit=Unit(reference.value, "plain", refs).id,
        condition="plain",
        checkpoint=checkpoint_facts(checkpoint),
        scoring=scoring_identity(config),
        engine=reference.value,
    )
    scored = reference_scorer(reference.value).score(read_catalogued(store, refs), condition_named("plain"))
    commit(store, (list(scored), footer))


def test_a_root_without_them_is_completed(model, tmp_path):
    config = config_of(model, tmp_path, "plain", references=[Reference.chance])
    store = open_store(config.results.root)
    catalogue(store, read_transcripts(config.transcripts))
    commit_reference(config, store, Reference.chance)
    more = config_of(model, tmp_path, "plain", references=BOTH)
    ready = prepared(more, store)
    assert {task.checkpoint for task in ready.tasks if task.missing} == {"a", "frequencies"}
    assert [one.slug for one in replica_specs(ready, more)[REFERENCES].checkpoints] == ["chance", "frequencies"]


def test_a_root_with_other_numbers_of_a_reference_is_refused(model, tmp_path, monkeypatch):
    config = config_of(model, tmp_path, "plain", references=BOTH)
    store = open_store(config.results.root)
    catalogue(store, read_transcripts(config.transcripts))
    commit_reference(config, store, Reference.chance)
    monkeypatch.setattr("psych_ray.checkpoints.checkpoint._RULES", 99)
    with pytest.raises(ResultsError, match="holds responses of another chance"):
        prepared(config, store)


def test_a_checkpoint_with_the_name_of_a_reference_is_refused(model, tmp_path):
    for name in Reference:
        model = model.rename(model.with_name(name.value))
        for references in (BOTH, []):
            with pytest.raises(
                CheckpointError, match=rf"/{name}: a checkpoint named {name} would be taken for the ref"
            ):
                find(config_of(model, tmp_path, "plain", references=references), say=print)
    (model / "psych_ray.json").write_text(json.dumps({"id": "mine"}))
    assert [one.slug for one in find(config_of(model, tmp_path, "plain", references=BOTH[:1]), say=print)] == [
        "mine", BOTH[0].value,
    ]  # fmt: skip


def test_a_reference_is_nobody_s_base(model, tmp_path):
    (model / "psych_ray.json").write_text(json.dumps({"id": "a", "stage": "instruct", "base": "chance"}))
    with pytest.raises(CheckpointError, match="a: its base chance has the name of a reference, which is no base"):
        find(config_of(model, tmp_path, "plain", references=BOTH), say=print)
    with pytest.raises(CheckpointError, match="a: its base chance has the name of a reference"):
        find(config_of(model, tmp_path, "plain", references=[]), say=print)


def test_only_chooses_among_checkpoints_and_not_references(model, tmp_path):
    config = config_of(model, tmp_path, "plain", references=BOTH)
    config.checkpoints = replace(config.checkpoints, only=["a"])
    assert [one.slug for one in find(config, say=print)] == ["a", "chance", "frequencies"]
