"""Running out of memory, in whichever form a library raises it, as one error that may be retried.

Does not decide what follows: the caller halves a pass, the scheduler the units of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from psych_ray.compat.torch import is_out_of_memory
from psych_ray.errors import InsufficientMemoryError

LOADING_ADVICE = (
    "hold it on more ranks (cluster.ranks), with another engine (scoring.engine=deepspeed_zero), or in half precision "
    "(scoring.dtype=bfloat16)"
)
SCORING_ADVICE = "hold the checkpoint on more ranks (cluster.ranks), or truncate transcripts (scoring.cut_at)"


@contextmanager
def memory_errors(while_doing: str, advice: str) -> Iterator[None]:
    """Raise InsufficientMemoryError for any exception that means that a device or the host ran out of memory.

    `while_doing` says where ("LAB/NAME: out of memory while loading"), `advice` what to do.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise InsufficientMemoryError(f"{while_doing}; {advice}") from error
        raise
