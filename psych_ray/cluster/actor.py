"""The Ray actor around a replica: a thin shell. Turns exceptions into outcomes that survive the way to the driver."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

import ray

from psych_ray.errors import (
    InsufficientMemoryError,
    PsychRayError,
    ResultsError,
    TranscriptError,
    TransientError,
    first_line,
)
from psych_ray.sweep.unit import Unit, UnitReport
from psych_ray.transcripts.record import Transcript
from psych_ray.worker.replica import CheckpointReport, LoadReport, Replica, ReplicaSpec

_log = logging.getLogger(__name__)
_SOURCE_PLACE = re.compile(r"^\[\S+\.(cc|cpp):\d+\] ")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a replica could not do what it was asked."""

    reason: str
    """One line."""
    final: bool
    """Another try would end the same."""
    stops_sweep: bool
    """Nothing can be committed any more."""
    guilty: str | None = None
    """Id of the transcript that is at fault, where it is known."""
    out_of_memory: bool = False
    """Of a GPU: fewer tokens at a time may help."""

    @property
    def on_all_ranks(self) -> bool:
        """Every rank of a gang meets it at the same place, so that the gang can go on."""
        return self.final or self.guilty is not None


@ray.remote(max_restarts=0, max_task_retries=0)
class ReplicaActor:
    """One replica in a process of its own."""

    def __init__(self, spec: ReplicaSpec, rank: int = 0) -> None:
        self._replica = Replica(spec, rank)

    def open_rendezvous(self) -> tuple[str, int]:
        """Host and port at which the ranks of this replica meet; asked of rank 0, before all load."""
        return self._replica.open_rendezvous(ray.util.get_node_ip_address())

    def load(self, place: tuple[str, int] | None) -> LoadReport | Failure:
        """Load the checkpoint, with the other ranks where there are any."""
        try:
            return self._replica.load(place)
        except Exception as error:  # noqa: BLE001  every fault becomes an outcome, judged in one place
            return _failure(error)

    def score(self, unit: Unit) -> UnitReport | Failure:
        """Score one unit; rank 0 commits it."""
        try:
            return self._replica.score(unit)
        except Exception as error:  # noqa: BLE001  every fault becomes an outcome, judged in one place
            return _failure(error)

    def check(self, transcripts: list[Transcript]) -> list[CheckpointReport] | Failure:
        """Tell what the self-check saw, and how these transcripts align with the tokens."""
        try:
            return self._replica.check(transcripts)
        except Exception as error:  # noqa: BLE001  as above
            return _failure(error)


def _failure(error: Exception) -> Failure:
    """One decision for all: the user's own mistakes are final, a results root that refuses stops everything."""
    ours = isinstance(error, PsychRayError)
    if not ours:
        _log.exception("a replica failed")
    line = _SOURCE_PLACE.sub("", first_line(error))
    return Failure(
        reason=line if ours else f"{type(error).__name__}: {line}",
        final=ours and not isinstance(error, TranscriptError | TransientError),
        stops_sweep=isinstance(error, ResultsError),
        guilty=error.transcript_id if isinstance(error, TranscriptError) else None,
        out_of_memory=isinstance(error, InsufficientMemoryError) or type(error).__name__ == "OutOfMemoryError",
    )
