"""The study's sweep, simulated: every checkpoint of checkpoints=paper under three conditions on many GPUs.

    python -m tests.benchmarks.simulation [--gpus 64] [--per-node 8] [--transcripts 208021] [--preempted-every 3600]
        [--notice 120] [--fetch-gb-per-s 0] [--picture FILE.png]

Prints the makespan beside what no schedule could be below, and how long the scheduler took for an event. Lengths of
transcripts are drawn from the real ones in ../shared/data where that exists, else from a lognormal distribution with
their median and 90th percentile. Checkpoints of up to 20 billion parameters take one GPU, up to 34 two, else four.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from psych_ray.checkpoints.listed import listed_card, listed_ids
from psych_ray.checkpoints.shape import CheckpointShape
from psych_ray.report.plan_page import write_plan_picture
from psych_ray.results.schema import TranscriptRef
from psych_ray.sweep.cost import CHARACTERS_PER_TOKEN, load_seconds, replica_device
from psych_ray.sweep.plan import PlannedTranscripts, by_transcript, plan_task
from psych_ray.sweep.simulator import Disturbances, simulate
from psych_ray.sweep.starts import WeightsFacts
from psych_ray.sweep.timeline import Doing

_TEXTS = Path(__file__).parents[3] / "shared" / "data" / "psych-201-test-sample.parquet"


def lengths(n: int) -> list[int]:
    """Characters of so many transcripts."""
    rng = np.random.default_rng(0)
    if _TEXTS.exists():
        import polars as pl

        return rng.choice(pl.read_parquet(_TEXTS, columns=["text"])["text"].str.len_chars().to_numpy(), n).tolist()
    return np.maximum(50, rng.lognormal(np.log(6_000), 1.2, n)).astype(int).tolist()


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--per-node", type=int, default=8)
    parser.add_argument("--transcripts", type=int, default=208_021)
    parser.add_argument("--preempted-every", type=float, default=3600.0, help="seconds, mean; 0: never")
    parser.add_argument("--notice", type=float, default=120.0)
    parser.add_argument("--replaced-after", type=float, default=180.0)
    parser.add_argument("--fetch-gb-per-s", type=float, default=0.0, help="0: weights lie on every node's disk")
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    planned = PlannedTranscripts.of(
        TranscriptRef(f"t{k}", "s", "f", k, n, 100) for k, n in enumerate(lengths(given.transcripts))
    )
    tasks, facts, fetch_seconds = [], {}, {}
    for name in listed_ids(["*"]):
        card = listed_card(name)
        n_parameters = int((card.size_b if card and card.size_b else 8) * 1e9)
        ranks = 1 if n_parameters <= 20e9 else 2 if n_parameters <= 34e9 else 4
        rate = replica_device(ranks=ranks, cpus=4, gpus=1).tokens_per_s(n_parameters) * CHARACTERS_PER_TOKEN
        weights = name.replace("/", "--")
        facts[weights] = WeightsFacts(ranks, ranks > 1, load_seconds(CheckpointShape(n_parameters=n_parameters)))
        fetch_seconds[weights] = 2 * n_parameters / (given.fetch_gb_per_s * 1e9 or 1.0)
        tasks += [
            plan_task(
                checkpoint=weights,
                condition=condition,
                transcripts=planned,
                unit_seconds=60.0,
                characters_per_s=rate,
                most_characters=32_768,
            )
            for condition in ("plain", "chat", "persona")
        ]
    units = by_transcript(tasks)
    began = time.monotonic()
    timeline = simulate(
        units,
        nodes={f"node {k}": given.per_node for k in range(given.gpus // given.per_node)},
        facts=facts,
        fetch_seconds=fetch_seconds if given.fetch_gb_per_s else None,
        disturbances=Disturbances(
            preempted_every_s=given.preempted_every or None,
            notice_s=given.notice,
            replaced_after_s=given.replaced_after,
            noise=0.2,
        ),
    )
    seconds = time.monotonic() - began
    preempted = sum(end < timeline.makespan for _, end in timeline.lifetimes.values())
    total = len(planned.refs) * len(tasks)
    lines = [
        f"{len(facts)} checkpoints, {len(tasks)} tasks, {len(units):,} units on {given.gpus} GPUs",
        f"makespan {timeline.makespan / 3600:.2f} h, no schedule is below {timeline.bound / 3600:.2f} h: "
        f"{timeline.makespan / timeline.bound:.3f} times",
        f"{preempted} preemptions of nodes, {sum(timeline.starts.values()):,} starts of replicas, {timeline.cut} units "
        f"cut, {timeline.scored_again} scored again",
        f"of the GPU-hours {timeline.seconds(Doing.scoring) / timeline.slot_seconds:.1%} scoring, "
        f"{timeline.seconds(Doing.loading) / timeline.slot_seconds:.1%} loading",
        f"{timeline.committed:,} of {total:,} transcripts x tasks committed, {timeline.skipped} skipped",
        f"{timeline.events:,} events, {1e3 * seconds / timeline.events:.3f} ms each",
    ]
    print("\n".join(lines))
    if given.picture:
        write_plan_picture(timeline, given.picture, title="The study's checkpoints", lines=lines, columns=(), rows=[])


if __name__ == "__main__":
    main()
