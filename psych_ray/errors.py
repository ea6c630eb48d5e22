"""The exceptions a caller may see, one tree, each with what may be done about it.

    PsychRayError                    something the user can act on; printed as one line, exit code 1
    ├── ConfigError                  an override or a configuration value is wrong; exit code 2
    ├── UnsupportedError             a known option that this version does not carry out
    ├── TransientError               the same attempt may succeed later or elsewhere
    │   ├── UnreachableError         a hub or store does not answer, or limits requests for a while
    │   ├── InsufficientMemoryError  a device or host ran out of memory; fewer tokens at a time may help
    │   └── ReplicaLostError         a process or its node is gone, or a rank made no progress for too long
    ├── TranscriptError              one transcript, or the file that holds it, cannot be used
    │   └── MarkerError              its response markers are unbalanced or nested
    ├── ConditionError               a checkpoint cannot be scored under a condition, whatever the transcript
    ├── CheckpointError              a checkpoint cannot be found, read or trusted
    ├── ResultsError                 the results root cannot take or give what this run needs
    └── ClusterLostError             the Ray cluster that a command uses does not answer any more

An error is raised where the fault is known and carries its `kind`; what follows from a kind (a retry, a smaller pass,
a skipped transcript, the end of the sweep) is decided in one place, `sweep`. Preemption has a kind but no
class: no code raises it, `cluster.driver` reads it from the death of an actor. Every message is one line with what is
wrong, where, and what to do. Any other exception is a defect of psych_ray and keeps its traceback.
"""

from __future__ import annotations

from enum import StrEnum


class FailureKind(StrEnum):
    """What a fault affects, and whether another attempt may succeed."""

    unreachable = "unreachable"
    """Transient: retried after a pause."""
    out_of_memory = "out_of_memory"
    """Transient: retried with fewer tokens at a time."""
    preempted = "preempted"
    """Transient: the node was preempted; retried at once, and not counted."""
    lost = "lost"
    """Transient: a process or node died, perhaps because of what it ran; counted."""
    unknown = "unknown"
    """An exception of no class below; treated as transient, and counted."""
    transcript = "transcript"
    """Permanent for one transcript."""
    task = "task"
    """Permanent for a checkpoint under a condition."""
    checkpoint = "checkpoint"
    """Permanent for a checkpoint."""
    sweep = "sweep"
    """Fatal: no result can be committed, or every result would be wrong."""


class PsychRayError(Exception):
    """Base of all errors that the user can act on."""

    exit_code = 1
    kind = FailureKind.task


class ConfigError(PsychRayError):
    """An override or a configuration value is wrong."""

    exit_code = 2


class UnsupportedError(PsychRayError):
    """A known option that this version does not carry out."""


class TransientError(PsychRayError):
    """The same attempt may succeed later or elsewhere."""

    kind = FailureKind.unknown


class UnreachableError(TransientError):
    """A hub or a store does not answer, or limits requests for a while."""

    kind = FailureKind.unreachable


class InsufficientMemoryError(TransientError):
    """A device or a host ran out of memory."""

    kind = FailureKind.out_of_memory


class ReplicaLostError(TransientError):
    """A process of a replica, or its node, is gone or makes no progress."""

    kind = FailureKind.lost


class TranscriptError(PsychRayError):
    """One transcript, or the file that holds it, cannot be used; `transcript_id` where it is known."""

    kind = FailureKind.transcript

    def __init__(self, reason: str, transcript_id: str | None = None) -> None:
        super().__init__(reason)
        self.transcript_id = transcript_id


class MarkerError(TranscriptError):
    """Response markers that are unbalanced or nested."""


class ConditionError(PsychRayError):
    """A checkpoint cannot be scored under a condition, whatever the transcript."""

    kind = FailureKind.task


class CheckpointError(PsychRayError):
    """A checkpoint cannot be found, read or trusted."""

    kind = FailureKind.checkpoint


class ResultsError(PsychRayError):
    """The results root cannot take or give what this run needs."""

    kind = FailureKind.sweep


class ClusterLostError(PsychRayError):
    """The Ray cluster that a command uses does not answer any more; no call of Ray may follow."""

    kind = FailureKind.sweep


def first_line(error: BaseException) -> str:
    """First line of an exception's message, its type's name where it has none.

    With a second line where the first only announces it ("Error(s) in loading state_dict:").
    """
    first, *more = (str(error).strip() or type(error).__name__).splitlines()
    return f"{first} {more[0].strip()}" if more and first.endswith(":") else first
