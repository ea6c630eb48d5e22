"""What a sweep costs beyond scoring: its wall time over that of scoring the same units in this process, in one run.

    python -m tests.benchmarks.overhead [--participants 150] [--rounds 3] [--unit-seconds 10] [--out FILE]

One demo checkpoint. Starting and loading the replica is left out on both sides: the sweep is timed from the first unit
that is handed out until everything is committed. Rounds alternate, medians are printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from psych_ray.app.cluster import cluster_to_run_on
from psych_ray.app.prepare import Prepared, find, prepare
from psych_ray.app.sweep import replica_specs, run_sweep
from psych_ray.config import (
    CheckpointsConfig,
    CheckpointSource,
    Config,
    ResultsConfig,
    ScoringConfig,
    TranscriptsConfig,
)
from psych_ray.demo import demo_checkpoints
from psych_ray.results.store import open_store
from psych_ray.results.table import open_table
from psych_ray.sweep.plan import by_transcript
from psych_ray.tracking.events import Event, UnitCommitted, UnitStarted
from psych_ray.worker.replica import Replica


@dataclass
class Clock:
    """A tracker that notes when the first unit was handed out, and the last was committed."""

    began: float | None = None
    ended: float = 0.0

    def handle(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, UnitStarted) and self.began is None:
            self.began = time.monotonic()
        elif isinstance(event, UnitCommitted):
            self.ended = time.monotonic()


def main() -> None:
    """Time both, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--participants", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--unit-seconds", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/overhead.json"))
    given = parser.parse_args()
    swept, alone = [], []
    for _ in range(given.rounds):
        with tempfile.TemporaryDirectory() as directory:
            swept.append(sweep(given, Path(directory)))
        with tempfile.TemporaryDirectory() as directory:
            alone.append(score(given, Path(directory)))
    ratio = statistics.median(a / b for a, b in zip(swept, alone, strict=True))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(
        json.dumps({"sweep_s": swept, "units_alone_s": alone, "median_ratio": round(ratio, 3)}, indent=1)
    )
    print(
        f"sweep {statistics.median(swept):.1f} s, the units alone {statistics.median(alone):.1f} s: {ratio:.3f} times"
    )


def sweep(given: argparse.Namespace, root: Path) -> float:
    """Seconds from the first unit to the last commit."""
    config = configuration(given, root)
    clock, store = Clock(), open_store(str(root))
    with open_table(store, "overhead", say=print) as table, cluster_to_run_on(config.cluster) as cluster:
        prepared = prepare(config, find(config, say=print), table.snapshot, store, cluster)
        skipped = run_sweep(prepared, config, table, clock)
    assert not skipped
    assert clock.began is not None
    return clock.ended - clock.began


def score(given: argparse.Namespace, root: Path) -> float:
    """Seconds for the same units in this process, parts included."""
    config = configuration(given, root)
    store = open_store(str(root))
    with open_table(store, "overhead", say=print) as table, cluster_to_run_on(config.cluster) as cluster:
        prepared = prepare(config, find(config, say=print), table.snapshot, store, cluster)
        replica = loaded(prepared, config)
        began = time.monotonic()
        for unit in by_transcript(prepared.tasks):
            replica.score(unit)
        return time.monotonic() - began


def loaded(prepared: Prepared, config: Config) -> Replica:
    """The only replica, in this process."""
    (spec,) = replica_specs(prepared, config).values()
    replica = Replica(spec)
    replica.load()
    assert torch.get_num_threads() == spec.threads
    return replica


def configuration(given: argparse.Namespace, root: Path) -> Config:
    """One checkpoint of the demo."""
    checkpoint = demo_checkpoints(Path(CheckpointsConfig().cache).expanduser(), progress=print)[0]
    return Config(
        checkpoints=CheckpointsConfig(source=CheckpointSource.local, paths=[str(checkpoint)]),
        transcripts=TranscriptsConfig(participants=given.participants),
        scoring=ScoringConfig(unit_seconds=given.unit_seconds),
        results=ResultsConfig(root=str(root)),
    )


if __name__ == "__main__":
    main()
