"""Units cover the plan exactly; what is committed is never planned again, however the plan was divided before."""

from __future__ import annotations

import pickle
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
from psych_ray.sweep.cost import CHARACTERS_PER_TOKEN, most_characters_read, replica_device, tokens_at_most
from psych_ray.sweep.plan import PlannedTranscripts, Task, by_transcript, fewer_units, plan_task, without_committed
from psych_ray.sweep.unit import Unit
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript

CPU_CORE, GPU = replica_device(ranks=1, cpus=1, gpus=0), replica_device(ranks=1, cpus=4, gpus=1)
IDENTITY = ScoringIdentity(dtype="float32", cut="tokens", cut_at=None, parity=False)


def task_of(refs, *, checkpoint="a", unit_seconds=60.0, n_parameters=10**9, device=CPU_CORE, **more) -> Task:
    return plan_task(
        checkpoint=checkpoint,
        condition="plain",
        transcripts=PlannedTranscripts.of(refs),
        unit_seconds=unit_seconds,
        characters_per_s=device.tokens_per_s(n_parameters) * CHARACTERS_PER_TOKEN,
        **more,
    )


def missing_of(task: Task, store: ResultsStore) -> Task:
    committed = Snapshot.read(store).committed_among([t.id for t in task.transcripts])
    return without_committed([task], committed)[0]


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
        rate = device.tokens_per_s(n_parameters) * CHARACTERS_PER_TOKEN
        max_seconds = max(t.n_characters / rate for t in task.transcripts)
        seconds = [unit.n_characters / rate for unit in task.missing]
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
        task = missing_of(task_of(planned, unit_seconds=rng.choice([0.5, 2, 60])), store)
        commit_units(store, [unit for unit in task.missing if rng.random() < 0.6])
    planned = catalogue(store, everyone)
    task = missing_of(task_of(planned), store)
    commit_units(store, list(task.missing))
    rows = responses(store)
    assert rows.height == sum(len(t.responses) for t in everyone)
    assert rows.unique(["transcript", "response"]).height == rows.height
    assert missing_of(task_of(planned), store).missing == ()
    (task_status,) = status_of(store).tasks
    assert (task_status.transcripts, task_status.transcripts_missing) == (30, 0)
    assert task_status.rows == rows.height


