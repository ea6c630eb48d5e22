"""How numbers and names read in the terminal. Text from outside (names, messages) becomes one printable line here, so
that neither an escape code nor a line break of it reaches the terminal.
"""

from __future__ import annotations

from psych_ray.tracking.progress import Pace, SweepProgress, TaskProgress


def one_line(text: object) -> str:
    """The text on one line, without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def because(error: BaseException) -> str:
    """What an exception says, on one line of bounded length; its type where it says nothing."""
    text = one_line(error) or type(error).__name__
    return text if len(text) <= 240 else text[:239] + "…"


def name_of(task: TaskProgress) -> str:
    """For example `qwen2.5-0.5b · plain`."""
    return one_line(" · ".join(task.task.key))


def duration(seconds: float) -> str:
    """H:MM:SS, with days where there are any."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}d " if days else "") + f"{hour}:{minute:02}:{second:02}"


def speed(pace: Pace) -> str | None:
    """Tokens per second, three digits or so."""
    rate = pace.tokens_per_second
    if rate is None:
        return None
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if rate >= size:
            return f"{rate / size:.1f}{letter} tokens/s"
    return f"{rate:.0f} tokens/s"


def left(seconds: float | None) -> str | None:
    """Remaining time."""
    return None if seconds is None else f"{duration(seconds)} left"


def responses(done: int, planned: int) -> str:
    """Responses done of responses planned."""
    return f"{done:,}/{planned:,} responses"


def nats(value: float | None) -> str | None:
    """Mean NLL of a response."""
    return None if value is None else f"{value:.3f} nats"


def troubles(count: int) -> str | None:
    """Failures so far, retried ones too; nothing when there are none."""
    return None if count == 0 else f"{count:,} failure" + ("s" if count > 1 else "")


def joined(*parts: str | None) -> str:
    """The parts that say something, one after the other."""
    return ", ".join(part for part in parts if part is not None)


def finished_line(task: TaskProgress) -> str:
    """The line that stays of a finished task."""
    return f"{name_of(task)}: " + joined(
        f"{task.responses:,} responses",
        "none of them scored" if (mean := nats(task.means.nll_nats)) is None else f"{mean} a response",
        speed(task.pace),
        duration(task.pace.seconds),
    )


def tasks(progress: SweepProgress) -> str:
    """Tasks complete of all tasks."""
    return f"{progress.complete}/{len(progress.tasks)} tasks"


def overall(progress: SweepProgress, at: float) -> str:
    """How far the whole sweep is."""
    return joined(
        responses(progress.responses, progress.responses_planned),
        left(progress.seconds_left(at)),
        speed(progress.pace),
        troubles(progress.troubles),
    )
