"""A seeded campaign of faults: whatever happens to a sweep, its final table is that of an undisturbed one.

    make faults [N=20] [SEED=0]

Each case takes a fresh results root, one in four of them in a bucket of an S3 server on loopback, and disturbs it once,
every third up to three times: processes, nodes and heads are killed, stopped, drained, and told that their machine
goes; disks and memories are full, clocks jump, two sweeps run at once, files are damaged, and requests to a bucket fail
or are not answered. Then the same command, and where it asks for that `psych-ray verify repair=true`, must lead to the
same rows.

Prints a line for each case, and at the end a row for each kind of fault:

- cases in which it happened, and the processes that were killed, stopped or signalled;
- units that were handed out after it although some of their transcripts had been before;
- rows lost and doubled, and the largest difference of a likelihood, of all cases in which it happened;
- seconds from the fault until the next part was written, by the same command or by the next one: median, longest.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from traceback import format_exception

import s3_server
from case import IN_PROCESSES, KEYS, PARTICIPANTS, Case, changed, kill_all, largest_difference, read_between
from of_buckets import OF_BUCKETS
from of_disks import OF_DISKS, can_mount, small_disk
from of_files import OF_FILES
from of_nodes import OF_NODES
from of_processes import OF_PROCESSES
from support_checkpoints import byte_tokenizer, make_checkpoint
from support_sweeps import command, finish, processes_of, start, table, wait_until_gone

BUCKET = "bucket"
WRONG = ("lost", "doubled", "silent changes", "hangs", "tracebacks", "wrong")
Fault = Callable[[Case], None]
FAULTS: list[Fault] = [*OF_BUCKETS, *OF_DISKS, *OF_NODES, *OF_PROCESSES, *OF_FILES]


@dataclass
class Kind:
    """What all cases of one kind of fault showed."""

    cases: int = 0
    kills: int = 0
    again: int = 0
    lost: int = 0
    doubled: int = 0
    nats: float = 0.0
    idle_s: list[float] = field(default_factory=list)


def complete(case: Case) -> float:
    """Run the command until it is done, with a repair where it asks for one, and compare the table.

    The largest difference of a likelihood, nats.
    """
    for _ in range(3):
        code, said = case.end(case.start())
        if code == 0:
            break
        case.require(holds=code == 1, what=f"exit {code}: {said[-300:]}")
        case.run("verify", "repair=true")
    case.require(holds=code == 0, what=f"never complete, exit {code}: {said[-500:]}")
    code, said = case.run("verify")
    case.require(holds=code == 0, what=f"exit {code} of verify afterwards: {said[-500:]}")
    found = table(case.root)
    case.counts["doubled"] += len(found) - found.unique(KEYS).height
    case.counts["lost"] += case.expected.join(found, on=KEYS, how="anti").height
    case.counts["rows"] += len(found)
    case.counts["silent changes"] += changed(found, case.expected)
    case.settle()
    return largest_difference(found, case.expected)


def run_case(case: Case, number: int, chosen: Sequence[Fault], kinds: dict[str, Kind]) -> None:
    """Disturb, complete and compare; print what was seen, and add it to that of the kinds."""
    began = time.monotonic()
    nats = 0.0
    try:
        for fault in chosen:
            fault(case)
            read_between(case)
        nats = complete(case)
        wait_until_gone(case.scratch)
    except Exception as error:  # noqa: BLE001  the other cases are still to come
        case.require(holds=False, what="".join(format_exception(error)))
        kill_all(processes_of(case.scratch))
    for one in case.disturbances:
        kind = kinds.setdefault(one.fault, Kind())
        kind.kills += one.kills
        kind.again += one.again
        kind.idle_s += [] if one.idle_s is None else [one.idle_s]
    for name in {one.fault for one in case.disturbances}:
        kinds[name].cases += 1
        kinds[name].lost += case.counts["lost"]
        kinds[name].doubled += case.counts["doubled"]
        kinds[name].nats = max(kinds[name].nats, nats)
    seen = {key: case.counts[key] for key in WRONG if case.counts[key]}
    names = ", ".join(fault.__name__ for fault in chosen) + (" in a bucket" if case.server else "")
    print(f"case {number}: {names}: {seen or 'as undisturbed'}, {time.monotonic() - began:.0f} s", flush=True)
    if seen:
        print("\n".join(f"    {line}" for line in case.notes), flush=True)


def campaign(n: int, seed: int, faults: Sequence[Fault] = FAULTS, *, more: int = 2, one_in_s3: int = 4) -> Counter[str]:
    """Run `n` cases, one in `one_in_s3` of them in a bucket; every third of one fault and up to `more` others.

    Returns the counts of all cases. Prints what each showed, and the table. The first faults of the cases follow each
    other in an order that follows from the seed, those in a bucket begin with its own.
    """
    counts: Counter[str] = Counter()
    kinds: dict[str, Kind] = {}
    with tempfile.TemporaryDirectory(prefix="pf", dir="/tmp") as made, bucket() as server:
        directory = Path(made)
        expected_of = undisturbed(directory)
        local, in_s3 = in_order(faults, seed)
        n_s3 = 0
        try:
            for number in range(n):
                case, is_s3 = expected_of(number, seed), number % one_in_s3 == one_in_s3 - 1
                index, possible = (n_s3, in_s3) if is_s3 else (number - n_s3, local)
                n_more = case.rng.choice([0, 0, case.rng.randint(min(1, more), more)])
                chosen = [possible[index % len(possible)], *case.rng.choices(possible, k=n_more)]
                with ExitStack() as stack:
                    if is_s3:
                        case.root, case.server, n_s3 = f"s3://{BUCKET}/case{number}", server, n_s3 + 1
                    elif not {*OF_DISKS}.isdisjoint(chosen):
                        stack.enter_context(small_disk(Path(case.root)))
                    run_case(case, number, chosen, kinds)
                    case.store.remove([file.name for file in case.store.files("")])
                counts += case.counts
        finally:
            print_table(kinds)
            print(f"{n} cases, {counts['rows']:,} rows: " + ", ".join(f"{kind} {counts[kind]}" for kind in WRONG))
    return counts


def in_order(faults: Sequence[Fault], seed: int) -> tuple[list[Fault], list[Fault]]:
    """The faults of cases on a local disk and of those in a bucket."""
    mixed = random.Random(seed).sample(list(faults), len(faults))
    local = [one for one in mixed if one not in OF_BUCKETS and (one not in OF_DISKS or can_mount())]
    return local, sorted((one for one in mixed if one not in OF_DISKS), key=lambda one: one not in OF_BUCKETS)


def undisturbed(directory: Path) -> Callable[[int, int], Case]:
    """Make a checkpoint and sweep it undisturbed; what makes the cases that are compared with that."""
    scratch, hooks = directory / "t", directory / "hooks"
    scratch.mkdir()
    hooks.mkdir()
    checkpoint = make_checkpoint(directory / "a", "Llama", byte_tokenizer(directory / "bytes"))
    few = f"transcripts.participants={PARTICIPANTS}"
    code, _, err = finish(start(command([checkpoint], directory / "undisturbed", few), scratch))
    assert code == 0, err
    expected = table(directory / "undisturbed")
    os.environ |= {
        "PYTHONPATH": os.pathsep.join([str(IN_PROCESSES), os.environ.get("PYTHONPATH", "")]),
        "PSYCH_RAY_FAULTS": str(hooks),
    }

    def make(number: int, seed: int) -> Case:
        (hooks / "units.jsonl").unlink(missing_ok=True)
        rng = random.Random(f"{seed} {number}")
        return Case(checkpoint, directory / f"case{number}", scratch, hooks, rng, expected)

    return make


def print_table(kinds: dict[str, Kind]) -> None:
    """One row for each kind of fault."""
    heads = {"cases": 6, "kills": 6, "again": 6, "lost": 6, "doubled": 8, "nats": 9, "median s": 9, "max s": 7}
    print(f"{'fault':<22}" + "".join(f"{head:>{width}}" for head, width in heads.items()))
    for name, kind in sorted(kinds.items()):
        row = f"{name:<22}{kind.cases:>6}{kind.kills:>6}{kind.again:>6}{kind.lost:>6}{kind.doubled:>8}{kind.nats:>9.1e}"
        if kind.idle_s:
            row += f"{statistics.median(kind.idle_s):>9.1f}{max(kind.idle_s):>7.1f}"
        print(row)


@contextmanager
def bucket() -> Iterator[s3_server.S3Server]:
    """Serve an empty bucket, to which the environment of this process and those that it starts leads until the end."""
    before = dict(os.environ)
    with s3_server.s3_server() as server:
        server.create_bucket(BUCKET)
        os.environ |= {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }
        try:
            yield server
        finally:
            os.environ.clear()
            os.environ.update(before)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n", type=int, nargs="?", default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="names of faults")
    parser.add_argument("--more", type=int, default=2, help="other faults in a case at most")
    parser.add_argument("--s3", action="store_true", help="every case in a bucket, not one in four")
    given = parser.parse_args()
    chosen = [one for one in FAULTS if not given.only or one.__name__ in given.only]
    in_s3 = given.s3 or set(chosen) <= set(OF_BUCKETS)
    total = campaign(given.n, given.seed, chosen, more=given.more, one_in_s3=1 if in_s3 else 4)
    sys.exit(any(total[kind] for kind in WRONG))
