"""Simulated sweeps: every transcript is committed once whatever happens, and no slot is idle that could be used."""

from __future__ import annotations

import random

import pytest

from psych_ray.errors import ConfigError
from psych_ray.results.schema import TranscriptRef
from psych_ray.sweep.plan import PlannedTranscripts, plan_task
from psych_ray.sweep.simulator import Disturbances, simulate
from psych_ray.sweep.starts import WeightsFacts
from psych_ray.sweep.timeline import Doing, Timeline
from psych_ray.sweep.unit import Unit


def units_of(rng: random.Random, weights: str, seconds: float, n_transcripts: int, unit_seconds: float) -> list[Unit]:
    """Units of one task that takes so long in all; lengths of transcripts as skewed as real ones."""
    lengths = [int(rng.lognormvariate(8.6, 1.0)) + 50 for _ in range(n_transcripts)]
    refs = [TranscriptRef(f"{weights}-{k}", "study", "f", k, n, 5) for k, n in enumerate(lengths)]
    task = plan_task(
        checkpoint=weights,
        condition="plain",
        transcripts=PlannedTranscripts.of(refs),
        unit_seconds=unit_seconds,
        characters_per_s=sum(lengths) / seconds,
    )
    return list(task.missing)


def random_history(seed: int) -> tuple[Timeline, int]:
    """A sweep of a few checkpoints on a few nodes on which everything goes wrong that can; transcripts in all."""
    rng = random.Random(seed)
    nodes = {f"n{k}": rng.choice([1, 2, 4, 8]) for k in range(rng.randint(1, 5))}
    largest = max(nodes.values())
    facts, units = {}, []
    for k in range(rng.randint(1, 6)):
        ranks = rng.choice([n for n in (1, 1, 2, 4) if n <= largest])
        facts[f"w{k}"] = WeightsFacts(ranks, ranks > 1, rng.choice([0.0, 10.0, 120.0]))
        units += units_of(rng, f"w{k}", rng.choice([30.0, 600.0, 3600.0]), rng.randint(10, 60), 60.0)
    disturbances = Disturbances(
        preempted_every_s=rng.choice([None, 1800.0, 3600.0]),
        notice_s=rng.choice([0.0, 30.0, 120.0]),
        without_notice=rng.choice([0.0, 0.3, 1.0]),
        replaced_after_s=60.0,
        deaths=rng.choice([0.0, 0.02, 0.1]),
        lost_messages=rng.choice([0.0, 0.02]),
        noise=rng.choice([0.0, 0.5]),
        unit_overhead_s=rng.choice([0.0, 5.0]),
        joins=((rng.uniform(1.0, 600.0), "late", 4),) if rng.random() < 0.3 else (),
    )
    fetch_seconds = rng.choice([None, dict.fromkeys(facts, 100.0)])
    total = sum(len(unit.transcripts) for unit in units)
    across_nodes = rng.random() < 0.2
    timeline = simulate(
        units,
        nodes=nodes,
        facts=facts,
        disturbances=disturbances,
        fetch_seconds=fetch_seconds,
        across_nodes=across_nodes,
        replicas=rng.choice([None, None, 1, 3]),
        seed=seed,
    )
    return timeline, total


@pytest.mark.parametrize("first", range(0, 2000, 250))
def test_whatever_happens_every_transcript_is_committed_once_or_skipped(first):
    skipped = again = 0
    for seed in range(first, first + 250):
        # The simulator raises where one is committed twice, and where nothing can happen any more.
        timeline, total = random_history(seed)
        assert timeline.committed + timeline.skipped == total, seed
        assert timeline.events < 100 * total + 10_000, f"seed {seed}: retries without bound"
        skipped, again = skipped + timeline.skipped, again + timeline.scored_again
    assert min(skipped, again) > 0, "nothing went wrong"


def test_slots_of_a_node_are_never_taken_twice():
    for seed in range(200):
        timeline, _ = random_history(seed)
        changes = [(span.start, 1, span.node, span.ranks) for span in timeline.spans]
        changes += [(span.end, 0, span.node, -span.ranks) for span in timeline.spans]
        taken = dict.fromkeys(timeline.slots, 0)
        for _, _, node, ranks in sorted(changes):
            taken[node] += ranks
            assert taken[node] <= timeline.slots[node], seed


def test_a_small_checkpoint_with_much_to_do_is_scored_by_as_many_replicas_as_pay():
    units = units_of(random.Random(1), "small", 3600.0, 3000, 60.0)
    timeline = simulate(units, nodes={f"n{k}": 8 for k in range(8)}, facts={"small": WeightsFacts(load_seconds=20.0)})
    assert 40 <= timeline.starts["small"] <= 64
    assert timeline.makespan < 20.0 + 3600.0 / 40 + 30.0
    slow = simulate(units, nodes={f"n{k}": 8 for k in range(8)}, facts={"small": WeightsFacts(load_seconds=600.0)})
    assert 2 <= slow.starts["small"] <= 3


