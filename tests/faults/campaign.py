"""A seeded campaign of faults: whatever happens to a sweep, its final table is that of an undisturbed one.

    make faults [N=20] [SEED=0]

Each case takes a fresh results root, one in four of them in a bucket of an S3 server on loopback, and disturbs it one
to three times: processes are killed and stopped, two sweeps run at once, files are emptied, cut, copied, exchanged,
flipped or truncated, and requests to a bucket fail or are not answered. Then the same command, and where it asks for
that `psych-ray verify repair=true`, must lead to the same rows. Prints a line for each case, and at the end how many
rows were lost or doubled, how many changes were silent, and how many commands did not end in time.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import s3_server
from support_checkpoints import byte_tokenizer, make_checkpoint
from support_sweeps import (
    command,
    finish,
    n_parts,
    parts_in,
    processes_of,
    start,
    table,
    wait_for_parts,
    wait_until_gone,
)

from psych_ray.errors import ResultsError
from psych_ray.results.store import ResultsStore, open_store

BUCKET = "bucket"
LIMIT_S, LIMIT_IN_BUCKET_S = 150.0, 300.0
"""No command of a case takes longer."""
KEYS = ["checkpoint", "condition", "transcript", "response"]


@dataclass
class Case:
    """One results root, and what was seen of it."""

    checkpoint: Path
    root: Path | str
    scratch: Path
    rng: random.Random
    expected: pl.DataFrame
    counts: Counter[str]
    server: s3_server.S3Server | None = None
    """Of the bucket, where the root is in one."""
    notes: list[str] = field(default_factory=list)

    @property
    def store(self) -> ResultsStore:
        """What is in the root."""
        return open_store(str(self.root))

    def start(self, *more: str) -> subprocess.Popen[str]:
        """Start a sweep on the root."""
        report = f"report.root={self.scratch.parent}/report"
        return start(command([self.checkpoint], self.root, "results.lease_seconds=3", report, *more), self.scratch)

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

    def until_some_parts(self) -> subprocess.Popen[str]:
        """A sweep that has written a few parts more than there were."""
        process = self.start()
        wait_for_parts(process, self.root, n_parts(self.root) + self.rng.randint(1, 6))
        time.sleep(self.rng.random() * 0.2)
        return process

    def parts(self) -> list[str]:
        """Names of parts, in a random order."""
        found = parts_in(self.store)
        self.rng.shuffle(found)
        return found

    def some_parts(self) -> list[str]:
        """The same, after a sweep that was killed where there are too few."""
        if len(self.parts()) < 3:
            kill_driver(self)
        return self.parts()

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


def kill_driver(case: Case) -> None:
    process = case.until_some_parts()
    process.kill()
    case.end(process)
    wait_until_gone(case.scratch)


def kill_rank(case: Case) -> None:
    process = case.until_some_parts()
    _signal(case.ranks()[:1], signal.SIGKILL)
    code, said = case.end(process)
    case.require(holds=code == 0, what=f"exit {code} after a killed rank: {said[-300:]}")


def stop_rank(case: Case) -> None:
    process = case.start("cluster.stall_seconds=4")
    wait_for_parts(process, case.root, n_parts(case.root) + 1)
    _signal(case.ranks()[:1], signal.SIGSTOP)
    code, said = case.end(process)
    case.require(holds=code == 0, what=f"exit {code} after a stopped rank: {said[-300:]}")


def kill_raylet(case: Case) -> None:
    process = case.until_some_parts()
    _signal([p.pid for p in processes_of(case.scratch) if p.name() == "raylet"], signal.SIGKILL)
    code, said = case.end(process)
    case.require(holds=code in {0, 1}, what=f"exit {code} after a killed raylet: {said[-300:]}")
    wait_until_gone(case.scratch)


def wake_late(case: Case) -> None:
    late = case.until_some_parts()
    if late.poll() is not None:
        case.end(late)
        return
    late.send_signal(signal.SIGSTOP)
    time.sleep(5)  # buckets tell times in whole seconds
    code, said = case.end(case.start())
    case.require(holds=code == 0, what=f"exit {code} beside a stopped sweep: {said[-300:]}")
    late.send_signal(signal.SIGCONT)
    code, said = case.end(late)
    case.require(
        holds=code == 1 and "took over" in said.replace("taken over", "took over"), what=f"{code}: {said[-300:]}"
    )


def two_at_once(case: Case) -> None:
    first = case.until_some_parts()
    second = [case.start() for _ in range(2)]
    for process in second:
        code, said = case.end(process)
        if first.poll() is None:
            case.require(holds=code == 1 and "is in use by" in said, what=f"second sweep: {code}: {said[-300:]}")
    code, said = case.end(first)
    case.require(holds=code == 0, what=f"first sweep: {code}: {said[-300:]}")


def interrupt(case: Case) -> None:
    process = case.until_some_parts()
    for _ in range(case.rng.randint(1, 2)):
        process.send_signal(case.rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP]))
        time.sleep(case.rng.random())
    code, said = case.end(process)
    case.require(holds=code in {0, 130}, what=f"exit {code} after an interruption: {said[-300:]}")
    wait_until_gone(case.scratch)


def empty(case: Case) -> None:
    case.store.write(case.some_parts()[0], b"")


def truncate(case: Case) -> None:
    part = case.some_parts()[0]
    content = case.store.read(part)
    case.store.write(part, content[: case.rng.randrange(len(content))])


def cut(case: Case) -> None:
    part = case.some_parts()[0]
    frame = pl.read_parquet(case.store.read(part), hive_partitioning=False)
    shorter = io.BytesIO()
    frame.head(len(frame) // 2).write_parquet(shorter)
    case.store.write(part, shorter.getvalue())


def copy(case: Case) -> None:
    part = case.some_parts()[0]
    folder, _, name = part.rpartition("/")
    content = case.store.read(part)
    case.store.write(f"{folder}/copy.parquet", content)
    case.store.write(f"{folder}/{name.partition('-')[0]}-{'0' * 32}.parquet", content)


def exchange(case: Case) -> None:
    first, second, *_ = case.some_parts()
    contents = case.store.read(first), case.store.read(second)
    case.store.write(first, contents[1])
    case.store.write(second, contents[0])


def flip(case: Case) -> None:
    case.some_parts()
    files = [file for folder in ("responses", "footers", "sources") for file in case.store.files(folder) if file.size]
    for _ in range(5):
        name = case.rng.choice(files).name
        content = bytearray(case.store.read(name))
        content[case.rng.randrange(len(content))] ^= 1 << case.rng.randrange(8)
        case.store.write(name, bytes(content))
        case.notes.append(f"flipped a bit of {name}")


def remove(case: Case) -> None:
    case.store.remove(case.some_parts()[:1])


def fail_requests(case: Case) -> None:
    """A sweep during which one in five requests fails, and another that is killed then."""
    assert case.server is not None
    case.server.fail_at_random(s3_server.TRANSIENT, 0.2, seed=case.rng.randrange(1000))
    if case.rng.random() < 0.5:
        kill_driver(case)
    code, said = case.end(case.start())
    case.server.clear_faults()
    case.require(holds=code == 0, what=f"exit {code} while requests fail: {said[-300:]}")


def be_away(case: Case) -> None:
    """A bucket that does not answer for a while."""
    assert case.server is not None
    process = case.until_some_parts()
    case.server.is_gone = True
    time.sleep(case.rng.uniform(1, 20))
    case.server.clear_faults()
    code, said = case.end(process)
    case.require(holds=code == 0, what=f"exit {code} after the bucket was away: {said[-300:]}")


def interrupt_while_away(case: Case) -> None:
    """An interruption while the bucket does not answer."""
    assert case.server is not None
    process = case.until_some_parts()
    case.server.is_gone = True
    time.sleep(case.rng.uniform(0, 5))
    process.send_signal(case.rng.choice([signal.SIGINT, signal.SIGTERM]))
    began = time.monotonic()
    code, said = case.end(process)
    case.server.clear_faults()
    case.require(holds=code in {0, 130}, what=f"exit {code} after an interruption: {said[-300:]}")
    case.require(holds=time.monotonic() - began < 50, what="50 s after an interruption, the sweep still ran")
    wait_until_gone(case.scratch)


S3_FAULTS: list[Callable[[Case], None]] = [fail_requests, be_away, interrupt_while_away]
FAULTS: list[Callable[[Case], None]] = [
    *S3_FAULTS, kill_driver, kill_rank, stop_rank, kill_raylet, wake_late, two_at_once, interrupt,
    empty, truncate, cut, copy, exchange, flip, remove,
]  # fmt: skip


def _signal(processes: list[int], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def complete(case: Case) -> None:
    """Run the command until it is done, with a repair where it asks for one, and compare the table."""
    for _ in range(3):
        code, said = case.end(case.start())
        if code == 0:
            break
        case.require(holds=code == 1, what=f"exit {code}: {said[-300:]}")
        case.run("verify", "repair=true")
    case.require(holds=code == 0, what=f"never complete: {said[-500:]}")
    code, said = case.run("verify")
    case.require(holds=code == 0, what=f"verify afterwards: {said[-500:]}")
    found = table(case.root)
    case.counts["doubled"] += len(found) - found.unique(KEYS).height
    case.counts["lost"] += case.expected.join(found, on=KEYS, how="anti").height
    case.counts["rows"] += len(found)
    case.counts["silent changes"] += changed(found, case.expected)


def changed(found: pl.DataFrame, expected: pl.DataFrame) -> int:
    """Rows that differ from those of the undisturbed sweep, or that it does not have."""
    joined = found.join(expected, on=KEYS, how="left", suffix="_expected")
    same = (pl.col("nll") - pl.col("nll_expected")).abs() < 1e-4
    for name in ("study", "participant", "char_start", "char_end", "n_tokens", "status"):
        same &= pl.col(name).cast(pl.String) == pl.col(f"{name}_expected").cast(pl.String)
    return joined.filter(~same.fill_null(value=False)).height


def read_between(case: Case) -> None:
    """What can be read now is right, or it is said that it cannot."""
    with suppress(ResultsError):
        case.counts["silent changes"] += changed(table(case.root), case.expected)


def campaign(
    n: int, seed: int, faults: list[Callable[[Case], None]] = FAULTS, *, more: int = 2, one_in_s3: int = 4
) -> Counter[str]:
    """Run `n` cases of one fault and up to `more` others, one in `one_in_s3` of them in a bucket; the counts of all.

    Prints what each case showed. The first faults of the cases follow each other as they do in `faults`, those in a
    bucket begin with its own.
    """
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="pf", dir="/tmp") as directory, bucket() as server:
        scratch = Path(directory) / "t"
        scratch.mkdir()
        checkpoint = make_checkpoint(Path(directory) / "a", "Llama", byte_tokenizer(Path(directory) / "bytes"))
        undisturbed = Path(directory) / "undisturbed"
        code, _, err = finish(start(command([checkpoint], undisturbed), scratch))
        assert code == 0, err
        expected = table(undisturbed)
        n_s3 = 0
        for number in range(n):
            rng = random.Random(f"{seed} {number}")
            case = Case(checkpoint, Path(directory) / f"case{number}", scratch, rng, expected, counts)
            index, possible = number - n_s3, [fault for fault in faults if fault not in S3_FAULTS]
            if number % one_in_s3 == one_in_s3 - 1:
                case.root, case.server = f"s3://{BUCKET}/case{number}", server
                index, possible = n_s3, faults
                n_s3 += 1
            run_case(case, number, [possible[index % len(possible)], *rng.choices(possible, k=rng.randint(0, more))])
    kinds = ("lost", "doubled", "silent changes", "hangs", "tracebacks", "wrong")
    print(f"{n} cases, {counts['rows']:,} rows: " + ", ".join(f"{kind} {counts[kind]}" for kind in kinds))
    return counts


def run_case(case: Case, number: int, chosen: list[Callable[[Case], None]]) -> None:
    """Disturb, complete and compare; print what was seen."""
    counts, began = case.counts, time.monotonic()
    before = counts.copy()
    for fault in chosen:
        fault(case)
        read_between(case)
    complete(case)
    wait_until_gone(case.scratch)
    seen = {key: counts[key] - before[key] for key in counts if key != "rows" and counts[key] != before[key]}
    names = ", ".join(fault.__name__ for fault in chosen) + (" in a bucket" if case.server else "")
    print(f"case {number}: {names}: {seen or 'as undisturbed'}, {time.monotonic() - began:.0f} s", flush=True)
    if seen:
        print("\n".join(f"    {line}" for line in case.notes), flush=True)
    case.store.remove([file.name for file in case.store.files("")])


@contextmanager
def bucket() -> Iterator[s3_server.S3Server]:
    """Serve an empty bucket, to which the environment of this process and those that it starts leads."""
    with s3_server.s3_server() as server:
        server.create_bucket(BUCKET)
        os.environ |= {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }
        yield server


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n", type=int, nargs="?", default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="names of faults")
    parser.add_argument("--s3", action="store_true", help="every case in a bucket, not one in four")
    given = parser.parse_args()
    chosen = [one for one in FAULTS if not given.only or one.__name__ in given.only]
    in_s3 = given.s3 or set(chosen) <= set(S3_FAULTS)
    total = campaign(given.n, given.seed, chosen, one_in_s3=1 if in_s3 else 4)
    sys.exit(any(total[kind] for kind in total if kind != "rows"))
