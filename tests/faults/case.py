"""One case of the campaign: a results root, the commands that run on it, and what was seen of each disturbance.

Does not know of any fault: those are functions of a case, in `of_processes`, `of_files`, `of_buckets`, `of_nodes`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import s3_server
from support_sweeps import command, finish, n_parts, parts_in, processes_of, start, table, wait_for_parts

from psych_ray.errors import ResultsError
from psych_ray.results.store import ResultsStore, open_store

PARTICIPANTS = 8
LIMIT_S, LIMIT_IN_BUCKET_S = 150.0, 300.0
"""No command of a case takes longer."""
ALL_AT_ONCE = "scoring.unit_seconds=600"
"""One unit for each task: what is in flight then lasts."""
IN_PROCESSES = Path(__file__).with_name("in_processes")


@dataclass
class Disturbance:
    """What followed from one fault."""

    fault: str
    at: float
    """When, seconds since the epoch."""
    parts: Collection[str]
    """Names of the files of parts at that moment."""
    n_lines: int
    """Lines of `units.jsonl` at that moment."""
    kills: int = 0
    """Processes that were killed, stopped or signalled."""
    idle_s: float | None = None
    """Until the next part was written; None where none was."""
    again: int = 0
    """Units that were handed out although some of their transcripts had been before."""


@dataclass
class Case:
    """One results root, and what was seen of it."""

    checkpoint: Path
    root: Path | str
    scratch: Path
    hooks: Path
    """The directory of PSYCH_RAY_FAULTS."""
    rng: random.Random
    expected: pl.DataFrame
    counts: Counter[str] = field(default_factory=Counter)
    server: s3_server.S3Server | None = None
    """Of the bucket, where the root is in one."""
    notes: list[str] = field(default_factory=list)
    disturbances: list[Disturbance] = field(default_factory=list)

    @property
    def store(self) -> ResultsStore:
        """What is in the root."""
        return open_store(str(self.root))

    def command(self, *more: str) -> list[str]:
        """A sweep on the root."""
        few, report = f"transcripts.participants={PARTICIPANTS}", f"report.root={self.scratch.parent}/report"
        return command([self.checkpoint], self.root, few, "results.lease_seconds=3", report, *more)

    def start(self, *more: str) -> subprocess.Popen[str]:
        """Start a sweep on a Ray of its own, with two replicas where there is work for them."""
        return start(self.command("cluster.cpus=2", "cluster.cpus_per_replica=1", *more), self.scratch)

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run another command on the root; its exit code and what it said."""
        code = [sys.executable, "-m", "psych_ray.cli.main", *arguments, f"results.root={self.root}"]
        return self.end(start(code, self.scratch))

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Wait for a command; one that does not end in time is counted and killed."""
        try:
            code, out, err = finish(process, LIMIT_IN_BUCKET_S if self.server else LIMIT_S)
        except subprocess.TimeoutExpired:
            self.counts["hangs"] += 1
            process.kill()
            return -9, "did not end"
        if "Traceback" in err:
            self.counts["tracebacks"] += 1
            self.notes.append(err[-2000:])
        return code, out + err

    def until_some_parts(self, *more: str) -> subprocess.Popen[str]:
        """A sweep that has written a few parts more than there were."""
        process = self.start(*more)
        wait_for_parts(process, self.root, n_parts(self.root) + self.rng.randint(1, 4))
        time.sleep(self.rng.random() * 0.2)
        return process

    def parts(self) -> list[str]:
        """Names of parts, in a random order."""
        found = parts_in(self.store)
        self.rng.shuffle(found)
        return found

    def ranks(self) -> list[int]:
        """Processes that score."""
        found = [p.pid for p in processes_of(self.scratch) if "RankProcess" in " ".join(p.cmdline())]
        self.rng.shuffle(found)
        return found

    def require(self, *, holds: bool, what: str) -> None:
        """Note what is not as it should be."""
        if not holds:
            self.counts["wrong"] += 1
            self.notes.append(what)

    @contextmanager
    def hook(self, **settings: object) -> Iterator[None]:
        """Within the block, the processes of sweeps find these settings."""
        for name, value in settings.items():
            (self.hooks / name).write_text(str(value))
        try:
            yield
        finally:
            for name in settings:
                (self.hooks / name).unlink(missing_ok=True)

    def units(self) -> list[dict[str, Any]]:
        """What processes noted of units so far."""
        with suppress(FileNotFoundError):
            return [json.loads(line) for line in (self.hooks / "units.jsonl").read_text().splitlines()]
        return []

    def wait_until(self, process: subprocess.Popen[str], holds: Callable[[], bool]) -> bool:
        """Wait for something; False where the process ended before."""
        deadline = time.monotonic() + LIMIT_S
        while not holds():
            if process.poll() is not None:
                return False
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return True

    def disturbed(self, fault: Callable[[Case], None], *, kills: int = 0) -> None:
        """Note a disturbance that has just happened; what follows until the next one is taken to be due to it."""
        self.settle()
        parts: Collection[str] = ()
        with suppress(ResultsError):
            if self.server is None or not self.server.is_gone:
                parts = parts_in(self.store)
        self.disturbances.append(Disturbance(fault.__name__, time.time(), parts, len(self.units()), kills))

    def settle(self) -> None:
        """Find out what followed from the last disturbance."""
        if self.disturbances and self.disturbances[-1].idle_s is None:
            last = self.disturbances[-1]
            files = [file for file in self.store.files("responses") if file.name.endswith(".parquet")]
            later = [f.modified for f in files if f.name not in last.parts and "_delta_log" not in f.name]
            later = [at for at in later if at >= last.at - 1]  # buckets tell times in whole seconds
            last.idle_s = max(0.0, min(later) - last.at) if later else None
            last.again = self._again(last.n_lines)

    def _again(self, since: int) -> int:
        handed_out: set[tuple[str, ...]] = set()
        again = 0
        for number, line in enumerate(self.units()):
            if line["what"] == "begin":
                ids = {(*line["task"], one) for one in line["ids"]}
                again += number >= since and not handed_out.isdisjoint(ids)
                handed_out |= ids
            else:
                handed_out -= {(*line["task"], one) for one in line["left"]}
        return again


def send(processes: Collection[int], number: signal.Signals) -> int:
    """Send a signal to processes; to how many that was possible."""
    n = 0
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)
            n += 1
    return n


def kill_all(processes: Collection[psutil.Process]) -> None:
    """Kill processes that may have ended."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def read_between(case: Case) -> None:
    """What can be read now is right, or it is said that it cannot."""
    with suppress(ResultsError):
        case.counts["silent changes"] += changed(table(case.root), case.expected)


KEYS = ["checkpoint", "condition", "transcript", "response"]


def changed(found: pl.DataFrame, expected: pl.DataFrame) -> int:
    """Rows that differ from those of the undisturbed sweep, or that it does not have."""
    joined = found.join(expected, on=KEYS, how="left", suffix="_expected")
    same = (pl.col("nll") - pl.col("nll_expected")).abs() < 1e-4
    for name in ("study", "participant", "char_start", "char_end", "n_tokens", "status"):
        same &= pl.col(name).cast(pl.String) == pl.col(f"{name}_expected").cast(pl.String)
    return joined.filter(~same.fill_null(value=False)).height


def largest_difference(found: pl.DataFrame, expected: pl.DataFrame) -> float:
    """Of the likelihoods of the same response, nats."""
    joined = found.join(expected, on=KEYS, suffix="_expected")
    value = joined.select((pl.col("nll") - pl.col("nll_expected")).abs().max()).item()
    return 0.0 if value is None else float(value)
