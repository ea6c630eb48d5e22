"""Output whose reader leaves, as `head` does, and tables where there is no terminal, or a narrow one."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from psych_ray.cli.output import READER_LEFT, ReaderLeftError, watch_readers
from psych_ray.cli.show import right, show

RUN = [sys.executable, "-m", "psych_ray.cli.main"]
NAME = "organisation--A-checkpoint-with-quite-a-long-name-72B-Instruct"


def run_unread(arguments: list[str], *, streams: tuple[str, ...], place: Path, **more: str) -> tuple[int, bytes]:
    """Run with these streams as pipes that nobody reads; its exit code, and what the other one got."""
    reader, writer = os.pipe()
    os.close(reader)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | dict.fromkeys(streams, writer)
    try:
        run = subprocess.run(arguments, cwd=place, env=os.environ | more, check=False, timeout=200, **pipes)
    finally:
        os.close(writer)
    return run.returncode, (run.stdout or b"") + (run.stderr or b"")


@pytest.mark.parametrize("more", [{}, {"PYTHONUNBUFFERED": "1"}])
@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--cfg"], ["plan", "--help"]])
def test_a_command_whose_output_nobody_reads_ends_quietly(tmp_path, arguments, more):
    assert run_unread([*RUN, *arguments], streams=("stdout",), place=tmp_path, **more) == (READER_LEFT, b"")


def test_a_table_that_nobody_reads_ends_quietly(tmp_path):
    code = (
        "import sys; from psych_ray.cli import main, show; from rich.table import Table;"
        "main.main = lambda: show.show(Table('a')) or 0; main.run_and_exit()"
    )
    assert run_unread([sys.executable, "-c", code], streams=("stdout",), place=tmp_path) == (READER_LEFT, b"")


def test_an_error_that_nobody_reads_keeps_its_exit_code(tmp_path):
    assert run_unread([*RUN, "swep"], streams=("stderr",), place=tmp_path) == (2, b"")
    assert run_unread([*RUN, "swep"], streams=("stdout", "stderr"), place=tmp_path) == (2, b"")


def written(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@pytest.mark.parametrize("goes_on", [True, False])
def test_only_a_sweep_goes_on_without_a_reader(monkeypatch, goes_on):
    reader, writer = os.pipe()
    with open(writer, "w") as stream:  # noqa: PTH123 - a descriptor
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", None)
        watch_readers(goes_on=goes_on)
        written("read")
        assert os.read(reader, 100) == b"read"
        os.close(reader)
        if not goes_on:
            with pytest.raises(ReaderLeftError):
                written("not read")
        written("not read")
        sys.stdout.close()


def table() -> Table:
    made = Table("checkpoint", *right("responses", "missing"))
    made.add_row(NAME, "3,846,271", "1,234,567")
    return made


def test_nothing_is_cut_in_a_pipe(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    show(table())
    assert f"│ {NAME} │ 3,846,271 │ 1,234,567 │" in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80])
def test_a_terminal_folds_what_does_not_fit(monkeypatch, width):
    file = io.StringIO()
    terminal = Console(file=file, width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr("psych_ray.cli.show.Console", lambda **_: terminal)
    show(table())
    rows = [line.split("│")[1:-1] for line in file.getvalue().splitlines() if line.startswith("│")]
    assert ["".join(cell.strip() for cell in cells) for cells in zip(*rows, strict=True)] == [
        NAME, "3,846,271", "1,234,567",
    ]  # fmt: skip
    assert max(map(len, file.getvalue().splitlines())) <= width
