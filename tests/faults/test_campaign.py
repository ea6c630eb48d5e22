"""A little of the campaign of faults: two sweeps at once, and one that wakes up after another took over."""

from __future__ import annotations

import pytest
from campaign import Case, campaign, two_at_once, wake_late

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def both(case: Case) -> None:
    wake_late(case)
    two_at_once(case)


def test_two_sweeps_on_one_root_lose_and_double_nothing():
    counts = campaign(1, 0, [both], more=0)
    assert counts.pop("rows") > 0
    assert not +counts, counts
