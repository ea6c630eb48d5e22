"""Seconds and memory that a plan takes of many checkpoints over many transcripts, all made up, and its resume.

    python -m tests.benchmarks.planning [--checkpoints 101] [--transcripts 208000] [--conditions 3] [--done 0.5]
        [--root DIR] [--steps plan make resume]

Lengths are lognormal with a mean of 15,000 characters, checkpoints have 0.6 to 70 billion parameters, units take a
minute. Of the units of every task, `--done` are in footers of parts that were never written; the resume reads those
footers, sums them and plans the rest. Memory is the largest that the process has held, the footers' making left out.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import resource
import tempfile
import time
from contextlib import contextmanager

import numpy as np

from psych_ray.results.footers import merge_footers, scan_footers, write_footers
from psych_ray.results.log import LoggedPart
from psych_ray.results.schema import CheckpointFacts, Footer, Part, PartName, ScoringIdentity, Tally, TranscriptRef
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import open_store
from psych_ray.sweep.cost import CHARACTERS_PER_TOKEN, replica_device
from psych_ray.sweep.plan import PlannedTranscripts, Task, by_transcript, plan_task, without_committed

_SIZES_B = (0.6, 1, 1.7, 3, 4, 7, 8, 14, 27, 32, 70)
_CONDITIONS = ("plain", "chat", "persona", "zero_shot")
_PARTS_PER_FILE = 4_000
_SCORING = ScoringIdentity(dtype="bfloat16", cut="tokens", cut_at=None, parity=False)


def main() -> None:
    """Plan, make the footers of the units that are done, resume; print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=101)
    parser.add_argument("--transcripts", type=int, default=208_000)
    parser.add_argument("--conditions", type=int, default=3)
    parser.add_argument("--done", type=float, default=0.5)
    parser.add_argument("--root", help="keep the root there")
    parser.add_argument("--steps", nargs="+", default=["plan", "make", "resume"], choices=["plan", "make", "resume"])
    given = parser.parse_args()
    steps = {"plan": plan, "make": make, "resume": resume}
    with tempfile.TemporaryDirectory() as directory:
        root = given.root or directory
        for step in (steps[name] for name in given.steps):  # each in a process of its own, whose memory is measured
            process = multiprocessing.get_context("spawn").Process(target=step, args=(given, root))
            process.start()
            process.join()
            assert process.exitcode == 0


def plan(given: argparse.Namespace, root: str) -> None:
    """All units of the plan, in the order of the scheduler."""
    refs = transcripts(given.transcripts)
    with measured("plan"):
        tasks = all_tasks(refs, given)
        units = by_transcript(tasks)
        seconds = sum(unit.seconds for unit in units)
        longest = max(unit.longest_seconds for unit in units)
        responses = sum(task.n_responses for task in tasks)
        with measured("  of that the ids of all units"):
            n_ids = len({unit.id for unit in units})
    print(
        f"  {len(tasks):,} tasks, {len(units):,} units of {n_ids:,} sets of transcripts, {responses:,} responses, "
        f"{seconds / 3600:,.0f} hours of one replica, longest transcript {longest:,.0f} s"
    )


def make(given: argparse.Namespace, root: str) -> None:
    """Write the footers of the units that are done."""
    store = open_store(root)
    batch: list[Part] = []
    for task in all_tasks(transcripts(given.transcripts), given):
        for unit in task.missing[: int(given.done * len(task.missing))]:
            batch.append(made_up_part(*unit.task, unit.id, [t.id for t in unit.transcripts]))
            if len(batch) == _PARTS_PER_FILE:
                write_footers(store, batch)
                batch = []
    write_footers(store, batch)
    size = sum(file.size for file in store.files("footers"))
    print(f"  footers: {size / 1e6:,.0f} MB in {len(list(store.files('footers'))):,} files")


