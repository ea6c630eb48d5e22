"""Dividing clusters of every shape: no rank is ever larger than a node, and what never fits is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psych_ray.errors import ConfigError
from psych_ray.sweep.cluster_shape import ClusterShape, NodeShape, Slots, divide, ranks_on, require_fit

DGX = NodeShape(cpus=96, gpus=8, gpu_memory_bytes=80e9, memory_bytes=1e12)


def cpu_nodes(*cpus: int) -> ClusterShape:
    return ClusterShape(tuple(NodeShape(n) for n in cpus))


@pytest.mark.parametrize(
    ("shape", "wanted", "slots"),
    [
        (ClusterShape((DGX,) * 4), 100, Slots(ranks=32, cpus=4, gpus=1)),
        (ClusterShape((DGX,) * 4), 3, Slots(ranks=3, cpus=4, gpus=1)),
        (ClusterShape((NodeShape(cpus=4, gpus=4),)), 9, Slots(ranks=4, cpus=1, gpus=1)),
        (ClusterShape((DGX, NodeShape(cpus=8))), 9, Slots(ranks=8, cpus=4, gpus=1)),
        (cpu_nodes(2), 2, Slots(ranks=2, cpus=1, gpus=0)),
        (cpu_nodes(16), 3, Slots(ranks=3, cpus=5, gpus=0)),
        (cpu_nodes(8, 8, 8), 1, Slots(ranks=1, cpus=8, gpus=0)),
        (cpu_nodes(8, 8, 8), 6, Slots(ranks=6, cpus=4, gpus=0)),
        (cpu_nodes(8, 2), 2, Slots(ranks=2, cpus=4, gpus=0)),
        (cpu_nodes(64, 32, 32, 32), 4, Slots(ranks=4, cpus=32, gpus=0)),
        (cpu_nodes(1), 7, Slots(ranks=1, cpus=1, gpus=0)),
    ],
)
def test_a_cluster_is_divided_evenly(shape, wanted, slots):
    assert divide(shape, wanted) == slots


@given(
    st.lists(st.builds(NodeShape, cpus=st.integers(1, 200), gpus=st.integers(0, 16)), min_size=1, max_size=6),
    st.integers(1, 300),
)
def test_every_slot_fits_on_a_node_and_all_fit_at_once(nodes, wanted):
    shape = ClusterShape(tuple(nodes))
    slots = divide(shape, wanted)
    assert 1 <= slots.ranks <= wanted
    assert slots.ranks <= sum(ranks_on(node, slots) for node in nodes)
    assert slots.gpus == (1 if shape.gpus else 0)


@given(st.lists(st.integers(1, 128), min_size=1, max_size=6), st.integers(1, 16), st.integers(1, 40))
def test_a_gang_that_fits_on_a_node_with_a_core_each_always_fits(cpus, gang, others):
    shape = cpu_nodes(*cpus)
    slots = divide(shape, gang + others, gang=gang)
    if gang <= max(cpus):
        require_fit(shape, slots, gang, across_nodes=False)
    else:
        with pytest.raises(ConfigError, match="no node holds more than"):
            require_fit(shape, slots, gang, across_nodes=False)


def test_two_ranks_of_a_gang_share_a_node_though_there_are_two():
    assert divide(cpu_nodes(8, 8), 2, gang=2) == Slots(ranks=2, cpus=4, gpus=0)


def test_more_cores_than_a_node_has_are_refused():
    assert divide(cpu_nodes(8, 8), 2, cpus_per_rank=8).cpus == 8
    with pytest.raises(ConfigError, match=r"cluster.cpus_per_replica=9: no node has more than 8 CPU cores"):
        divide(cpu_nodes(8, 8), 2, cpus_per_rank=9)


def test_a_gang_that_no_node_can_hold_is_refused():
    shape = ClusterShape((NodeShape(cpus=16, gpus=4),) * 2)
    slots = divide(shape, 8)
    require_fit(shape, slots, 4, across_nodes=False)
    require_fit(shape, slots, 8, across_nodes=True)
    with pytest.raises(
        ConfigError,
        match=r"8 ranks of a GPU and 4 CPU cores each .* no node holds more than 4 .*across_nodes=true",
    ):
        require_fit(shape, slots, 8, across_nodes=False)
    with pytest.raises(ConfigError, match="9 ranks of a GPU and 4 CPU cores each together, all nodes together hold 8"):
        require_fit(shape, slots, 9, across_nodes=True)


def test_a_shape_is_shown_in_one_line():
    assert str(ClusterShape((DGX,) * 4)) == "4 nodes of 8 GPUs of 80 GB and 96 CPU cores"
    assert str(cpu_nodes(1)) == "1 node of 1 CPU core"
    assert str(ClusterShape((DGX, NodeShape(8)))) == "2 nodes with 8 GPUs and 104 CPU cores together"
