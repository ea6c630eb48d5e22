"""The Ray actor around a replica: a thin shell. Turns exceptions into outcomes that survive the way to the driver."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import ray

from psych_ray.cluster.replica import CheckpointReport, Replica, ReplicaSpec
from psych_ray.errors import PsychRayError, RefusedError, ResultsError
from psych_ray.sweep.unit import Unit, UnitReport
from psych_ray.transcripts.record import Transcript

_log = logging.getLogger(__name__)


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


@ray.remote(max_restarts=0, max_task_retries=0)
class ReplicaActor:
    """One replica in a process of its own."""

    def __init__(self, spec: ReplicaSpec) -> None:
        self._replica = Replica(spec)

    def load(self) -> float | Failure:
        """Load the checkpoint; seconds."""
        try:
            return self._replica.load()
        except Exception as error:  # noqa: BLE001  every fault becomes an outcome, judged in one place
            return _failure(error)

    def score(self, unit: Unit) -> UnitReport | Failure:
        """Score and commit one unit."""
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
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return Failure(
        reason=line if ours else f"{type(error).__name__}: {line}",
        final=ours and not isinstance(error, RefusedError),
        stops_sweep=isinstance(error, ResultsError),
        guilty=error.transcript_id if isinstance(error, RefusedError) else None,
    )