def resume(given: argparse.Namespace, root: str) -> None:
    """The snapshot, and what is missing."""
    store, refs = open_store(root), transcripts(given.transcripts)
    logged = [
        LoggedPart(part.name, part.size, part.footer.rows)
        for task in all_tasks(refs, given)
        for unit in task.missing[: int(given.done * len(task.missing))]
        for part in [made_up_part(*unit.task, unit.id, [t.id for t in unit.transcripts])]
    ]
    print(f"  {len(logged):,} parts in the log")
    with measured("resume"):
        with measured("  of that the footers"):
            footers = scan_footers(store, logged)
        with measured("  of that their sums"):
            snapshot = Snapshot.of(store, logged, footers)
        with measured("  of that the plan"):
            tasks = all_tasks(refs, given)
            rest = without_committed(tasks, snapshot.committed_among([ref.id for ref in tasks[0].transcripts]))
            units = by_transcript(rest)
    n_committed = sum(len(task.transcripts) for task in snapshot.tasks.values())
    n_missing = sum(len(unit.transcripts) for unit in units)
    assert n_committed + n_missing == len(tasks) * len(tasks[0].transcripts)
    print(f"  {n_committed:,} transcripts x tasks committed, {n_missing:,} missing in {len(units):,} units")
    with measured("merging the footers"):
        merge_footers(store, footers)


def all_tasks(refs: list[TranscriptRef], given: argparse.Namespace) -> list[Task]:
    """As `prepare` makes them."""
    planned, tasks = PlannedTranscripts.of(refs), []
    for number in range(given.checkpoints):
        size_b = _SIZES_B[number % len(_SIZES_B)] * (1 + 0.001 * (number // len(_SIZES_B)))
        device = replica_device(ranks=2 if size_b >= 70 else 1, cpus=4, gpus=1)
        rate = CHARACTERS_PER_TOKEN * device.tokens_per_s(int(1e9 * size_b))
        tasks += [
            plan_task(
                checkpoint=f"model-{number}",
                condition=condition,
                transcripts=planned,
                unit_seconds=60.0,
                characters_per_s=rate,
                most_characters=(None, 115_000)[number % 2],
            )
            for condition in _CONDITIONS[: given.conditions]
        ]
    return tasks


def transcripts(n: int) -> list[TranscriptRef]:
    """References with the ids, lengths and files that a catalogue has."""
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(9.0, 1.1, n)).astype(int) + 50
    return [
        TranscriptRef(
            hashlib.blake2b(str(k).encode(), digest_size=16).hexdigest(),
            f"study{k % 100}",
            f"sources/{k // 300}.parquet",
            k % 300,
            length,
            1 + length // 300,
        )
        for k, length in enumerate(lengths.tolist())
    ]


def made_up_part(checkpoint: str, condition: str, unit: str, ids: list[str]) -> Part:
    """A part that was never written."""
    checksum = hashlib.blake2b(f"{checkpoint} {condition} {unit}".encode(), digest_size=16).hexdigest()
    footer = Footer(
        unit=unit,
        condition=condition,
        checkpoint=CheckpointFacts(slug=checkpoint, id=checkpoint, fingerprint="f"),
        scoring=_SCORING,
        engine="transformers",
        versions={"torch": "2"},
        rows=40 * len(ids),
        rows_by_status={"scored": 40 * len(ids)},
        transcripts=ids,
        tallies={f"study{k}": Tally(40, 20.5, 7) for k in range(min(len(ids), 3))},
        tokens=4_000 * len(ids),
        seconds=60.0,
        device="GPU",
    )
    return Part(PartName(checkpoint, condition, unit, checksum), 9_000, footer)


@contextmanager
def measured(what: str):
    """Print how long the block took, and the most memory held so far."""
    began, cpu_began = time.perf_counter(), time.process_time()
    yield
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    print(f"{what}: {seconds:.1f} s ({cpu_seconds:.1f} s of CPU), at most {gigabytes:.2f} GB held", flush=True)


if __name__ == "__main__":
    main()
