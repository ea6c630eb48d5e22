"""Preparing in background threads, and grouping into windows."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from psych_ray.scoring.prefetch import IdleTime, Prefetcher, windows


def prefetcher(sources, prepare=lambda n: n, *, budget=4, threads=2, idle=None, size=lambda _: 1):
    idle = idle or IdleTime()
    return Prefetcher(sources, prepare, size=size, budget=budget, threads=threads, idle=idle)


def own_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("psych-ray-pre")]


def wait_for(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "what was waited for did not happen"
        time.sleep(0.001)


def test_windows_group_a_stream_by_size():
    assert list(windows([1] * 7, lambda n: n, 3)) == [[1, 1, 1], [1, 1, 1], [1]]
    assert list(windows([], lambda n: n, 3)) == []


def test_the_first_windows_are_smaller_and_double():
    lengths = [sum(window) for window in windows([1] * 40, lambda n: n, 10, first=2)]
    assert lengths == [2, 4, 8, 10, 10, 6]
    assert [sum(window) for window in windows([3] * 5, lambda n: n, 2, first=9)] == [3] * 5


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_keep_the_order_of_their_sources_however_long_each_takes(threads):
    def prepare(n: int) -> int:
        time.sleep(0.002 * (n % 3))
        return n * n

    with prefetcher(range(60), prepare, budget=7, threads=threads) as stream:
        assert list(stream) == [n * n for n in range(60)]
    assert own_threads() == []


@pytest.mark.parametrize(("size", "most"), [(1, 10 + 2), (4, 3 + 2), (1000, 1 + 2)])
def test_no_more_is_ready_than_the_budget_and_what_the_threads_had_begun(size, most):
    made: list[int] = []
    with prefetcher(range(100), made.append, budget=10, threads=2, size=lambda _: size) as stream:
        for taken in range(3):
            wait_for(lambda: size * len(made[taken:]) >= 10)  # noqa: B023
            time.sleep(0.02)
            assert len(made) - taken <= most
            next(stream)
    assert len(made) < 100


def test_sources_larger_than_the_budget_pass_one_after_the_other():
    with prefetcher([50, 1, 50, 50, 1, 1, 50], budget=3, threads=2, size=lambda n: n) as stream:
        assert list(stream) == [50, 1, 50, 50, 1, 1, 50]


@pytest.mark.parametrize("threads", [1, 3])
def test_an_exception_is_raised_after_the_results_before_it(threads):
    def prepare(n: int) -> int:
        if n == 5:
            raise KeyError("broken")
        time.sleep(0.01 * (n < 5))  # the faulty one is done before those that come first
        return n

    with prefetcher(range(9), prepare, budget=100, threads=threads) as stream:
        assert [next(stream) for _ in range(5)] == list(range(5))
        with pytest.raises(KeyError, match="broken"):
            next(stream)
    assert own_threads() == []


def test_an_exception_of_the_sources_too():
    def sources():
        yield 1
        raise KeyError("no more")

    with prefetcher(sources()) as stream:
        assert next(stream) == 1
        with pytest.raises(KeyError, match="no more"):
            next(stream)


def test_sources_are_read_in_one_thread_and_prepared_in_several_at_a_time():
    readers, both = set(), threading.Barrier(2, timeout=20)

    def sources():
        for n in range(20):
            readers.add(threading.get_ident())
            yield n

    def prepare(n: int) -> int:
        both.wait()
        return n

    with prefetcher(sources(), prepare, threads=2) as stream:
        assert list(stream) == list(range(20))
    assert len(readers) == 1
    assert threading.get_ident() not in readers


def test_leaving_early_ends_all_threads_also_when_the_results_of_none_were_taken():
    for taken in (0, 3):
        with prefetcher(iter(int, 1), budget=2) as stream:
            for _ in range(taken):
                next(stream)
        assert own_threads() == []
    began = IdleTime()
    with prefetcher([1], lambda _: time.sleep(0.05), idle=began) as stream:
        next(stream)
    assert 0.02 < began.seconds < 5


def test_it_is_imported_without_torch():
    code = "import sys, psych_ray.scoring.prefetch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_after_a_failure_nothing_more_is_begun():
    begun = []

    def fail(k):
        begun.append(k)
        raise KeyError(k)

    prefetcher = Prefetcher(range(10_000), fail, size=lambda _: 1, budget=10, threads=2, idle=IdleTime())
    with prefetcher as results:
        time.sleep(0.2)
        with pytest.raises(KeyError):
            next(results)
    assert len(begun) <= 4
