"""A temporary directory goes with its block, and with the next one where its process was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile

from psych_ray.temporary import temporary_directory

KILLED = """
import os, signal
from psych_ray.temporary import temporary_directory
with temporary_directory() as directory:
    (directory / "file").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_killed_processes_leave_is_removed_and_what_lives_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert subprocess.run([sys.executable, "-c", KILLED]).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("*/file"))) == 1
    with temporary_directory() as first, temporary_directory() as second:
        assert sorted(tmp_path.iterdir()) == sorted([first, second])
    assert not list(tmp_path.iterdir())
