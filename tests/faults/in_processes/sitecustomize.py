"""Faults inside the processes of a sweep: Python imports this module at its start where its folder is in PYTHONPATH.

What happens is read from files in the directory that PSYCH_RAY_FAULTS names, so that a test can change it while a sweep
runs; without such files units begin a little later and are noted in `units.jsonl` there, and nothing else happens.
Imports nothing of psych_ray: its modules are changed when they have been imported.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import time
from importlib.abc import MetaPathFinder
from pathlib import Path

DIRECTORY = Path(os.environ.get("PSYCH_RAY_FAULTS", "/nonexistent"))
GROWS_BY, GROWS_TO = 100_000_000, 8_000_000_000
"""Bytes."""
PAUSE_S = 0.2
"""Before each unit where nothing else is asked for: tiny checkpoints would be done before anything can be disturbed."""
_time, _monotonic = time.time, time.monotonic


def setting(name):
    """What a file says; None where it does not exist."""
    try:
        return (DIRECTORY / name).read_text()
    except OSError:
        return None


def take(name):
    """The same, once: the file is removed."""
    found = setting(name)
    (DIRECTORY / name).unlink(missing_ok=True)
    return found


def note(**values):
    values |= {"pid": os.getpid(), "node": os.environ.get("PSYCH_RAY_FAULTS_NODE", "")}
    with (DIRECTORY / "units.jsonl").open("a") as log:
        log.write(json.dumps(values) + "\n")


def grow():
    """Take memory until this process is killed, or for ten seconds."""
    held = []
    while len(held) * GROWS_BY < GROWS_TO:
        held.append(b"x" * GROWS_BY)
        time.sleep(0.02)
    time.sleep(10)


def disturb_replica(module):
    """Note what is scored; score slowly, run out of memory or be killed by a transcript where that is asked for."""
    score, goes_on = module.Replica.score, module.Replica._goes_on

    def noted_score(self, unit):
        ids = [transcript.id for transcript in unit.transcripts]
        task = [unit.checkpoint, unit.condition]
        note(what="begin", task=task, ids=ids)
        if setting("kills_its_replica") in ids:
            os.kill(os.getpid(), signal.SIGKILL)
        if take("grow") is not None:
            grow()
        time.sleep(float(setting("pause_s") or PAUSE_S))
        if setting("window_pause_s") is not None:
            sys.modules["psych_ray.scoring.scorer"]._WINDOW_BATCHES = 0  # windows of one transcript
        report = score(self, unit)
        note(what="end", task=task, ids=ids, left=sorted(report.left))
        return report

    def slow_goes_on(self, unit):
        time.sleep(float(setting("window_pause_s") or 0))
        return goes_on(self, unit)

    module.Replica.score, module.Replica._goes_on = noted_score, slow_goes_on


def disturb_table(module):
    """Kill the driver between the upload of parts and their commit, or right after that."""
    commit = module.ResponsesTable.commit

    def killed_commit(self, parts):
        moment = take("die") if parts else None
        if moment == "before the commit":
            os.kill(os.getpid(), signal.SIGKILL)
        commit(self, parts)
        if moment == "after the commit":
            os.kill(os.getpid(), signal.SIGKILL)

    module.ResponsesTable.commit = killed_commit


class Changes(MetaPathFinder):
    """Lets a function change a module when it has been imported."""

    def __init__(self, functions):
        self._functions = functions

    def find_spec(self, name, path=None, target=None):
        """Find the module as without this finder."""
        change = self._functions.pop(name, None)
        spec = importlib.util.find_spec(name) if change else None
        if spec is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            change(module)

        spec.loader.exec_module = exec_module
        return spec


if DIRECTORY.is_dir():
    sys.meta_path.insert(
        0, Changes({"psych_ray.worker.replica": disturb_replica, "psych_ray.results.table": disturb_table})
    )
    time.time = lambda: _time() + float(setting("clock_s") or 0)
    time.monotonic = lambda: _monotonic() + float(setting("monotonic_s") or 0)
