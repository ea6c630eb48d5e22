"""A seeded campaign of faults: whatever happens to a sweep, its final table is that of an undisturbed one.

    make faults [N=20] [SEED=0]

Each case takes a fresh results root and disturbs it one to three times: processes are killed and stopped, two sweeps
run at once, files are emptied, cut, copied, exchanged, flipped or truncated. Then the same command, and where it asks
for that `psych-ray verify repair=true`, must lead to the same rows. Prints a line for each case, and at the end how
many rows were lost or doubled, how many changes were silent, and how many commands did not end in time.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
from support_checkpoints import byte_tokenizer, make_checkpoint
from support_sweeps import command, finish, n_parts, processes_of, start, table, wait_for_parts, wait_until_gone

from psych_ray.errors import ResultsError

LIMIT_S = 150.0
"""No command of a case takes longer."""
KEYS = ["checkpoint", "condition", "transcript", "response"]


@dataclass
class Case:
    """One results root, and what was seen of it."""

    checkpoint: Path
    root: Path
    scratch: Path
    rng: random.Random
    expected: pl.DataFrame
    counts: Counter[str]
    notes: list[str] = field(default_factory=list)

    def start(self, *more: str) -> subprocess.Popen[str]:
        """Start a sweep on the root."""
        return start(command([self.checkpoint], self.root, "results.lease_seconds=3", *more), self.scratch)

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run another command on the root; its exit code and what it said."""
        code = [sys.executable, "-m", "psych_ray.cli.main", *arguments, f"results.root={self.root}"]
        return self.end(start(code, self.scratch))

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Wait for a command; one that does not end in time is counted and killed."""
        try:
            code, out, err = finish(process, LIMIT_S)
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

    def parts(self) -> list[Path]:
        """Files of parts, in a random order."""
        found = sorted(self.root.glob("responses/*/*/*.parquet"))
        self.rng.shuffle(found)
        return found

    def some_parts(self) -> list[Path]:
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
    time.sleep(3.5)
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
    case.some_parts()[0].write_bytes(b"")


def truncate(case: Case) -> None:
    part = case.some_parts()[0]
    part.write_bytes(part.read_bytes()[: case.rng.randrange(part.stat().st_size)])


def cut(case: Case) -> None:
    part = case.some_parts()[0]
    frame = pl.read_parquet(part, hive_partitioning=False)
    frame.head(len(frame) // 2).write_parquet(part)


def copy(case: Case) -> None:
    part = case.some_parts()[0]
    shutil.copy(part, part.with_name("copy.parquet"))
    shutil.copy(part, part.with_name(f"{part.stem.partition('-')[0]}-{'0' * 32}.parquet"))


def exchange(case: Case) -> None:
    first, second, *_ = case.some_parts()
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def flip(case: Case) -> None:
    case.some_parts()
    files = [path for folder in ("responses", "footers", "sources") for path in (case.root / folder).rglob("*")]
    for _ in range(5):
        path = case.rng.choice(sorted(path for path in files if path.is_file() and path.stat().st_size))
        content = bytearray(path.read_bytes())
        content[case.rng.randrange(len(content))] ^= 1 << case.rng.randrange(8)
        path.write_bytes(bytes(content))
        case.notes.append(f"flipped a bit of {path.relative_to(case.root)}")


def remove(case: Case) -> None:
    case.some_parts()[0].unlink()


FAULTS: list[Callable[[Case], None]] = [
    kill_driver, kill_rank, stop_rank, kill_raylet, wake_late, two_at_once, interrupt,
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


def campaign(n: int, seed: int, faults: list[Callable[[Case], None]] = FAULTS, *, more: int = 2) -> Counter[str]:
    """Run `n` cases of one fault and up to `more` others; print what each of them showed, and return the counts."""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="pf", dir="/tmp") as directory:
        scratch = Path(directory) / "t"
        scratch.mkdir()
        checkpoint = make_checkpoint(Path(directory) / "a", "Llama", byte_tokenizer(Path(directory) / "bytes"))
        undisturbed = Path(directory) / "undisturbed"
        code, _, err = finish(start(command([checkpoint], undisturbed), scratch))
        assert code == 0, err
        expected = table(undisturbed)
        for number in range(n):
            rng = random.Random(f"{seed} {number}")
            case = Case(checkpoint, Path(directory) / f"case{number}", scratch, rng, expected, counts)
            chosen = [faults[number % len(faults)], *rng.choices(faults, k=rng.randint(0, more))]
            began, before = time.monotonic(), counts.copy()
            for fault in chosen:
                fault(case)
                read_between(case)
            complete(case)
            wait_until_gone(scratch)
            seen = {key: counts[key] - before[key] for key in counts if key != "rows" and counts[key] != before[key]}
            names = ", ".join(fault.__name__ for fault in chosen)
            print(f"case {number} (seed {seed}): {names}: {seen or 'as undisturbed'}, {time.monotonic() - began:.0f} s")
            if seen:
                print("\n".join(f"    {line}" for line in case.notes), flush=True)
            shutil.rmtree(case.root)
    kinds = ("lost", "doubled", "silent changes", "hangs", "tracebacks", "wrong")
    print(f"{n} cases, {counts['rows']:,} rows: " + ", ".join(f"{kind} {counts[kind]}" for kind in kinds))
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n", type=int, nargs="?", default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="names of faults")
    given = parser.parse_args()
    total = campaign(given.n, given.seed, [one for one in FAULTS if not given.only or one.__name__ in given.only])
    sys.exit(any(total[kind] for kind in total if kind != "rows"))
