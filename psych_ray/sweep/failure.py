"""What travels from a replica when something fails: what it affects, in one line. Does not import torch or Ray."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from psych_ray.compat.torch import is_connection_lost, is_out_of_memory
from psych_ray.errors import FailureKind, PsychRayError, TranscriptError, first_line

_PRECEDENCE = [
    FailureKind.preempted,
    FailureKind.out_of_memory,
    FailureKind.lost,
    FailureKind.unreachable,
    FailureKind.transcript,
    FailureKind.task,
    FailureKind.checkpoint,
    FailureKind.unknown,
]
_SOURCE_LINE = re.compile(r"^\[\S+\.(cc|cpp):\d+\] ")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a rank could not do what it was asked to do. Small, and pickles."""

    kind: FailureKind
    reason: str
    """One line."""
    transcript_id: str | None = None
    """The transcript at fault, where it is known."""


def cause_of(failures: Iterable[Failure]) -> Failure:
    """Of the failures that the ranks of a gang report, the cause: the others often report its consequences."""
    return min(failures, key=lambda one: _PRECEDENCE.index(one.kind))


def failure_of(error: BaseException) -> Failure:
    """Describe an exception: ours by its kind, a lack of memory and a lost rank by any library, others as unknown."""
    line = _SOURCE_LINE.sub("", first_line(error))  # torch's C++ errors begin with their source file
    if isinstance(error, PsychRayError):
        transcript_id = error.transcript_id if isinstance(error, TranscriptError) else None
        return Failure(error.kind, line, transcript_id)
    kind = FailureKind.unknown
    if is_out_of_memory(error):
        kind = FailureKind.out_of_memory
    elif is_connection_lost(error):
        kind = FailureKind.lost
    return Failure(kind, f"{type(error).__name__}: {line}")
