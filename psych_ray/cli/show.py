"""How commands show tables and lines in the terminal. Computes nothing, and knows no command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Column, Table

_UNLIMITED = 100_000
"""Columns of a file or a pipe; a table takes those that it needs."""


def right(*names: str) -> list[Column | str]:
    """Columns of numbers."""
    return [Column(name, justify="right") for name in names]


def show(table: Table) -> None:
    """Print a table. Nothing in it is cut: a terminal that is too narrow folds it, elsewhere it is as wide as it is."""
    for column in table.columns:
        column.overflow = "fold"
    console = Console(markup=False, emoji=False, highlight=False)  # names are data: a [/] in one is a [/]
    if not console.is_terminal:
        console.width = _UNLIMITED
    console.print(table)


def print_line(line: str) -> None:
    """Print a line of the command's result."""
    print(_printable(line))  # noqa: T201


def say(line: str) -> None:
    """Print a line of progress, or of what went wrong."""
    print(_printable(line), file=sys.stderr, flush=True)  # noqa: T201


def _printable(line: str) -> str:
    """Names of files are data: no escape code, and nothing that stdout cannot encode."""
    return "".join(c if c.isprintable() else " " for c in line)


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on a terminal of what is done, how many of how many; elsewhere nothing is shown."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        known: dict[str, TaskID] = {}

        def advance(what: str, done: int, of: int) -> None:
            if what not in known:
                known[what] = bars.add_task(what)
            bars.update(known[what], completed=done, total=of)

        yield advance
