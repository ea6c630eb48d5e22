"""Temporary directories of real processes: removed after a kill, kept while their process lives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from psych_ray.temporary import temporary_directory

DEAD_PID, LIVE_PID = 2**30, os.getpid()
OWNER = """
import os, subprocess, sys
from psych_ray.temporary import temporary_directory
os.getpid = lambda: int(sys.argv[1])
with temporary_directory() as directory:
    (directory / "file").touch()
    child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    sys.stdin.read()
"""
LOOP = """
import sys, time
from psych_ray.temporary import temporary_directory
for _ in range(100):
    with temporary_directory() as directory:
        (directory / "file").touch()
        time.sleep(0.001)
        assert (directory / "file").exists()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@pytest.fixture
def owner(folder):
    """Start processes that hold a directory, named after a given process id, and have a child process."""
    owners: list[subprocess.Popen[str]] = []
    children: list[int] = []

    def start(pid: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        owners.append(process)
        children.append(int(process.stdout.readline()))
        return process

    yield start
    for process in owners:
        process.kill()
        process.communicate()
    for child in children:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("pid", [DEAD_PID, LIVE_PID], ids=["dead", "live"])
def test_a_killed_process_leaves_a_directory_that_the_next_one_removes(folder, owner, pid):
    process = owner(pid)
    for shell in shells(process):
        shell.kill()
    process.kill()
    process.wait()
    assert len(list(folder.glob(f"psych-ray-{pid}-*/file"))) == 1
    with temporary_directory() as mine:
        assert list(folder.iterdir()) == [mine]
    assert not list(folder.iterdir())


def shells(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that remove the directories of a process after its death."""
    found = [child for child in psutil.Process(process.pid).children() if child.name() == "sh"]
    assert found
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_directory_of_a_killed_process_is_removed_at_once_although_its_child_lives(folder, owner, number):
    process = owner(LIVE_PID)
    started = shells(process)
    process.send_signal(number)
    process.wait()
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []
    assert not list(folder.iterdir())


@pytest.mark.parametrize("pid", [DEAD_PID, LIVE_PID], ids=["dead", "live"])
def test_a_live_process_keeps_its_directory_whatever_its_process_id(folder, owner, pid):
    process = owner(pid)
    (directory,) = folder.iterdir()
    os.utime(directory, (0, 0))
    with temporary_directory() as first, temporary_directory() as second:
        assert sorted(folder.iterdir()) == sorted([directory, first, second])
    assert (directory / "file").exists()
    process.communicate("")
    assert not list(folder.iterdir())


def test_without_a_lock_only_old_directories_of_these_names_are_removed(folder):
    names = ["psych-ray-12-abcdefgh", "psych-ray-12-abcd_123", "psych-ray-results", "psych-ray-12-of-a-user", "other"]
    new, old, *others = (folder / name for name in names)
    for directory in (new, old, *others):
        directory.mkdir()
        if directory is not new:
            os.utime(directory, times=(time.time() - 90_000,) * 2)
    with temporary_directory():
        assert new.exists()
        assert not old.exists()
        assert all(directory.exists() for directory in others)


def test_processes_that_start_together_do_not_remove_each_others_directories(folder):
    processes = [subprocess.Popen([sys.executable, "-c", LOOP], stderr=subprocess.PIPE) for _ in range(4)]
    assert [(process.communicate()[1], process.returncode) for process in processes] == [(b"", 0)] * 4
    assert not list(folder.iterdir())


def test_a_parent_and_a_prefix_can_be_given(folder, tmp_path):
    with temporary_directory(tmp_path, prefix=".draft-") as directory:
        assert directory.parent == tmp_path
        assert directory.name.startswith(".draft-")
    assert not list(tmp_path.iterdir())
