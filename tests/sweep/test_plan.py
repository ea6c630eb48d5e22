"""Units cover the plan exactly; what is committed is never planned again, however the plan was divided before."""

from __future__ import annotations

import random

import numpy as np
import pytest

from psych_ray.app.status import status_of
from psych_ray.config import Config, ResultsConfig, ScoringConfig
from psych_ray.results.catalogue import catalogue, read_catalogued
from psych_ray.results.parts import commit_part
from psych_ray.results.reading import scan_responses
from psych_ray.results.schema import CheckpointFacts, Footer, ScoringIdentity, TranscriptRef
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import ResultsStore, open_store
from psych_ray.scoring.scored import SimulatorScorer
from psych_ray.sweep.cost import CPU_CORE, GPU
from psych_ray.sweep.plan import Task, plan_task, without_committed
from psych_ray.sweep.unit import Unit
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript

IDENTITY = ScoringIdentity(dtype="float32", cut="tokens", cut_at=None, parity=False)


def task_of(refs, *, checkpoint="a", unit_seconds=60.0, n_parameters=10**9, device=CPU_CORE) -> Task:
    return plan_task(
        checkpoint=checkpoint,
        condition="plain",
        n_parameters=n_parameters,
        transcripts=refs,
        unit_seconds=unit_seconds,
        device=device,
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
        assert max(seconds) <= max(60, max_seconds)
        assert np.median(seconds) > 60 - max_seconds


def person(k: int) -> Transcript:
    text = "".join(f"Trial {t}: <<{'AB'[(k + t) % 2]}>>\n" for t in range(1 + k % 5))
    return Transcript(
        study="s", experiment="e", participant=str(k), text=text, true_nll_nats=tuple(0.1 for _ in range(1 + k % 5))
    )


def commit(store: ResultsStore, unit: Unit) -> None:
    facts = CheckpointFacts(slug=unit.checkpoint, id=unit.checkpoint, fingerprint="f")
    scored = list(SimulatorScorer().score(read_catalogued(store, unit.transcripts), condition_named("plain")))
    commit_part(
        store,
        scored,
        Footer(unit=unit.id, condition="plain", checkpoint=facts, scoring=IDENTITY, engine="simulator"),
    )


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
        for unit in task.missing:
            if rng.random() < 0.6:
                commit(store, unit)
    planned = catalogue(store, everyone)
    (task,) = without_committed([task_of(planned)], Snapshot.read(store).committed)
    for unit in task.missing:
        commit(store, unit)
    rows = scan_responses(store).collect()
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


def test_configurations_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="unit_seconds"):
        ScoringConfig(unit_seconds=0)
    with pytest.raises(ValueError, match="stands twice"):
        Config(conditions=["plain", "plain"])
    assert ResultsConfig().root == "outputs"