def test_nobody_waits_for_the_last_unit_of_another_replica():
    units = units_of(random.Random(1), "w", 8 * 605.0, 5000, 60.0)
    timeline = simulate(units, nodes={"n": 8}, facts={"w": WeightsFacts(load_seconds=1.0)})
    last = sorted(span.end for span in timeline.spans if span.doing == Doing.scoring)
    assert timeline.makespan - last[0] < 10.0, "units at the end are short"


def test_large_gangs_come_first_and_no_gpu_is_idle_meanwhile():
    rng = random.Random(2)
    units, facts = [], {}
    for k in range(12):
        ranks = 4 if k < 3 else 1
        facts[f"w{k}"] = WeightsFacts(ranks, ranks > 1, 60.0 if ranks > 1 else 10.0)
        units += units_of(rng, f"w{k}", 3000.0, 800, 60.0)
    timeline = simulate(units, nodes={"a": 8, "b": 8}, facts=facts)
    assert timeline.makespan <= 1.1 * timeline.bound
    first = {span.weights: span.start for span in reversed(timeline.spans)}
    assert max(first[f"w{k}"] for k in range(3)) == 0.0


def test_a_gang_across_nodes_is_not_late_to_what_needs_one_node():
    units = [unit for k in range(20) for unit in units_of(random.Random(k), f"w{k}", 600.0, 200, 60.0)]
    units += units_of(random.Random(99), "gang", 1200.0, 200, 60.0)
    facts = {f"w{k}": WeightsFacts(load_seconds=20.0) for k in range(20)} | {"gang": WeightsFacts(12, True, 60.0)}
    timeline = simulate(units, nodes={f"n{k}": 8 for k in range(2)}, facts=facts, across_nodes=True)
    assert min(span.start for span in timeline.spans if span.weights == "gang") == 0.0


@pytest.mark.parametrize("without_notice", [0.0, 1.0])
def test_at_most_one_unit_per_replica_is_scored_again_after_a_preemption(without_notice):
    units = [unit for k in range(6) for unit in units_of(random.Random(k), f"w{k}", 20_000.0, 2000, 60.0)]
    facts = {f"w{k}": WeightsFacts(load_seconds=30.0) for k in range(6)}
    disturbances = Disturbances(preempted_every_s=1800.0, without_notice=without_notice, notice_s=30.0)
    timeline = simulate(units, nodes={f"n{k}": 2 for k in range(4)}, facts=facts, disturbances=disturbances)
    preempted = sum(end < timeline.makespan for _, end in timeline.lifetimes.values())
    assert preempted > 10
    assert timeline.skipped == 0
    assert 0 < timeline.scored_again <= 2 * preempted
    assert (timeline.cut > 5) == (not without_notice)


def test_a_sweep_that_does_not_end_as_no_node_lives_long_enough_is_refused_in_one_line():
    units, facts = units_of(random.Random(1), "w", 600.0, 50, 60.0), {"w": WeightsFacts(load_seconds=10_000.0)}
    disturbances = Disturbances(preempted_every_s=360.0)
    with pytest.raises(ConfigError, match=r"not ended after .* days: nodes that live 360 s on average are too short"):
        simulate(units, nodes={"n": 1}, facts=facts, disturbances=disturbances)


def test_weights_are_brought_to_a_disk_while_others_are_scored():
    units = [unit for k in range(6) for unit in units_of(random.Random(k), f"w{k}", 900.0, 300, 60.0)]
    facts = {f"w{k}": WeightsFacts(load_seconds=10.0) for k in range(6)}
    fetch_seconds = dict.fromkeys(facts, 300.0)
    timeline = simulate(units, nodes={"n": 1}, facts=facts, fetch_seconds=fetch_seconds)
    assert timeline.makespan < timeline.bound + 300.0 + 30.0, "only the first is waited for"


def test_a_replica_that_is_still_loading_when_nothing_is_left_is_not_waited_for():
    units = units_of(random.Random(1), "w", 400.0, 400, 20.0)
    timeline = simulate(units, nodes={"n": 4}, facts={"w": WeightsFacts(load_seconds=30.0)})
    last_load = max(span.end for span in timeline.spans if span.doing == Doing.loading)
    last_score = max(span.end for span in timeline.spans if span.doing == Doing.scoring)
    assert last_load <= last_score == timeline.makespan
