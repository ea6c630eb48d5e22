"""The live view: a sweep's progress at one moment as at most `height` lines, whatever the number of checkpoints.

The running tasks that fit have a bar, the others are counted. When it is drawn is decided in `console`.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from psych_ray.tracking import text
from psych_ray.tracking.progress import SweepProgress, TaskProgress
from psych_ray.tracking.remaining import task_seconds_left

_FIXED_LINES = 2
_LOADING_NAMES = 3


def draw(
    progress: SweepProgress, *, at: float, width: int, height: int, failures: Sequence[str] = ()
) -> RenderableType:
    """Overall line, a bar per running task, a line that counts the rest, and the last failures at the bottom."""
    running = progress.running
    failures = failures[-max(0, height - _FIXED_LINES - 1) :] if height > _FIXED_LINES + 1 else ()
    shown = running[: max(0, height - _FIXED_LINES - len(failures))]
    name_width = min(width // 3, max((len(text.task_name(task)) for task in shown), default=0))
    overall = _grid(width, name_width)
    overall.add_row(
        _line("all", style="bold"),
        _bar(progress.responses_read, progress.responses, width),
        _line(text.overall(progress, at)),
    )
    lines: list[RenderableType] = [overall]
    if shown:
        tasks = _grid(width, name_width)
        for task in shown:
            bar = _bar(task.responses_read, task.plan.responses, width)
            tasks.add_row(_line(text.task_name(task)), bar, _line(_task(progress, task, at)))
        lines.append(tasks)
    lines.append(_line(_rest(progress, at=at, not_shown=len(running) - len(shown)), style="dim"))
    lines += [_line(failure, style="yellow") for failure in failures]
    return Group(*lines[: max(1, height)])


def _task(progress: SweepProgress, task: TaskProgress, at: float) -> str:
    return text.join(
        f"{int(task.responses_read):,}/{task.plan.responses:,}",
        text.time_left(task_seconds_left(progress, task, at)),
        text.speed(task.pace),
        text.nats(task.means.nll_nats),
        f"{task.units_committed}/{task.units} units",
    )


def _rest(progress: SweepProgress, *, at: float, not_shown: int) -> str:
    return text.join(
        f"{not_shown} more running" if not_shown else None,
        f"{progress.waiting} waiting",
        f"{progress.complete} done",
        _loading(progress, at) if progress.loading else None,
    )


def _loading(progress: SweepProgress, at: float) -> str:
    loading = list(progress.loading.items())
    names = [f"{text.one_line(slug)} {text.duration(at - since)}" for slug, since in loading[:_LOADING_NAMES]]
    return f"{len(loading)} loading: " + ", ".join(names) + (", …" if len(loading) > len(names) else "")


def _grid(width: int, name_width: int) -> Table:
    """Columns for name, bar and text, of the same widths in every grid of the view; longer text is truncated."""
    name_width, bar_width = max(3, name_width), _bar_width(width)
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, width=name_width)
    grid.add_column(no_wrap=True, width=bar_width)
    grid.add_column(no_wrap=True, width=max(1, width - name_width - bar_width - 2), overflow="ellipsis")
    return grid


def _bar(done: float, planned: int, width: int) -> ProgressBar:
    return ProgressBar(total=max(1, planned), completed=min(done, planned), width=_bar_width(width))


def _bar_width(width: int) -> int:
    return max(6, min(24, width // 6))


def _line(content: str, style: str = "") -> Text:
    """Text without markup, on one line."""
    return Text(content, style=style, no_wrap=True, overflow="ellipsis")
