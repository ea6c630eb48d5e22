"""Nodes that join, drain and are lost, as a gcs tells it that this test moves; its clock as well."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field

from psych_ray.cluster.metadata import Notice
from psych_ray.cluster.nodes import DRAINED, NodesWatch
from psych_ray.compat.ray import RayNode
from psych_ray.sweep.cluster_shape import Slots
from psych_ray.sweep.events import NodeDraining, NodeJoined, NodeLost

ONE_CPU, ONE_GPU = Slots(ranks=1, cpus=1, gpus=0), Slots(ranks=1, cpus=4, gpus=1)


def node(name: str, cpus: int = 2, gpus: int = 0, drains: float | None = None, port: int = 1) -> RayNode:
    return RayNode(name, "127.0.0.1", port, {"CPU": float(cpus), "GPU": float(gpus)}, drains)


@dataclass
class Gcs:
    nodes: list[RayNode] | None
    asked: int = 0

    def alive(self, timeout_s: float) -> list[RayNode] | None:
        self.asked += 1
        return self.nodes

    def is_alive(self, node: str, timeout_s: float) -> bool | None:
        return None if self.nodes is None else node in {one.id for one in self.nodes}


@dataclass
class Clouds:
    """In place of the actors of nodes."""

    notices: list[tuple[str, Notice]] = field(default_factory=list)
    followed: set[str] = field(default_factory=set)

    def poll(self, nodes):
        self.followed = set(nodes)
        notices, self.notices = self.notices, []
        return notices


def watched(gcs: Gcs, slots: Slots = ONE_CPU, clouds: Clouds | None = None) -> NodesWatch:
    return NodesWatch(slots, notices=clouds, ask=lambda: gcs, clock=lambda: 1000.0, every_s=0.001)


def next_events(watch: NodesWatch, gcs: Gcs) -> list:
    """Events after the gcs was asked twice more, so that one answer was wholly read."""
    seen, deadline = gcs.asked, time.monotonic() + 10
    while gcs.asked < seen + 2:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return watch.events()


def test_all_nodes_that_ranks_can_run_on_have_joined_at_the_first_call():
    gcs = Gcs([node("a", cpus=3), node("b", cpus=0)])
    with watched(gcs, Slots(ranks=1, cpus=2, gpus=0)) as watch:
        assert watch.events() == [NodeJoined("a", 1)]
        assert next_events(watch, gcs) == []
    gcs = Gcs([node("cpus", cpus=64), node("gpus", cpus=32, gpus=8)])
    with watched(gcs, ONE_GPU) as watch:
        assert watch.events() == [NodeJoined("gpus", 8)]


def test_every_join_drain_and_loss_is_told_once():
    gcs = Gcs([node("a")])
    with watched(gcs) as watch:
        assert watch.events() == [NodeJoined("a", 2)]
        gcs.nodes = [node("a"), node("b", cpus=5)]
        assert next_events(watch, gcs) == [NodeJoined("b", 5)]
        gcs.nodes = [node("a", drains=1030.0), node("b", cpus=5, drains=0.0)]
        told = next_events(watch, gcs)
        assert told == [NodeDraining("a", 30.0, DRAINED), NodeDraining("b", None, DRAINED)]
        gcs.nodes = [node("a", drains=1030.0)]
        assert next_events(watch, gcs) == [NodeLost("b")]
        gcs.nodes = [node("a", drains=1020.0)]
        assert next_events(watch, gcs) == [NodeDraining("a", 20.0, DRAINED)], "earlier than was told"
        gcs.nodes = []
        assert next_events(watch, gcs) == [NodeLost("a")]
        gcs.nodes = [node("c", drains=990.0)]
        assert next_events(watch, gcs) == [NodeJoined("c", 2), NodeDraining("c", 0.0, DRAINED)]
        assert next_events(watch, gcs) == []


def test_a_node_whose_cores_change_joins_again():
    gcs = Gcs([node("a")])
    with watched(gcs) as watch:
        gcs.nodes = [node("a", cpus=7)]
        assert watch.events() + next_events(watch, gcs) == [NodeJoined("a", 2), NodeJoined("a", 7)]


def test_nodes_without_a_slot_are_never_told():
    gcs = Gcs([node("a", cpus=0, drains=1001.0)])
    with watched(gcs) as watch:
        gcs.nodes = []
        assert next_events(watch, gcs) == []


def test_a_gcs_that_does_not_answer_loses_no_node():
    gcs = Gcs([node("a")])
    with watched(gcs) as watch:
        watch.events()
        gcs.nodes = None
        assert next_events(watch, gcs) == []
        gcs.nodes = [node("a")]
        assert next_events(watch, gcs) == []


def test_a_node_is_alive_if_the_gcs_says_so_and_its_raylet_listens():
    with socket.create_server(("127.0.0.1", 0)) as raylet:
        gcs = Gcs([node("a", port=raylet.getsockname()[1])])
        with watched(gcs) as watch:
            assert watch.is_alive("a") is True
            raylet.close()
            assert watch.is_alive("a") is False, "the gcs has not noticed yet"
            assert watch.is_alive("z") is False
            gcs.nodes = None
            assert watch.is_alive("z") is None


def test_a_notice_of_a_cloud_drains_its_node_and_others_are_only_told():
    gcs, clouds = Gcs([node("a"), node("b", cpus=0)]), Clouds()
    with watched(gcs, clouds=clouds) as watch:
        assert clouds.followed == {"a"}
        clouds.notices = [
            ("a", Notice("it may go", is_final=False)),
            ("a", Notice("it goes", 30.0)),
            ("x", Notice("?")),
        ]
        assert watch.events() + next_events(watch, gcs) == [NodeJoined("a", 2), NodeDraining("a", 30.0, "it goes")]
        assert watch.notes() == ["node 127.0.0.1: it may go"]
        assert watch.notes() == []
        gcs.nodes = [node("a", drains=1040.0)]
        assert next_events(watch, gcs) == [], "it drains already"


def test_a_node_whose_slots_are_gone_before_it_is_lost_is_told_as_lost():
    gcs = Gcs([node("a")])
    with watched(gcs) as watch:
        watch.events()
        gcs.nodes = [node("a", cpus=0)]
        assert next_events(watch, gcs) == [NodeJoined("a", 0)]
        gcs.nodes = []
        assert next_events(watch, gcs) == [NodeLost("a")]


def test_a_node_whose_raylet_did_not_answer_for_a_moment_joins_again():
    with socket.create_server(("127.0.0.1", 0)) as raylet:
        address = raylet.getsockname()
    gcs = Gcs([node("a", port=address[1])])
    with watched(gcs) as watch:
        assert watch.events() == [NodeJoined("a", 2)]
        assert watch.is_alive("a") is False
        assert next_events(watch, gcs) == [], "it does not answer"
        with socket.create_server(address):
            assert next_events(watch, gcs) + next_events(watch, gcs) == [NodeJoined("a", 2)]
        assert next_events(watch, gcs) == []


def test_an_error_while_nodes_are_asked_for_is_told_once_and_they_are_asked_for_again():
    gcs, clouds = Gcs([node("a")]), Clouds()
    with watched(gcs, clouds=clouds) as watch:
        watch.events()
        clouds.notices = [("a", None)]
        next_events(watch, gcs)
        gcs.nodes = [node("a"), node("b")]
        assert next_events(watch, gcs) == [NodeJoined("b", 2)]
        (note,) = watch.notes()
        assert note.startswith("nodes of the cluster could not be asked for: AttributeError: ")


def test_its_thread_ends_with_the_context():
    gcs = Gcs([])
    with watched(gcs):
        pass
    asked = gcs.asked
    time.sleep(0.05)
    assert gcs.asked == asked
