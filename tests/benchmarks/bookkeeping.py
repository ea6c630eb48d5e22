"""Seconds that status and a widened resume take on a made-up results root of many parts.

    python -m tests.benchmarks.bookkeeping [PARTS] [--root DIR] [--out FILE]

Parts are spread over 20 tasks, with 10 transcripts of 40 responses each, and committed 64 at a time. Their files have
the right names and sizes and no content: neither command opens one. The resumed plan has a fifth more transcripts and
units of another size. `--root` keeps the root for other measurements.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from psych_ray.app.status import status_of
from psych_ray.results.catalogue import catalogue, catalogue_index
from psych_ray.results.footers import write_footers
from psych_ray.results.log import ResponsesLog
from psych_ray.results.schema import CheckpointFacts, Footer, Part, PartName, ScoringIdentity, Tally, TranscriptRef
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import ResultsStore, open_store
from psych_ray.results.table import open_table
from psych_ray.sweep.cost import replica_device
from psych_ray.sweep.plan import PlannedTranscripts, Task, plan_task, without_committed
from psych_ray.transcripts.record import Transcript

_TASKS, _TRANSCRIPTS, _RESPONSES, _BATCH, _BYTES = 20, 10, 40, 64, 9_000


def main() -> None:
    """Make the root, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", type=int, nargs="?", default=5_000)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/bookkeeping.json"))
    given = parser.parse_args()
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as directory:
        store = open_store(str(given.root or directory))
        if not store.exists("responses/_delta_log/00000000000000000000.json"):
            with timed("making the root", seconds), patch("os.fsync"):
                make(store, given.parts // _TASKS)
        for when in ("", ", again"):
            with timed(f"status{when}", seconds):
                rows = sum(task.rows for task in status_of(store).tasks)
            print(f"  {rows:,} rows")
            with (
                timed(f"resume, from the lease to the plan{when}", seconds),
                open_table(store, "benchmark", say=print) as table,
                timed(f"of that the plan{when}", seconds),
            ):
                tasks = plan_again(store, table.snapshot)
            missing = sum(len(unit.transcripts) for task in tasks for unit in task.missing)
            print(f"  {missing:,} transcripts x tasks missing")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"parts": given.parts, "seconds": seconds}, indent=1))


@contextmanager
def timed(what: str, seconds: dict[str, float]):
    """Print, and keep, how long the block took."""
    began = time.perf_counter()
    yield
    seconds[what] = round(time.perf_counter() - began, 2)
    print(f"{what}: {seconds[what]:.2f} s", flush=True)


def make(store: ResultsStore, units: int) -> None:
    """Commit `units` parts of every task, and catalogue a fifth more transcripts than they hold."""
    text = "You press <<A>>.\n" * _RESPONSES
    refs = catalogue(
        store,
        (
            Transcript(study=f"study{k % 7}", experiment="e", participant=str(k), text=text)
            for k in range(units * _TRANSCRIPTS * 6 // 5)
        ),
    )
    log = ResponsesLog(store)
    log.take_over()
    batch: list[Part] = []
    for unit in range(units):
        of_unit = refs[unit * _TRANSCRIPTS : (unit + 1) * _TRANSCRIPTS]
        batch += [made_up_part(store, task, f"u{unit}", of_unit) for task in range(_TASKS)]
        if len(batch) >= _BATCH or unit == units - 1:
            write_footers(store, batch)
            log.commit(batch)
            batch = []


def made_up_part(store: ResultsStore, task: int, unit: str, refs: list[TranscriptRef]) -> Part:
    """A part that was never written; its file has a size and no content."""
    slug, condition = f"model-{task // 2}", ("plain", "chat")[task % 2]
    name = PartName(slug, condition, unit, hashlib.blake2b(f"{task} {unit}".encode(), digest_size=16).hexdigest())
    path = Path(store.location) / str(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.truncate(path, _BYTES)
    rows = len(refs) * _RESPONSES
    footer = Footer(
        unit=unit,
        condition=condition,
        checkpoint=CheckpointFacts(slug=slug, id=slug, fingerprint="f"),
        scoring=ScoringIdentity(dtype="float32", cut="tokens", cut_at=None, parity=False),
        engine="transformers",
        versions={"torch": "2"},
        rows=rows,
        rows_by_status={"scored": rows},
        transcripts=[ref.id for ref in refs],
        tallies={study: Tally(_RESPONSES, 20.5, 7) for study in dict.fromkeys(ref.study for ref in refs)},
        seconds=60.0,
    )
    return Part(name, _BYTES, footer)


def plan_again(store: ResultsStore, snapshot: Snapshot) -> list[Task]:
    """Plan as `psych-ray sweep` does: the check of settings, the missing units, the running means."""
    assert len(snapshot.scoring) == 1
    refs = catalogue_index(store)
    planned = PlannedTranscripts.of(refs)
    rate = 3.6 * replica_device(ranks=1, cpus=4, gpus=1).tokens_per_s(10**9)
    tasks = [
        plan_task(
            checkpoint=checkpoint,
            condition=condition,
            transcripts=planned,
            unit_seconds=0.7,
            characters_per_s=rate,
        )
        for checkpoint, condition in snapshot.tasks
    ]
    assert snapshot.tallies
    return without_committed(tasks, snapshot.committed_among([ref.id for ref in planned.refs]))


if __name__ == "__main__":
    main()