def test_resume_drops_committed_transcripts_of_the_same_task_only():
    task = task_of(refs(12))
    first, second = task.missing[0], task.missing[1]
    held = {t.id for t in (*first.transcripts, *second.transcripts[:1])}
    is_held = np.array([t.id in held for t in task.transcripts])
    (rest,) = without_committed([task], {("a", "plain"): is_held, ("b", "plain"): np.ones_like(is_held)})
    assert [t.id for unit in rest.missing for t in unit.transcripts] == [
        t.id for t in task.transcripts if t.id not in held
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
    assert most_characters_read(at_24k, 131_072) == 24_000 * CHARACTERS_PER_TOKEN
    assert most_characters_read(ScoringConfig(), 4096) == int(4096 * CHARACTERS_PER_TOKEN)
    assert most_characters_read(ScoringConfig(), None) is None
    assert most_characters_read(ScoringConfig(cut=CutBy.characters), None) == 32_768
    assert most_characters_read(ScoringConfig(cut=CutBy.characters, cut_at=50_000), 8192) == 29_491
    assert most_characters_read(ScoringConfig(parity=True, cut_at=5), 16) == 32_768
    for scoring in (at_24k, ScoringConfig(), ScoringConfig(parity=True)):
        most = most_characters_read(scoring, 131_072)
        assert tokens_at_most(10**6, scoring, 131_072) >= min(10**6, most) / CHARACTERS_PER_TOKEN - 1
    task = task_of(refs(200), most_characters=1000)
    assert task.seconds_missing == pytest.approx(
        sum(min(1000, t.n_characters) for t in task.transcripts) / CHARACTERS_PER_TOKEN / CPU_CORE.tokens_per_s(10**9)
    )


def slow_units(wanted, *, max_characters: int, most: int | None, held) -> list[list[TranscriptRef]]:
    """Transcript by transcript: close a unit before it would become too long; then leave out what is held."""
    units: list[list[TranscriptRef]] = []
    length = 0
    for t in (t for t in wanted if t.n_responses):
        read = t.n_characters if most is None else min(most, t.n_characters)
        if not units or length + read > max_characters:
            units.append([])
            length = 0
        units[-1].append(t)
        length += read
    rest = [[t for t in unit if t.id not in held] for unit in units]
    return [unit for unit in rest if unit]


@pytest.mark.parametrize("seed", range(30))
def test_units_are_those_of_the_slow_way_and_share_their_transcripts_between_tasks(seed):
    rng = random.Random(seed)
    wanted = refs(rng.randint(1, 300), seed)
    planned = PlannedTranscripts.of(wanted)
    most = rng.choice([None, 2_000, 30_000])
    max_characters = rng.choice([1, 5_000, 100_000, 10**7])
    read = sum(t.n_characters if most is None else min(most, t.n_characters) for t in planned.refs)
    held = {t.id for t in planned.refs if rng.random() < rng.choice([0, 0.1, 0.9])}
    is_held = np.array([t.id in held for t in planned.refs], np.bool_)
    tasks = without_committed(
        [
            plan_task(
                checkpoint="a",
                condition=condition,
                transcripts=planned,
                unit_seconds=float(max_characters),
                characters_per_s=characters_per_s,
                divided_at=1.0,
                most_characters=most,
            )
            for condition, characters_per_s in [("plain", 1.0), ("chat", 4.0)]
        ],
        {("a", "plain"): is_held, ("a", "chat"): is_held},
    )
    expected = slow_units(wanted, max_characters=min(max_characters, read / 4), most=most, held=held)
    for task, speed in zip(tasks, (1, 4), strict=True):
        assert [list(unit.transcripts) for unit in task.missing] == expected
        assert task.n_responses_missing == sum(t.n_responses for unit in expected for t in unit)
        assert task.n_characters_missing == sum(t.n_characters for unit in expected for t in unit)
        if not held:
            assert task.seconds_missing == pytest.approx(read / speed)
    plain, chat = tasks
    assert all(a.transcripts is b.transcripts for a, b in zip(plain.missing, chat.missing, strict=True))
    assert [unit.task for unit in by_transcript(tasks)] == [("a", "plain"), ("a", "chat")] * len(expected)


@pytest.mark.parametrize("at_most", [1, 7, 50, 199, 200, 1000])
def test_fewer_units_take_as_long_and_have_the_same_transcripts(at_most):
    wanted, rng = refs(100, 3), random.Random(0)
    units = [Unit(*task, (ref,), seconds=rng.random()) for ref in wanted for task in [("a", "plain"), ("b", "chat")]]
    fewer = fewer_units(units, at_most)
    assert len(fewer) <= at_most + 2
    assert fewer == units or len(units) > at_most
    for task in [("a", "plain"), ("b", "chat")]:
        joined = [unit for unit in fewer if unit.task == task]
        assert [ref for unit in joined for ref in unit.transcripts] == wanted
        assert sum(unit.seconds for unit in joined) == pytest.approx(sum(u.seconds for u in units if u.task == task))


def test_what_is_computed_of_the_transcripts_of_a_unit_does_not_travel_with_it():
    (unit, *_) = task_of(refs(100)).missing
    by_hand = Unit(unit.checkpoint, unit.condition, tuple(unit.transcripts), unit.seconds)
    assert hash(by_hand) == hash(unit)
    copy = pickle.loads(pickle.dumps(unit))
    assert copy == unit == by_hand
    assert vars(copy.transcripts) == {}
    assert (copy.id, copy.n_characters, copy.n_responses) == (unit.id, unit.n_characters, unit.n_responses)
    assert unit.longest_seconds == pytest.approx(
        unit.seconds * max(t.n_characters for t in unit.transcripts) / unit.n_characters
    )


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
