"""Seconds that status and the planning of a widened resume take on a made-up results root of many parts.

    python -m tests.benchmarks.bookkeeping [PARTS] [--root DIR] [--older]

Parts are spread over 20 tasks, with 10 transcripts of 40 responses each. The resumed plan has a fifth more transcripts
and units of another size. `--older` writes footers as before they held counts, so that rows must be read. `--root`
keeps the root for other measurements.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch

import numpy as np

from psych_ray.app.status import status_of
from psych_ray.results import parts
from psych_ray.results.catalogue import catalogue, catalogue_index
from psych_ray.results.parts import PartName, responses_table, to_parquet
from psych_ray.results.schema import CheckpointFacts, Footer, ScoringIdentity
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import ResultsStore, open_store
from psych_ray.scoring.scored import ScoredTranscript
from psych_ray.sweep.cost import GPU
from psych_ray.sweep.plan import Task, plan_task, without_committed
from psych_ray.transcripts.record import Transcript

_TASKS, _TRANSCRIPTS, _RESPONSES = 20, 10, 40
_COUNTED = ("rows", "transcripts", "tallies")


def main() -> None:
    """Make the root, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", type=int, nargs="?", default=5_000)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--older", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        store = open_store(str(given.root or directory))
        if not store.names("responses"):
            with patch("os.fsync"):
                make(store, given.parts // _TASKS, older=given.older)
        began = time.perf_counter()
        status = status_of(store)
        print(f"status: {time.perf_counter() - began:.2f} s, {sum(task.rows for task in status.tasks):,} rows")
        began = time.perf_counter()
        tasks = plan_again(store)
        missing = sum(len(unit.transcripts) for task in tasks for unit in task.missing)
        print(f"planning of a resume: {time.perf_counter() - began:.2f} s, {missing:,} transcripts x tasks missing")


def make(store: ResultsStore, units: int, *, older: bool) -> None:
    """Write `units` parts of every task, and a fifth more transcripts than they hold."""
    rng = np.random.default_rng(0)
    text = "You press <<A>>.\n" * _RESPONSES
    transcripts = [
        Transcript(study=f"study{k % 7}", experiment="e", participant=str(k), text=text)
        for k in range(units * _TRANSCRIPTS * 6 // 5)
    ]
    catalogue(store, transcripts)
    for unit in range(units):
        table = responses_table(
            ScoredTranscript(
                transcript,
                n_tokens_R=np.ones(_RESPONSES, np.int32),
                nll_R=rng.exponential(size=_RESPONSES).astype(np.float32),
                top1_R=rng.random(_RESPONSES) < 0.5,
                status_R=np.zeros(_RESPONSES, np.int8),
                tokens_read=500,
            )
            for transcript in transcripts[unit * _TRANSCRIPTS : (unit + 1) * _TRANSCRIPTS]
        )
        counted = parts._counted(table)
        for task in range(_TASKS):
            slug, condition = f"model-{task // 2}", ("plain", "chat")[task % 2]
            footer = asdict(
                Footer(
                    unit=f"u{unit}",
                    condition=condition,
                    checkpoint=CheckpointFacts(slug=slug, id=slug, fingerprint="f"),
                    scoring=ScoringIdentity(dtype="float32", cut="tokens", cut_at=None, parity=False),
                    engine="transformers",
                    **counted,
                )
            )
            kept = {name: value for name, value in footer.items() if not older or name not in _COUNTED}
            name = PartName(slug, condition, f"u{unit}")
            metadata = {"psych_ray": json.dumps(kept)}
            content = to_parquet(table.replace_schema_metadata(metadata)) if older else to_parquet(table, metadata)
            store.write(str(name), content)


def plan_again(store: ResultsStore) -> list[Task]:
    """Plan as `psych-ray sweep` does: the check of settings, the missing units, the running means."""
    snapshot = Snapshot.read(store)
    assert len(snapshot.scoring) == 1
    refs = catalogue_index(store)
    tasks = [
        plan_task(
            checkpoint=checkpoint,
            condition=condition,
            n_parameters=10**9,
            transcripts=refs,
            unit_seconds=0.7,
            device=GPU,
        )
        for checkpoint, condition in snapshot.tasks
    ]
    assert snapshot.tallies
    return without_committed(tasks, snapshot.committed)


if __name__ == "__main__":
    main()
