"""Attention in key blocks against the whole softmax in float64, at lengths around the edges of blocks."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from psych_ray.scoring.engines import block_attention, onednn
from psych_ray.scoring.engines.block_attention import attend

pytestmark = pytest.mark.skipif(not onednn.available(), reason="this build of PyTorch has no oneDNN for this CPU")


def whole_softmax(query, key, value, cu_seqlens_q, cu_seqlens_k, *, scale, window):
    """Each sequence and head alone, all scores at once; the last query is the token of the last key."""
    output = torch.empty(*query.shape[:2], value.shape[-1], dtype=torch.float64)
    group = query.shape[1] // key.shape[1]
    bounds = zip(itertools.pairwise(cu_seqlens_q.tolist()), itertools.pairwise(cu_seqlens_k.tolist()), strict=True)
    for (first, last), (first_key, last_key) in bounds:
        n_queries, n_keys = last - first, last_key - first_key
        back = torch.arange(n_keys - n_queries, n_keys)[:, None] - torch.arange(n_keys)[None]
        hidden = (back < 0) | ((back > window) if window >= 0 else False)
        for head in range(query.shape[1]):
            scores = query[first:last, head].double() @ key[first_key:last_key, head // group].double().T * scale
            weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
            output[first:last, head] = weights @ value[first_key:last_key, head // group].double()
    return output


def states(lengths_q, lengths_k, *, heads=2, groups=1, width=16, value_width=None):
    torch.manual_seed(0)
    n_queries, n_keys = sum(lengths_q), sum(lengths_k)
    query = torch.randn(n_queries, heads, width)
    key, value = (torch.randn(n_keys, heads // groups, size) for size in (width, value_width or width))
    return query, key, value, *(torch.tensor([0, *lengths]).cumsum(0).int() for lengths in (lengths_q, lengths_k))


def check(given, *, scale=0.3, window=-1, atol=3e-6):
    lengths = (int(cu_seqlens.diff().max()) for cu_seqlens in given[3:])
    gqa = given[0].shape[1] != given[1].shape[1]
    found = attend(*given, *lengths, scale=scale, window_size=(window, 0), enable_gqa=gqa)
    assert found.dtype == torch.float32
    expected = whole_softmax(*given, scale=scale, window=window)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("length", [1, 2, 255, 256, 257, 1023, 1024, 1025, 1279, 1280, 1281, 2047, 2048, 2049, 3073])
def test_lengths_around_the_edges_of_blocks(length):
    check(states([length], [length]))


@pytest.mark.parametrize("window", [0, 5, 254, 255, 256, 768, 1023, 1024, 1500, 2047, 2048, 2300, 5000])
def test_windows(window):
    """With those of 2,047 and more, there are several blocks, and queries that have none of the oldest one's keys."""
    check(states([2900], [2900]), window=window)


@pytest.mark.parametrize(("heads", "groups"), [(4, 1), (4, 2), (6, 6)])
@pytest.mark.parametrize(("width", "value_width"), [(64, 64), (128, 128), (256, 256), (96, 40)])
def test_grouped_heads_and_widths(heads, groups, width, value_width):
    lengths = [1, 300, 256, 70]
    shape = {"heads": heads, "groups": groups, "width": width, "value_width": value_width}
    check(states(lengths, lengths, **shape), scale=width**-0.5, window=100)


@pytest.mark.parametrize("seed", range(20))
def test_random_packs_with_keys_before_the_queries(monkeypatch, seed):
    """Small blocks, so that short sequences have many of them."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    monkeypatch.setattr(block_attention, "QUERIES", queries := draw(1, 9))
    monkeypatch.setattr(block_attention, "_KEYS", draw(queries, 14))
    lengths_q = [draw(1, 40) for _ in range(draw(1, 5))]
    lengths_k = [length + draw(0, 2) * draw(0, 30) for length in lengths_q]
    groups = draw(1, 4)
    given = states(lengths_q, lengths_k, heads=groups * draw(1, 4), groups=groups, value_width=draw(1, 20))
    check(given, window=draw(-1, 45))


def test_scores_of_any_size_do_not_overflow():
    query, key, value, *bounds = states([2500], [2500])
    check((query * 300, key * 300, value, *bounds), atol=0.01)  # float32 scores of 1e5 are 0.01 apart


def test_the_default_scale_is_that_of_the_head_width():
    query, key, value, ends, _ = states([9], [9])
    how = {"window_size": (-1, 0), "enable_gqa": False}
    default = attend(query, key, value, ends, ends, 9, 9, scale=None, **how)
    assert torch.equal(default, attend(query, key, value, ends, ends, 9, 9, scale=0.25, **how))


def test_no_step_takes_more_memory_the_longer_the_sequence():
    def largest_step(length):
        """Bytes that a single operation allocates at most while the last 600 of so many tokens attend."""
        query, key, value, *bounds = states([600], [length], groups=2)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            attend(query, key, value, *bounds, 600, length, scale=None, window_size=(-1, 0), enable_gqa=True)
        return max(event.self_cpu_memory_usage for event in profiled.events())

    scores = 4 * 2 * 256 * 2048  # float32, heads, queries, keys that are scored together at most
    assert largest_step(2000) <= scores
    assert largest_step(4000) <= scores
    assert largest_step(8000) <= scores
