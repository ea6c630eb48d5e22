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
from psych_ray.errors import first_line
from psych_ray.sweep.cluster_shape import NodeShape, Slots, ranks_on
from psych_ray.sweep.events import NodeDraining, NodeEvent, NodeJoined, NodeLost

EVERY_S = 2.0
REQUEST_S = 5.0
CONNECT_S = 2.0
DRAINED = "its node is drained"
_SAME_S = 1.0
"""Times of one notice differ by less, as the clocks of two machines are read."""


class AskNodes(Protocol):
    """Where nodes are asked for; `RayNodes` is one."""

    def alive(self, timeout_s: float) -> list[RayNode] | None:
        """All live nodes; None without an answer in time."""

    def is_alive(self, node: str, timeout_s: float) -> bool | None:
        """Whether a node is alive; None without an answer in time."""


class NodesWatch:
    """Follows the nodes of a cluster for as long as the context runs; needs a Ray session.

    A node of which Ray's gcs says nothing any more, as it does not answer itself, counts as it was. One whose raylet
    did not answer, and does again, has joined again.
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
        self._told: set[str] = set()
        """Nodes that have joined."""
        self._silent: set[str] = set()
        """Of these, whose raylet did not answer `is_alive`."""
        self._draining: dict[str, float] = {}
        """When each draining node will be gone, by the clock, as far as that was told."""
        self._events: list[NodeEvent] = []
        self._notes: list[str] = []
        self._failed_with: str | None = None
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
        if not _answers(raylet):
            with self._lock:
                self._silent.add(node)
            return False
        return known

    def notes(self) -> list[str]:
        """Lines for the user since the last call: what clouds said of which nothing follows."""
        with self._lock:
            notes, self._notes = self._notes, []
        return notes

    def _watch(self) -> None:
        while not self._ended.wait(self._every_s):
            try:
                self._poll()
            except Exception as error:  # noqa: BLE001  else nodes would come and go unseen for the rest of the sweep
                note = f"nodes of the cluster could not be asked for: {type(error).__name__}: {first_line(error)}"
                with self._lock:
                    self._notes += [] if self._failed_with == note else [note]
                self._failed_with = note

    def _poll(self) -> None:
        nodes = self._ask.alive(REQUEST_S)
        if nodes is not None:
            with self._lock:
                self._compare(nodes)
                silent = {name: self._raylets[name] for name in self._silent}
            for name, raylet in silent.items():
                self._listen(name, raylet)
            with self._lock:
                followed = [name for name, slots in self._nodes.items() if slots]
            notices = self._notices.poll(followed) if self._notices else []
            with self._lock:
                for name, notice in notices:
                    self._hear(name, notice)

    def _compare(self, nodes: Iterable[RayNode]) -> None:
        """Add an event for each difference to what was known."""
        found = {node.id: node for node in nodes}
        for lost in self._nodes.keys() - found.keys():
            if lost in self._told:
                self._events.append(NodeLost(lost))
            self._told.discard(lost)
            self._silent.discard(lost)
            for known in (self._nodes, self._draining, self._raylets):
                known.pop(lost, None)
        for name, node in found.items():
            slots = ranks_on(_shape(node), self._slots)
            if slots != self._nodes.get(name, 0):
                self._events.append(NodeJoined(name, slots))
                self._told.add(name)
            self._nodes[name], self._raylets[name] = slots, (node.address, node.port)
            if node.drain_deadline_s is not None:
                left = max(0.0, node.drain_deadline_s - self._clock()) if node.drain_deadline_s else None
                self._drain(name, left, DRAINED)

    def _listen(self, node: str, raylet: tuple[str, int]) -> None:
        """Tell of a node that counts as lost, as its raylet did not answer, when it does; not where it drains."""
        if not _answers(raylet):
            return
        with self._lock:
            self._silent.discard(node)
            if self._nodes.get(node) and node not in self._draining:
                self._events.append(NodeJoined(node, self._nodes[node]))

    def _hear(self, node: str, notice: Notice) -> None:
        address, _ = self._raylets.get(node, (node, 0))
        if notice.is_final:
            self._drain(node, notice.seconds, notice.reason)
        else:
            self._notes.append(f"node {address}: {notice.reason}")

    def _drain(self, node: str, seconds: float | None, reason: str) -> None:
        at = float("inf") if seconds is None else self._clock() + seconds
        if self._nodes.get(node) and (node not in self._draining or at < self._draining[node] - _SAME_S):
            self._draining[node] = at
            self._events.append(NodeDraining(node, seconds, reason))


def _answers(raylet: tuple[str, int]) -> bool:
    try:
        socket.create_connection(raylet, timeout=CONNECT_S).close()
    except OSError:
        return False
    return True


def _shape(node: RayNode) -> NodeShape:
    return NodeShape(cpus=int(node.resources.get("CPU", 0)), gpus=int(node.resources.get("GPU", 0)))
