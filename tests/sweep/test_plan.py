"""Units cover the plan exactly; what is committed is never planned again, however the plan was divided before."""

from __future__ import annotations

import random

import numpy as np
import pytest
from support_table import commit, responses

from psych_ray.app.status import status_of
from psych_ray.config import ClusterConfig, ClusterKind, Config, CutBy, EngineName, ResultsConfig, ScoringConfig
from psych_ray.results.catalogue import catalogue, read_catalogued
from psych_ray.results.schema import CheckpointFacts, Footer, ScoringIdentity, TranscriptRef
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import ResultsStore, open_store
from psych_ray.scoring.scored import ScoredTranscript, SimulatorScorer
from psych_ray.sweep.cost import CHARACTERS_PER_TOKEN, characters_read, replica_device, tokens_at_most
from psych_ray.sweep.plan import Task, plan_task, without_committed
from psych_ray.sweep.unit import Unit
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript

CPU_CORE, GPU = replica_device(ranks=1, cpus=1, gpus=0), replica_device(ranks=1, cpus=4, gpus=1)
IDENTITY = ScoringIdentity(dtype="float32", cut="tokens", cut_at=None, parity=False)


def task_of(refs, *, checkpoint="a", unit_seconds=60.0, n_parameters=10**9, device=CPU_CORE) -> Task:
    return plan_task(
        checkpoint=checkpoint,
        condition="plain",
        transcripts=refs,
        unit_seconds=unit_seconds,
        seconds_of=lambda t: device.seconds(t.n_characters, n_parameters),
    )


def refs(n: int, seed: int = 0) -> list[TranscriptRef]:
    rng = random.Random(seed)
    return [TranscriptRef(f"t{k}", "s", "f", k, rng.randint(100, 90_000), rng.randint(0, 9)) for k in range(n)]


@pytest.mark.parametrize("seed", range(20))
def test_units_hold_every_transcript_with_responses_once_and_in_order(seed):
    wanted = refs(50, seed)
    task = task_of(wanted, unit_seconds=random.Random(seed).choice([0.1, 30, 600, 1e9]))
    assert [t for unit in task.missing for t in unit.transcripts] == [t for t in wanted if t.n_responses]
    assert task.n_responses == task.n_responses_missing == sum(t.n_responses for t in wanted)
    assert len(task.missing) >= 4


def test_a_unit_takes_about_as_long_as_it_should():
    for device, n_parameters in [(CPU_CORE, 600_000_000), (GPU, 8_000_000_000), (GPU, 70_000_000_000)]:
        task = task_of(refs(20_000), unit_seconds=60, n_parameters=n_parameters, device=device)
        max_seconds = max(device.seconds(t.n_characters, n_parameters) for t in task.transcripts)
        seconds = [device.seconds(unit.n_characters, n_parameters) for unit in task.missing]
        assert [unit.seconds for unit in task.missing] == pytest.approx(seconds)
        assert task.seconds_missing == pytest.approx(sum(seconds))
        assert max(seconds) <= max(60, max_seconds)
        assert np.median(seconds) > 60 - max_seconds


def person(k: int) -> Transcript:
    text = "".join(f"Trial {t}: <<{'AB'[(k + t) % 2]}>>\n" for t in range(1 + k % 5))
    return Transcript(
        study="s", experiment="e", participant=str(k), text=text, true_nll_nats=tuple(0.1 for _ in range(1 + k % 5))
    )


def commit_units(store: ResultsStore, units: list[Unit]) -> None:
    commit(store, *(scored_unit(store, unit) for unit in units))


def scored_unit(store: ResultsStore, unit: Unit) -> tuple[list[ScoredTranscript], Footer]:
    facts = CheckpointFacts(slug=unit.checkpoint, id=unit.checkpoint, fingerprint="f")
    scored = list(SimulatorScorer().score(read_catalogued(store, unit.transcripts), condition_named("plain")))
    footer = Footer(unit=unit.id, condition="plain", checkpoint=facts, scoring=IDENTITY, engine="simulator")
    return scored, footer


