"""The process of one rank: calls a replica, and turns exceptions into failures that reach the driver."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from functools import cached_property, partial
from typing import TypeVar

import ray

from psych_ray.errors import FailureKind
from psych_ray.sweep.failure import Failure, failure_of
from psych_ray.sweep.unit import Unit, UnitReport
from psych_ray.transcripts.record import Transcript
from psych_ray.worker.heartbeat import Heartbeat, gpu_use
from psych_ray.worker.replica import Replica
from psych_ray.worker.spec import CheckpointReport, LoadReport, ReplicaSpec

PROGRESS = "progress"
"""Concurrency group of the calls that are answered while another call runs."""
_log = logging.getLogger(__name__)
T = TypeVar("T")


class RankProcess:
    """One rank of a replica; `gang` makes an actor of it.

    Ray runs the calls of each concurrency group on a thread of its own, always the same one, and no call on the main
    thread.
    """

    def __init__(self, spec: ReplicaSpec, rank: int = 0) -> None:
        self._make = partial(Replica, spec, rank)

    def renew(self, spec: ReplicaSpec) -> None:
        """Forget the weights, and be a replica of one rank of these ones."""
        self.__dict__.pop("_replica", None)
        gc.collect()  # models refer to themselves
        self._make = partial(Replica, spec)

    @cached_property
    def _replica(self) -> Replica:
        """Made at the first call, which can report a failure; the constructor of an actor cannot."""
        return self._make()

    def open_rendezvous(self) -> tuple[str, int] | Failure:
        """Host and port at which the ranks of this replica meet; for rank 0, before all load."""
        return _outcome(lambda: self._replica.open_rendezvous(ray.util.get_node_ip_address()))

    @ray.method(concurrency_group=PROGRESS)  # type: ignore[untyped-decorator]
    def progress(self) -> Heartbeat:
        """How much this rank has done so far, the node it is on, and how far it is with its unit; at once."""
        replica = self.__dict__.get("_replica")
        node = ray.get_runtime_context().get_node_id()
        if not isinstance(replica, Replica):
            return Heartbeat(0, node)
        return Heartbeat(replica.work.done, node, replica.reading(), gpu_use())

    @ray.method(concurrency_group=PROGRESS)  # type: ignore[untyped-decorator]
    def cut(self, unit: str) -> None:
        """Let the unit of this id end early; at once."""
        replica = self.__dict__.get("_replica")
        if isinstance(replica, Replica):
            replica.cut(unit)

    def load(self, address: tuple[str, int] | Failure | None) -> LoadReport | Failure:
        """Load the checkpoint, with the other ranks where there are any."""
        return address if isinstance(address, Failure) else _outcome(lambda: self._replica.load(address))

    def score(self, unit: Unit) -> UnitReport | Failure:
        """Score one unit; rank 0 writes its part."""
        return _outcome(lambda: self._replica.score(unit))

    def check(self, transcripts: list[Transcript]) -> list[CheckpointReport] | Failure:
        """Report what the self-check saw, and how these transcripts align with the tokens."""
        return _outcome(lambda: self._replica.check(transcripts))


def _outcome(call: Callable[[], T]) -> T | Failure:
    try:
        return call()
    except Exception as error:  # noqa: BLE001  every fault becomes a failure, judged by the scheduler
        failure = failure_of(error)
        if failure.kind == FailureKind.unknown:
            _log.exception("a replica failed")
        return failure
