"""A temporary folder of our own for the sweeps of a module, so that what they leave behind can be seen."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Iterator[Path]:
    """Give Ray a short directory of our own, so that what sweeps leave behind can be seen."""
    path = Path(f"/tmp/pr{os.getpid()}")  # sockets need a short path
    path.mkdir()
    yield path
    left = [p for p in path.iterdir() if not p.name.startswith("psych-ray-")]
    for session in path.glob("psych-ray-*"):
        shutil.rmtree(session)
    path.rmdir()
    assert left == []