@pytest.mark.parametrize("seed", range(12))
def test_a_root_whose_plan_was_divided_differently_is_completed_without_scoring_anything_twice(tmp_path, seed):
    rng = random.Random(seed)
    store, everyone = open_store(str(tmp_path)), [person(k) for k in range(30)]
    for _ in range(6):
        chosen = sorted(rng.sample(range(30), rng.randint(1, 30)))
        planned = catalogue(store, [everyone[k] for k in chosen])
        (task,) = without_committed(
            [task_of(planned, unit_seconds=rng.choice([0.5, 2, 60]))], Snapshot.read(store).committed
        )
        commit_units(store, [unit for unit in task.missing if rng.random() < 0.6])
    planned = catalogue(store, everyone)
    (task,) = without_committed([task_of(planned)], Snapshot.read(store).committed)
    commit_units(store, list(task.missing))
    rows = responses(store)
    assert rows.height == sum(len(t.responses) for t in everyone)
    assert rows.unique(["transcript", "response"]).height == rows.height
    (done,) = without_committed([task_of(planned)], Snapshot.read(store).committed)
    assert done.missing == ()
    (task_status,) = status_of(store).tasks
    assert (task_status.transcripts, task_status.transcripts_missing) == (30, 0)
    assert task_status.rows == rows.height


def test_resume_drops_committed_transcripts_of_the_same_task_only():
    task = task_of(refs(12))
    first, second = task.missing[0], task.missing[1]
    committed = {("a", "plain"): {t.id for t in (*first.transcripts, *second.transcripts[:1])}, ("b", "plain"): {"t11"}}
    (rest,) = without_committed([task], committed)
    assert [t.id for unit in rest.missing for t in unit.transcripts] == [
        t.id for t in task.transcripts if t.id not in committed["a", "plain"]
    ]
    assert rest.missing[-1] == task.missing[-1]
    assert rest.transcripts == task.transcripts
    assert without_committed([task], {}) == [task]


def test_the_time_of_a_unit_is_shared_by_its_parts():
    (unit, *_) = task_of(refs(100), unit_seconds=600).missing
    halves = unit.halves()
    assert sum(half.seconds for half in halves) == pytest.approx(unit.seconds)
    assert halves[0].seconds / unit.seconds == pytest.approx(halves[0].n_characters / unit.n_characters)


def test_a_transcript_is_planned_by_what_is_read_of_it():
    at_24k = ScoringConfig(cut_at=24_000)
    assert characters_read(10**6, at_24k, 131_072) == 24_000 * CHARACTERS_PER_TOKEN
    assert characters_read(10**6, ScoringConfig(), 4096) == int(4096 * CHARACTERS_PER_TOKEN)
    assert characters_read(10**6, ScoringConfig(), None) == 10**6
    assert characters_read(10**6, ScoringConfig(cut=CutBy.characters), None) == 32_768
    assert characters_read(10**6, ScoringConfig(cut=CutBy.characters, cut_at=50_000), 8192) == 29_491
    assert characters_read(10**6, ScoringConfig(parity=True, cut_at=5), 16) == 32_768
    for scoring in (at_24k, ScoringConfig(), ScoringConfig(parity=True)):
        read = characters_read(10**6, scoring, 131_072)
        assert tokens_at_most(10**6, scoring, 131_072) >= read / CHARACTERS_PER_TOKEN - 1


def test_settings_that_would_be_ignored_are_refused():
    for scoring, cluster, line in [
        (ScoringConfig(engine=EngineName.transformers), ClusterConfig(ranks=2), "cluster.ranks=2 with"),
        (ScoringConfig(engine=EngineName.transformers), ClusterConfig(across_nodes=True), "across_nodes"),
        (ScoringConfig(engine=EngineName.deepspeed_tp, nvme="/x"), ClusterConfig(), "only deepspeed_zero uses it"),
    ]:
        with pytest.raises(ValueError, match=line):
            Config(scoring=scoring, cluster=cluster)
    with pytest.raises(ValueError, match="is for cluster=existing"):
        ClusterConfig(address="10.0.0.1:6379")
    with pytest.raises(ValueError, match=r"set cluster\.gpus as well"):
        ClusterConfig(nodes=4, gpu_memory_gb=80)
    with pytest.raises(ValueError, match="the running cluster is read"):
        ClusterConfig(kind=ClusterKind.existing, gpus=4)
    for wrong in ({"gpus": -1}, {"stall_seconds": float("nan")}, {"gpu_memory_gb": float("inf")}, {"nodes": 0}):
        with pytest.raises(ValueError, match=f"cluster.{next(iter(wrong))}="):
            ClusterConfig(**wrong)


def test_configurations_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="unit_seconds"):
        ScoringConfig(unit_seconds=0)
    with pytest.raises(ValueError, match="is named twice"):
        Config(conditions=["plain", "plain"])
    assert ResultsConfig().root == "outputs"
