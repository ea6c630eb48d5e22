"""A little of the campaign of faults: three sweeps on one root, of which one wakes up late; one node of two drains."""

from __future__ import annotations

import signal
import time

import pytest
from campaign import campaign
from case import Case
from of_nodes import drain_node
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


@pytest.mark.faults
def test_a_node_that_is_drained_loses_nothing_counts_as_no_failure_and_is_replaced_by_the_other():
    counts = campaign(1, 0, [drain_node], more=0)
    assert counts.pop("rows") > 0
    assert not +counts, counts
