"""Tells which nodes of the cluster join, drain and are lost, as events of the scheduler.

Asks Ray's gcs in a thread of its own, so that a driver that waits for something else misses nothing. Decides nothing,
and does not know which replicas run where.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from psych_ray.cluster.metadata import Notice
from psych_ray.cluster.notices import NoticesWatch
from psych_ray.compat.ray import RayNode, RayNodes
from psych_ray.sweep.cluster_shape import NodeShape, Slots, ranks_on
from psych_ray.sweep.events import NodeDraining, NodeEvent, NodeJoined, NodeLost

EVERY_S = 2.0
REQUEST_S = 5.0
CONNECT_S = 2.0
DRAINED = "its node is drained"


class AskNodes(Protocol):
    """Where nodes are asked for; `RayNodes` is one."""

    def alive(self, timeout_s: float) -> list[RayNode] | None:
        """All live nodes; None without an answer in time."""

    def is_alive(self, node: str, timeout_s: float) -> bool | None:
        """Whether a node is alive; None without an answer in time."""


class NodesWatch:
    """Follows the nodes of a cluster for as long as the context runs; needs a Ray session.

    A node of which Ray's gcs says nothing any more, as it does not answer itself, counts as it was.
    """

    def __init__(
        self,
        slots: Slots,
        *,
        notices: NoticesWatch | None = None,
        ask: Callable[[], AskNodes] = RayNodes,
        clock: Callable[[], float] = time.time,
        every_s: float = EVERY_S,
    ) -> None:
        self._slots, self._notices = slots, notices
        self._make, self._clock, self._every_s = ask, clock, every_s
        self._nodes: dict[str, int] = {}
        """Slots of each live node, by its id."""
        self._raylets: dict[str, tuple[str, int]] = {}
        """Where the raylet of each of them listens."""
        self._draining: set[str] = set()
        self._events: list[NodeEvent] = []
        self._notes: list[str] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="nodes watch", daemon=True)

    def __enter__(self) -> NodesWatch:
        self._ask = self._make()
        self._poll()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(2 * REQUEST_S)

    def events(self) -> list[NodeEvent]:
        """What happened since the last call; at the first, every node that ranks can run on has joined."""
        with self._lock:
            events, self._events = self._events, []
        return events

    def is_alive(self, node: str) -> bool | None:
        """Whether a node is alive, asked now; None where that cannot be told within `REQUEST_S`.

        Ray's gcs notices a killed raylet after 12 to 15 s, ranks fail after 2 to 3 s: so its port is tried as well.
        """
        with self._lock:
            raylet = self._raylets.get(node)
        known = self._ask.is_alive(node, REQUEST_S)
        if known is False or raylet is None:
            return known
        try:
            socket.create_connection(raylet, timeout=CONNECT_S).close()
        except OSError:
            return False
        return known

    def notes(self) -> list[str]:
        """Lines for the user since the last call: what clouds said of which nothing follows."""
        with self._lock:
            notes, self._notes = self._notes, []
        return notes

    def _watch(self) -> None:
        while not self._ended.wait(self._every_s):
            self._poll()

    def _poll(self) -> None:
        nodes = self._ask.alive(REQUEST_S)
        if nodes is not None:
            with self._lock:
                self._compare(nodes)
                followed = [name for name, slots in self._nodes.items() if slots]
            notices = self._notices.poll(followed) if self._notices else []
            with self._lock:
                for name, notice in notices:
                    self._hear(name, notice)

    def _compare(self, nodes: Iterable[RayNode]) -> None:
        """Add an event for each difference to what was known."""
        found = {node.id: node for node in nodes}
        for lost in self._nodes.keys() - found.keys():
            if self._nodes.pop(lost):
                self._events.append(NodeLost(lost))
            self._draining.discard(lost)
            self._raylets.pop(lost, None)
        for name, node in found.items():
            slots = ranks_on(_shape(node), self._slots)
            if slots != self._nodes.get(name, 0):
                self._events.append(NodeJoined(name, slots))
            self._nodes[name], self._raylets[name] = slots, (node.address, node.port)
            if node.drain_deadline_s is not None:
                left = max(0.0, node.drain_deadline_s - self._clock()) if node.drain_deadline_s else None
                self._drain(name, left, DRAINED)

    def _hear(self, node: str, notice: Notice) -> None:
        address, _ = self._raylets.get(node, (node, 0))
        if notice.is_final:
            self._drain(node, notice.seconds, notice.reason)
        else:
            self._notes.append(f"node {address}: {notice.reason}")

    def _drain(self, node: str, seconds: float | None, reason: str) -> None:
        if self._nodes.get(node) and node not in self._draining:
            self._draining.add(node)
            self._events.append(NodeDraining(node, seconds, reason))


def _shape(node: RayNode) -> NodeShape:
    return NodeShape(cpus=int(node.resources.get("CPU", 0)), gpus=int(node.resources.get("GPU", 0)))
