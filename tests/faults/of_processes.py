"""Faults of the campaign that kill, stop, double, interrupt or mislead the processes of a sweep on a Ray of its own."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from case import ALL_AT_ONCE, Case, send
from support_sweeps import n_parts, processes_of, table, wait_for_parts, wait_until_gone

from psych_ray.errors import ResultsError


@contextmanager
def slow_sweep(case: Case, *more: str, **hooks: object) -> Iterator[subprocess.Popen[str]]:
    """A sweep that has begun a unit and takes long for each; at the end of the block it need not be slow any more."""
    n = len(case.units())
    with case.hook(**({"pause_s": 0.5} | hooks)):
        process = case.start(*more)
        case.wait_until(process, lambda: len(case.units()) > n)
        yield process


def kill_driver(case: Case) -> None:
    process = case.until_some_parts()
    process.kill()
    case.disturbed(kill_driver, kills=1)
    case.end(process)
    wait_until_gone(case.scratch)


def die_around_commit(case: Case) -> None:
    """The driver dies between the upload of parts and their commit, or after the commit before anything else."""
    with case.hook(die=case.rng.choice(["before the commit", "after the commit"])):
        process = case.start()
        code, said = case.end(process)
    case.disturbed(die_around_commit, kills=code == -9)
    case.require(holds=code in {-9, 0}, what=f"exit {code} of a driver that is killed: {said[-300:]}")
    wait_until_gone(case.scratch)


def kill_rank(case: Case) -> None:
    process = case.until_some_parts()
    n = send(case.ranks()[:1], signal.SIGKILL)
    case.disturbed(kill_rank, kills=n)
    code, said = case.end(process)
    case.require(holds=code == 0, what=f"exit {code} after a killed rank: {said[-300:]}")


def stop_rank(case: Case) -> None:
    process = case.start("cluster.stall_seconds=4")
    wait_for_parts(process, case.root, n_parts(case.root) + 1)
    n = send(case.ranks()[:1], signal.SIGSTOP)
    case.disturbed(stop_rank, kills=n)
    code, said = case.end(process)
    case.require(holds=code == 0, what=f"exit {code} after a stopped rank: {said[-300:]}")


def kill_raylet(case: Case) -> None:
    process = case.until_some_parts()
    n = send([p.pid for p in processes_of(case.scratch) if p.name() == "raylet"], signal.SIGKILL)
    case.disturbed(kill_raylet, kills=n)
    code, said = case.end(process)
    case.require(holds=code in {0, 1}, what=f"exit {code} after a killed raylet: {said[-300:]}")
    wait_until_gone(case.scratch)


def wake_late(case: Case) -> None:
    late = case.until_some_parts()
    if late.poll() is not None:
        case.end(late)
        return
    late.send_signal(signal.SIGSTOP)
    case.disturbed(wake_late, kills=1)
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
    case.disturbed(two_at_once)
    for process in second:
        code, said = case.end(process)
        if first.poll() is None:
            case.require(holds=code == 1 and "is in use by" in said, what=f"second sweep: {code}: {said[-300:]}")
    code, said = case.end(first)
    case.require(holds=code == 0, what=f"first sweep: {code}: {said[-300:]}")


def interrupt(case: Case) -> None:
    """Signals of any kind at any moment, also while replicas load and while the report is made."""
    process = case.until_some_parts()
    n = case.rng.randint(1, 2)
    case.disturbed(interrupt, kills=n)
    for _ in range(n):
        process.send_signal(case.rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP]))
        time.sleep(case.rng.random())
    code, said = case.end(process)
    case.require(holds=code in {0, 130}, what=f"exit {code} after an interruption: {said[-300:]}")
    wait_until_gone(case.scratch)


def interrupt_once(case: Case) -> None:
    """One Ctrl-C finishes the units in flight, one SIGTERM cuts those that would take too long: nothing is lost."""
    lasts = case.rng.random() < 0.5
    more, hooks = ((ALL_AT_ONCE,), {"window_pause_s": 2}) if lasts else ((), {})
    with slow_sweep(case, *more, **hooks) as process:
        expected = 0 if process.poll() is not None else 130
        process.send_signal(signal.SIGTERM if lasts else signal.SIGINT)
        case.disturbed(interrupt_once, kills=1)
        code, said = case.end(process)
    case.require(holds=code == expected, what=f"exit {code} after an interruption: {said[-300:]}")
    since = case.units()[case.disturbances[-1].n_lines :]
    ends = [line for line in since if line["what"] == "end"]
    case.require(holds=len(since) <= 2 * len(ends), what="a unit was begun after the interruption, and not ended")
    if lasts and expected:
        case.require(holds=any(line["left"] for line in ends), what="no unit was cut")
    wait_until_gone(case.scratch)
    scored = {one for line in ends for one in line["ids"] if one not in line["left"]}
    there = committed(case)
    case.require(holds=there is None or scored <= there, what="transcripts were scored and not committed")


def interrupt_twice(case: Case) -> None:
    with slow_sweep(case, ALL_AT_ONCE, window_pause_s=2) as process:
        began, expected = time.monotonic(), 0 if process.poll() is not None else 130
        case.disturbed(interrupt_twice, kills=2)
        process.send_signal(signal.SIGINT)
        time.sleep(case.rng.random())
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        code, said = case.end(process)
    case.require(holds=code == expected, what=f"exit {code} after two interruptions: {said[-300:]}")
    case.require(holds=time.monotonic() - began < 20, what="20 s after two interruptions, the sweep still ran")
    wait_until_gone(case.scratch)


def move_clock(case: Case) -> None:
    """The clock of a machine is set by an hour, or all of its processes were suspended for one."""
    by = case.rng.choice([{"clock_s": 3600}, {"clock_s": -3600}, {"monotonic_s": 3600}])
    with slow_sweep(case) as process, case.hook(**by):
        case.disturbed(move_clock)
        time.sleep(2)
        if process.poll() is None:
            code, said = case.end(case.start())
            if process.poll() is None:
                case.require(holds=code == 1 and "is in use by" in said, what=f"{by}: {code}: {said[-300:]}")
        code, said = case.end(process)
    case.require(holds=code == 0, what=f"exit {code} after {by}: {said[-300:]}")


def kill_by_transcript(case: Case) -> None:
    """A transcript that kills every replica that scores it is skipped alone."""
    missing = sorted(set(case.expected["transcript"]) - set(committed(case) or ()))
    guilty = case.rng.choice(missing) if missing else "none"
    with case.hook(kills_its_replica=guilty):
        process = case.start()
        case.disturbed(kill_by_transcript)
        code, said = case.end(process)
    if not missing:
        return
    case.disturbances[-1].kills = said.count("ended while scoring")
    case.require(
        holds=code == 3 and f"transcript {guilty}" in said and said.count("not scored: ") == 1,
        what=f"exit {code} with a transcript that kills its replica: {said[-600:]}",
    )
    there = committed(case)
    if there is not None:
        case.require(holds=set(case.expected["transcript"]) - there == {guilty}, what="more is missing")


def committed(case: Case) -> set[str] | None:
    """Transcripts in the table; None where it is damaged."""
    try:
        return set(table(case.root)["transcript"])
    except ResultsError:
        return None


OF_PROCESSES = [
    kill_driver, die_around_commit, kill_rank, stop_rank, kill_raylet, wake_late, two_at_once, interrupt,
    interrupt_once, interrupt_twice, move_clock, kill_by_transcript,
]  # fmt: skip
