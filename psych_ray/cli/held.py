"""How `psych-ray status` shows a sweep that runs. Computes nothing."""

from __future__ import annotations

from collections.abc import Iterator

from psych_ray.app.status import Held
from psych_ray.results.running import RunningSweep
from psych_ray.tracking import text

_STALE_S = 60.0


def held_lines(held: Held) -> Iterator[str]:
    """Who holds the results root, how fast it is and when it will be done; then a line for each running task."""
    yield f"in use by {held.holder}" + ("" if held.is_sure else ", unless that ended without saying so")
    running = held.running
    if running is None:
        return
    if held.seconds_ago > _STALE_S:
        yield f"  it told {text.duration(held.seconds_ago)} ago how far it is:"
    yield f"  {_overall(running)}"
    for task in running.tasks:
        progress = text.join(f"{task.responses:,}/{task.planned:,}", text.time_left(task.seconds_left))
        yield f"  {text.one_line(task.checkpoint)} · {text.one_line(task.condition)}: {progress}"


def _overall(running: RunningSweep) -> str:
    return text.join(
        text.responses(running.responses, running.planned),
        text.time_left(running.seconds_left),
        text.tokens_per_second(running.tokens_per_second),
        text.failures(running.failures),
        f"loading {', '.join(map(text.one_line, running.loading))}" if running.loading else None,
    )
