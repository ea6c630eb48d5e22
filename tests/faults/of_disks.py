"""Faults of the campaign that need a file system of their own, which only a privileged user can mount."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from case import Case
from of_processes import slow_sweep


def fill_disk(case: Case) -> None:
    """The disk of the results root is full, and later there is room again."""
    with slow_sweep(case) as process:
        ballast = Path(case.root) / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            for size in [2**20] * 64 + [4096] * 512:
                with suppress(OSError):
                    file.write(b"x" * size)
        is_running = process.poll() is None
        case.disturbed(fill_disk)
        code, said = case.end(process)
    ballast.unlink()
    lines = [line for line in said.splitlines() if line.startswith("psych-ray: ")]
    is_clear = code == 1 and len(lines) == 1 and "No space left on device" in lines[0]
    case.require(holds=is_clear or (code == 0 and not is_running), what=f"exit {code} with a full disk: {said[-600:]}")
    left = [path for path in Path(case.root).rglob(".unfinished-*") if path.is_file()]
    case.require(holds=not left, what=f"unfinished files are left: {left}")


@contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """Mount a file system of 32 MB at a path."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", path], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@cache
def can_mount() -> bool:
    """Whether this user can mount a file system."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            with small_disk(Path(directory) / "disk"):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


OF_DISKS = [fill_disk]
