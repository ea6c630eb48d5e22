"""All trackers of a sweep as one, and the choice of them from the configuration.

A member that fails is switched off, with one line that says so; the sweep and the other members continue.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from rich.console import Console

from psych_ray.config import TrackingConfig, TrackingKind
from psych_ray.results.store import ResultsStore
from psych_ray.tracking import text
from psych_ray.tracking.console import ConsoleTracker
from psych_ray.tracking.events import Event, Tracker
from psych_ray.tracking.root import RootTracker


class Member(Tracker, Protocol):
    """A tracker that may raise."""

    label: str

    def close(self) -> None:
        """Release terminal, threads and files, without output."""

    def summary_lines(self) -> list[str]:
        """Lines for the user after the sweep."""


class TrackerGroup:
    """Forwards events to all members, in order, until they fail. `warn` prints a line; it may fail as well."""

    def __init__(self, members: Sequence[Member], *, warn: Callable[[str], None]) -> None:
        self._members = list(members)
        self._warn = warn

    def handle(self, event: Event) -> None:
        """Forward the event."""
        self._each(lambda member: member.handle(event))

    def summary_lines(self) -> list[str]:
        """Closing lines, after `SweepEnded`: where the runs are and how they are uploaded."""
        lines: list[str] = []
        self._each(lambda member: lines.extend(member.summary_lines()))
        return lines

    def _each(self, call: Callable[[Member], None]) -> None:
        for member in tuple(self._members):
            try:
                call(member)
            except Exception as error:  # noqa: BLE001 - no failure of a tracker may stop the sweep
                self._members.remove(member)
                with suppress(Exception):
                    member.close()
                with suppress(Exception):
                    self._warn(f"{member.label} tracking is switched off: {text.error_text(error)}")


class _Stderr(Console):
    """rich ends the program when its output breaks (`psych-ray sweep 2>&1 | head`); this console raises instead."""

    def __init__(self) -> None:
        super().__init__(stderr=True)

    def on_broken_pipe(self) -> None:
        """Re-raise the BrokenPipeError that is being handled."""
        raise


def open_group(
    config: TrackingConfig, directory: Path, *, console: Console | None = None, store: ResultsStore | None = None
) -> TrackerGroup:
    """The members that the configuration names; the terminal comes first."""
    terminal = ConsoleTracker(console or _Stderr())
    members: list[Member] = [terminal]
    if store is not None:
        members.append(RootTracker(store))
    # WANDB_MODE=disabled is how users of W&B switch it off, whatever the program's configuration.
    if config.kind == TrackingKind.wandb and os.environ.get("WANDB_MODE") != "disabled":
        from psych_ray.tracking.wandb_tracker import WandbTracker

        members.append(WandbTracker(config, directory, warn=terminal.print_line))
    return TrackerGroup(members, warn=terminal.print_line)
