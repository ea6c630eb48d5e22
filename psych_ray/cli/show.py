"""How commands show tables and lines in the terminal. Computes nothing, and knows no command."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Column, Table


def right(*names: str) -> list[Column | str]:
    """Columns of numbers."""
    return [Column(name, justify="right") for name in names]


def show(table: Table) -> None:
    """Print a table."""
    Console(markup=False, emoji=False, highlight=False).print(table)  # names are data: a [/] in one is a [/]


def print_line(line: str) -> None:
    """Print a line of the command's result."""
    print(_printable(line))  # noqa: T201


def say(line: str) -> None:
    """Print a line of progress, or of what went wrong."""
    print(_printable(line), file=sys.stderr, flush=True)  # noqa: T201


def _printable(line: str) -> str:
    """Names of files are data: no escape code, and nothing that stdout cannot encode."""
    return "".join(c if c.isprintable() else " " for c in line)
