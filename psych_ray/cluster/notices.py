"""Watches, on every node, whether its cloud will take it back: a small actor per node, without CPU cores of Ray's.

What a notice means for replicas is the scheduler's: here it becomes a node that drains. The node itself is not drained
in Ray, as a raylet without work would then end, that of a head node as well.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from psych_ray.cluster.metadata import MetadataService, Notice, cloud_here, get_from
from psych_ray.cluster.shape import gpu_memory
from psych_ray.config import Notices

ASK_EVERY_S = 2.0
SILENT_S = 180.0
"""A service that does not answer for so long is told of; Azure's takes two minutes to begin."""


class NodeNotices:
    """Asks the metadata service of the machine that it runs on, until there is something to say."""

    def __init__(self, setting: Notices, *, every_s: float = ASK_EVERY_S, silent_s: float = SILENT_S) -> None:
        cloud = cloud_here() if setting == Notices.auto else setting
        self._every_s, self._silent_s = every_s, silent_s
        self._service = None
        if cloud != Notices.none:
            self._service = MetadataService(cloud, get_from(cloud), has_gpus=bool(gpu_memory()))
        self._said: set[str] = set()

    def next(self) -> Notice | None:
        """Wait for a notice that was not given yet; None where this machine is of no known cloud."""
        if self._service is None:
            return None
        answered = time.monotonic()
        while True:
            try:
                notice = self._service.notice()
                answered = time.monotonic()
            except OSError as error:
                notice = None
                if time.monotonic() - answered > self._silent_s:
                    notice = Notice(f"its metadata service does not answer ({error})", is_final=False)
            if notice is not None and notice.reason not in self._said:
                self._said.add(notice.reason)
                return notice
            time.sleep(self._every_s)


class NoticesWatch:
    """The actors of all nodes; needs a Ray session, with which they end. No call waits for a node."""

    def __init__(self, setting: Notices, *, every_s: float = ASK_EVERY_S) -> None:
        self._setting, self._every_s = setting, every_s
        self._actors: dict[str, Any] = {}
        """Of each node that was ever followed; None where nothing more will be said of it."""
        self._calls: dict[Any, str] = {}
        """Nodes, by the reference to what their actor says next."""
        if setting == Notices.auto and cloud_here() == Notices.none:
            self._actors[ray.get_runtime_context().get_node_id()] = None

    def poll(self, nodes: Collection[str]) -> list[tuple[str, Notice]]:
        """Follow these nodes, by their ids in hex, and no others; what was noticed of them since the last call."""
        if self._setting == Notices.none:
            return []
        for node in self._actors.keys() - set(nodes):
            self._end(node)
            del self._actors[node]
        for node in set(nodes) - self._actors.keys():
            self._start(node)
        done, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0) if self._calls else ([], [])
        return [notice for reference in done for notice in self._said(reference)]

    def _start(self, node: str) -> None:
        actor_class: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(NodeNotices)
        on_node = NodeAffinitySchedulingStrategy(node, soft=False)
        actor = actor_class.options(scheduling_strategy=on_node).remote(self._setting, every_s=self._every_s)
        self._actors[node] = actor
        self._calls[actor.next.remote()] = node

    def _said(self, reference: Any) -> list[tuple[str, Notice]]:
        node = self._calls.pop(reference)
        try:
            notice = ray.get(reference)
        except RayError:  # the node is gone, which is seen elsewhere
            notice = None
        if notice is None or notice.is_final:
            self._end(node)
        else:
            self._calls[self._actors[node].next.remote()] = node
        return [] if notice is None else [(node, notice)]

    def _end(self, node: str) -> None:
        self._calls = {reference: one for reference, one in self._calls.items() if one != node}
        actor, self._actors[node] = self._actors[node], None
        if actor is not None:
            ray.kill(actor)
