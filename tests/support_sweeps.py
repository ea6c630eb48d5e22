"""Sweeps in processes of their own: started, disturbed, waited for, and what they leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import polars as pl
import psutil
from support_table import responses

from psych_ray.results.store import ResultsStore, open_store

PARTICIPANTS = 30


def command(checkpoints: list[Path], root: Path | str, *more: str) -> list[str]:
    paths = ",".join(str(path) for path in checkpoints)
    return [
        sys.executable, "-m", "psych_ray.cli.main", "sweep", "checkpoints=local", f"checkpoints.paths=[{paths}]",
        f"transcripts.participants={PARTICIPANTS}", "scoring.unit_seconds=0.2", f"results.root={root}",
        "tracking=console", "checkpoints.references=[]", *more,
    ]  # fmt: skip


def start(arguments: list[str], scratch: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments,
        env=(environment or os.environ) | {"TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 200) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def parts_in(store: ResultsStore) -> list[str]:
    """Names of files of parts, committed or not, sorted."""
    return [file.name for file in store.files("responses") if fnmatch(file.name, "responses/checkpoint=*/*/*.parquet")]


def n_parts(root: Path | str) -> int:
    """Files of parts, committed or not."""
    return len(parts_in(open_store(str(root))))


def wait_for_parts(process: subprocess.Popen[str], root: Path | str, n: int) -> None:
    store, deadline = open_store(str(root)), time.monotonic() + 120
    while len(parts_in(store)) < n and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005 if isinstance(root, Path) else 0.1)


def processes_of(scratch: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR") == str(scratch) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return found


def wait_until_gone(scratch: Path) -> None:
    deadline = time.monotonic() + 60
    while processes_of(scratch):
        assert time.monotonic() < deadline, [p.cmdline() for p in processes_of(scratch)]
        time.sleep(0.1)


def table(root: Path | str) -> pl.DataFrame:
    frame = responses(open_store(str(root)))
    return frame.sort("checkpoint", "study", "participant", "transcript", "response")


def assert_same(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    floats = [name for name, kind in expected.schema.items() if kind.is_float()]
    assert found.drop(floats).equals(expected.drop(floats))
    for name in floats:
        assert found[name].is_null().equals(expected[name].is_null()), name
        differences = np.abs(found[name].drop_nulls().to_numpy() - expected[name].drop_nulls().to_numpy())
        assert differences.max(initial=0) < 2e-4, name  # at a temperature of 0.5 twice that of the NLL
