"""All trackers of a sweep as one. A member that fails is switched off, with one line that says so; the sweep and the
other members do not notice. Which members there are is decided here and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from rich.console import Console

from psych_ray.config import Config, TrackingKind
from psych_ray.sweep.unit import UnitReport
from psych_ray.tracking import wording
from psych_ray.tracking.base import SweepEnd, SweepStart, Tracker
from psych_ray.tracking.console import ConsoleTracker


class Member(Tracker, Protocol):
    """A tracker that may raise."""

    label: str

    def close(self) -> None:
        """Let go of terminal, threads and files without a word."""

    def summary_lines(self) -> list[str]:
        """What the user should know once all is over."""


class TrackerGroup:
    """Tells all members, in order, until they fail. `warn` prints a line, and may fail as well."""

    def __init__(self, members: Sequence[Member], *, warn: Callable[[str], None]) -> None:
        self._members = list(members)
        self._warn = warn

    def started(self, start: SweepStart) -> None:
        """Before the first replica starts."""
        self._tell(lambda member: member.started(start))

    def loading(self, checkpoint: str) -> None:
        """A replica of the checkpoint (slug) begins to load."""
        self._tell(lambda member: member.loading(checkpoint))

    def ready(self, checkpoint: str, seconds: float) -> None:
        """A replica has loaded and begins to score."""
        self._tell(lambda member: member.ready(checkpoint, seconds))

    def unit_started(self, checkpoint: str, condition: str, unit: str) -> None:
        """A replica has taken a unit."""
        self._tell(lambda member: member.unit_started(checkpoint, condition, unit))

    def unit_done(self, report: UnitReport) -> None:
        """A part is committed."""
        self._tell(lambda member: member.unit_done(report))

    def trouble(self, message: str) -> None:
        """Something failed and is retried or set aside; one line."""
        self._tell(lambda member: member.trouble(message))

    def note(self, message: str) -> None:
        """Nothing failed, but the user should know; one line."""
        self._tell(lambda member: member.note(message))

    def set_aside(self, checkpoint: str, condition: str, responses: int) -> None:
        """So many responses of a task cannot be scored in this sweep; why was told before."""
        self._tell(lambda member: member.set_aside(checkpoint, condition, responses))

    def ended(self, end: SweepEnd) -> None:
        """Nothing follows. More than once does nothing more."""
        self._tell(lambda member: member.ended(end))

    def summary_lines(self) -> list[str]:
        """Closing lines: where the runs lie and what to do with them. After `ended`."""
        lines: list[str] = []
        self._tell(lambda member: lines.extend(member.summary_lines()))
        return lines

    def _tell(self, event: Callable[[Member], None]) -> None:
        for member in tuple(self._members):
            try:
                event(member)
            except Exception as error:  # noqa: BLE001 - whatever a tracker does, the sweep goes on
                self._members.remove(member)
                with suppress(Exception):
                    member.close()
                with suppress(Exception):
                    self._warn(f"{member.label} tracking is switched off: {wording.because(error)}")


class _Stderr(Console):
    """rich ends the program when its output breaks (`psych-ray sweep 2>&1 | head`); this one only raises."""

    def __init__(self) -> None:
        super().__init__(stderr=True)

    def on_broken_pipe(self) -> None:
        """Let the BrokenPipeError that is being handled pass."""
        raise


def open_group(config: Config, *, console: Console | None = None) -> TrackerGroup:
    """The members that the configuration names; the terminal comes first."""
    terminal = ConsoleTracker(console or _Stderr())
    members: list[Member] = [terminal]
    # WANDB_MODE=disabled is how its users switch W&B off whatever a program wants.
    if config.tracking.kind == TrackingKind.wandb and os.environ.get("WANDB_MODE") != "disabled":
        from psych_ray.tracking.wandb_tracker import WandbTracker

        members.append(WandbTracker(config, warn=terminal.say))
    return TrackerGroup(members, warn=terminal.say)
