"""Prefetching in a background thread, and grouping into windows."""

from __future__ import annotations

import pytest

from psych_ray.scoring.prefetch import IdleTime, Prefetcher, windows


def test_windows_group_a_stream_by_size():
    assert list(windows([1] * 7, lambda n: n, 3)) == [[1, 1, 1], [1, 1, 1], [1]]
    assert list(windows([], lambda n: n, 3)) == []


def test_items_keep_their_order_and_no_more_than_the_capacity_is_prefetched():
    made = []

    def items():
        for k in range(100):
            made.append(k)
            yield k

    idle = IdleTime()
    with Prefetcher(items(), capacity=4, idle=idle) as stream:
        assert [next(stream) for _ in range(10)] == list(range(10))
    assert len(made) < 40
    with Prefetcher(items(), capacity=4, idle=idle) as stream:
        assert list(stream) == list(range(100))
    assert idle.seconds >= 0


def test_an_exception_is_raised_after_the_items_before_it():
    def items():
        yield 1
        raise KeyError("broken")

    with Prefetcher(items(), capacity=4, idle=IdleTime()) as stream:
        assert next(stream) == 1
        with pytest.raises(KeyError, match="broken"):
            next(stream)
