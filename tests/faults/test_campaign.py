"""A little of the campaign of faults: a sweep that wakes up after a second one took over, and a third beside that."""

from __future__ import annotations

import signal
import time

import pytest
from campaign import Case, campaign
from support_sweeps import n_parts, wait_for_parts

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def three_sweeps(case: Case) -> None:
    late = case.until_some_parts()
    late.send_signal(signal.SIGSTOP)
    time.sleep(3.5)
    second = case.start()
    wait_for_parts(second, case.root, n_parts(case.root) + 1)
    code, said = case.end(case.start())
    if second.poll() is None:
        case.require(holds=code == 1 and "is in use by psych-ray sweep" in said, what=f"third: {code}: {said[-300:]}")
    code, said = case.end(second)
    case.require(holds=code == 0, what=f"second: {code}: {said[-300:]}")
    late.send_signal(signal.SIGCONT)
    code, said = case.end(late)
    case.require(holds=code == 1 and ("took over" in said or "taken over" in said), what=f"late: {code}: {said[-300:]}")


def test_sweeps_on_one_root_lose_and_double_nothing():
    counts = campaign(1, 0, [three_sweeps], more=0)
    assert counts.pop("rows") > 0
    assert not +counts, counts
