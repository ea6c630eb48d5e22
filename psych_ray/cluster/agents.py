"""Ends the agents of a local Ray when this process is killed.

Ray 2.60's other processes end within two seconds then. The agents of its raylet notice that it is gone, report that to
its gcs, which is gone as well, and wait 60 s for an answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from psych_ray.child import shell_after_death
from psych_ray.compat.ray import raylet_process

# Each argument is PID:START, as the kernel may have given the id of an ended process to another one.
_KILL = r"""
for agent; do
    pid=${agent%%:*}
    [ "$(sed 's/.*) //' /proc/$pid/stat 2>/dev/null | cut -d' ' -f20)" = "${agent##*:}" ] && kill -9 $pid
done
"""


@contextmanager
def agents_end_with_this_process() -> Iterator[None]:
    """Within the context, let a shell kill the agents of this process's raylet once this process is gone.

    Nothing happens where there is no /proc, as on macOS.
    """
    agents = _children_of(raylet_process())
    with shell_after_death(_KILL, *agents) if agents else nullcontext():
        yield


def _children_of(process: int) -> list[str]:
    """Children of a process, as PID:START, the latter in clock ticks since boot (proc(5))."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            _, parent, *more = stat.read_text().rpartition(")")[2].split()
            if int(parent) == process:
                found.append(f"{stat.parent.name}:{more[17]}")
    return found
