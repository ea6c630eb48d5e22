"""Faults of the campaign that need a bucket: its server fails, or does not answer, for a while."""

from __future__ import annotations

import signal
import time

import s3_server
from case import Case
from of_processes import kill_driver
from support_sweeps import wait_until_gone


def fail_requests(case: Case) -> None:
    """A sweep during which one in five requests fails, and another that is killed then."""
    assert case.server is not None
    case.server.fail_at_random(s3_server.TRANSIENT, 0.2, seed=case.rng.randrange(1000))
    if case.rng.random() < 0.5:
        kill_driver(case)
    process = case.start()
    case.disturbed(fail_requests)
    code, said = case.end(process)
    case.server.clear_faults()
    case.require(holds=code == 0, what=f"exit {code} while requests fail: {said[-300:]}")


def be_away(case: Case) -> None:
    """A bucket that does not answer for a while."""
    assert case.server is not None
    process = case.until_some_parts()
    case.disturbed(be_away)
    case.server.is_gone = True
    time.sleep(case.rng.uniform(1, 20))
    case.server.clear_faults()
    code, said = case.end(process)
    case.require(holds=code == 0, what=f"exit {code} after the bucket was away: {said[-300:]}")


def be_away_for_good(case: Case) -> None:
    """A bucket that does not answer for longer than the sweep waits."""
    assert case.server is not None
    with case.hook(pause_s=0.5):
        process = case.until_some_parts("results.unreachable_seconds=5")
        case.disturbed(be_away_for_good)
        case.server.is_gone = True
        code, said = case.end(process)
    case.server.clear_faults()
    in_one_line = "does not answer" in said and "given up, the same command continues" in said
    case.require(holds=code == 0 or (code == 1 and in_one_line), what=f"exit {code} without the bucket: {said[-300:]}")
    wait_until_gone(case.scratch)


def interrupt_while_away(case: Case) -> None:
    """An interruption while the bucket does not answer."""
    assert case.server is not None
    process = case.until_some_parts()
    case.disturbed(interrupt_while_away, kills=1)
    case.server.is_gone = True
    time.sleep(case.rng.uniform(0, 5))
    process.send_signal(case.rng.choice([signal.SIGINT, signal.SIGTERM]))
    began = time.monotonic()
    code, said = case.end(process)
    case.server.clear_faults()
    case.require(holds=code in {0, 130}, what=f"exit {code} after an interruption: {said[-300:]}")
    case.require(holds=time.monotonic() - began < 50, what="50 s after an interruption, the sweep still ran")
    wait_until_gone(case.scratch)


OF_BUCKETS = [fail_requests, be_away, be_away_for_good, interrupt_while_away]
