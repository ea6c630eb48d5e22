"""Numbers and names as text for the terminal.

Text from outside (names, messages) becomes one printable line, so that no escape code and no line break in it reaches
the terminal.
"""

from __future__ import annotations

from psych_ray.tracking.progress import Pace, SweepProgress, TaskProgress
from psych_ray.tracking.remaining import seconds_left

_ERROR_LENGTH = 240


def one_line(text: object) -> str:
    """The text on one line, without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def error_text(error: BaseException) -> str:
    """Message of an exception on one line of bounded length; its type where the message is empty."""
    text = one_line(error) or type(error).__name__
    return text if len(text) <= _ERROR_LENGTH else text[: _ERROR_LENGTH - 1] + "…"


def task_name(task: TaskProgress) -> str:
    """For example `qwen2.5-0.5b · plain`."""
    return one_line(" · ".join(task.plan.key))


def duration(seconds: float) -> str:
    """H:MM:SS, with days where there are any."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}d " if days else "") + f"{hour}:{minute:02}:{second:02}"


def speed(pace: Pace) -> str | None:
    """Tokens per second of a pace."""
    return tokens_per_second(pace.tokens_per_second)


def tokens_per_second(rate: float | None) -> str | None:
    """Tokens per second, about three digits."""
    if rate is None:
        return None
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if rate >= size:
            return f"{rate / size:.1f}{letter} tokens/s"
    return f"{rate:.0f} tokens/s"


def time_left(seconds: float | None) -> str | None:
    """Remaining time."""
    return None if seconds is None else f"{duration(seconds)} left"


def responses(committed: int, planned: int) -> str:
    """Responses of responses planned."""
    return f"{committed:,}/{planned:,} responses"


def nats(value: float | None) -> str | None:
    """Mean NLL of a response."""
    return None if value is None else f"{value:.3f} nats"


def failures(count: int) -> str | None:
    """Failures so far, including retried ones; None when there are none."""
    return None if count == 0 else f"{count:,} failure" + ("s" if count > 1 else "")


def join(*parts: str | None) -> str:
    """The parts that are not None, separated by commas."""
    return ", ".join(part for part in parts if part is not None)


def complete_task(task: TaskProgress) -> str:
    """The line that stays in the terminal when a task is complete."""
    return f"{task_name(task)}: " + join(
        f"{task.responses_committed:,} responses",
        "none of them scored" if (mean := nats(task.means.nll_nats)) is None else f"{mean} per response",
        speed(task.pace),
        duration(task.pace.seconds),
    )


def tasks(progress: SweepProgress) -> str:
    """Complete tasks of all tasks."""
    return f"{progress.complete}/{len(progress.tasks)} tasks"


def overall(progress: SweepProgress, at: float) -> str:
    """How far the whole sweep is."""
    return join(
        responses(int(progress.responses_read), progress.responses),
        time_left(seconds_left(progress, at)),
        speed(progress.pace),
        failures(progress.failures),
    )
