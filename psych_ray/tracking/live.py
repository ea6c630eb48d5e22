"""The live view: what the terminal shows of a sweep's progress at one moment. It only draws; who draws when, and what
is printed above it, is the console's business.

Whatever the number of checkpoints, it has at most `height` lines: the running tasks that fit get a bar, the others are
counted.
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from psych_ray.tracking import wording
from psych_ray.tracking.progress import SweepProgress, TaskProgress

_FIXED_LINES = 2
_LOADING_NAMES = 3


def draw(progress: SweepProgress, *, at: float, width: int, height: int) -> RenderableType:
    """Overall line, a bar per running task, and a line that counts the rest."""
    room = max(0, height - _FIXED_LINES)
    running = progress.running
    shown = running[:room]
    names = min(width // 3, max((len(wording.name_of(task)) for task in shown), default=0))
    overall = _grid(width, names)
    overall.add_row(
        _text("all", style="bold"),
        _bar(progress.responses, progress.responses_planned, width),
        _text(wording.overall(progress, at)),
    )
    lines: list[RenderableType] = [overall]
    if shown:
        tasks = _grid(width, names)
        for task in shown:
            bar = _bar(task.responses, task.task.responses, width)
            tasks.add_row(_text(wording.name_of(task)), bar, _state(task, at))
        lines.append(tasks)
    lines.append(_text(_rest(progress, at=at, not_shown=len(running) - len(shown)), style="dim"))
    return Group(*lines[: max(1, height)])


def _state(task: TaskProgress, at: float) -> Text:
    return _text(
        wording.joined(
            f"{task.responses:,}/{task.task.responses:,}",
            wording.left(task.seconds_left(at)),
            wording.speed(task.pace),
            wording.nats(task.means.nll_nats),
            f"{task.units_done}/{task.units} units",
        )
    )


def _rest(progress: SweepProgress, *, at: float, not_shown: int) -> str:
    return wording.joined(
        f"{not_shown} more running" if not_shown else None,
        f"{progress.waiting} waiting",
        f"{progress.complete} done",
        _loading(progress, at) if progress.loading else None,
    )


def _loading(progress: SweepProgress, at: float) -> str:
    since = list(progress.loading.items())
    names = [f"{wording.one_line(slug)} {wording.duration(at - begun)}" for slug, begun in since[:_LOADING_NAMES]]
    return f"{len(since)} loading: " + ", ".join(names) + (", …" if len(since) > len(names) else "")


def _grid(width: int, names: int) -> Table:
    """Name, bar, state: the same columns for every grid of the view; what is too long for its own is cut."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, width=max(3, names))
    grid.add_column(no_wrap=True, width=_bar_width(width))
    grid.add_column(no_wrap=True, width=max(1, width - max(3, names) - _bar_width(width) - 2), overflow="ellipsis")
    return grid


def _bar(done: int, planned: int, width: int) -> ProgressBar:
    return ProgressBar(total=max(1, planned), completed=min(done, planned), width=_bar_width(width))


def _bar_width(width: int) -> int:
    return max(6, min(24, width // 6))


def _text(text: str, style: str = "") -> Text:
    """Text that is never read as markup and never takes a second line."""
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
