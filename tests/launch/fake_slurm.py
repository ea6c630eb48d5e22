"""Stands in for Slurm: runs the tasks of `srun` on "nodes" that are namespaces of this machine, and records all calls.

A node is a daemon (`fake_slurm.py node HOST`) in a network and a process namespace of its own. It starts what it finds
in `$FAKE_SLURM/HOST/*.json`, and ends with all of its processes. As `srun` and `scontrol` it does what those do as far
as launch/slurm needs it. Needs the standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

STATE = Path(os.environ["FAKE_SLURM"])
EVERY_S = 0.05
KILL_WAIT_S = 2.0


def submit(host: str, argv: list[str], environment: dict[str, str]) -> Path:
    """Let a node start a task; the path without a suffix of all that is known of it."""
    task = STATE / host / f"{time.monotonic_ns()}"
    made = task.with_suffix(".new")
    made.write_text(json.dumps({"argv": argv, "env": environment}))
    made.rename(task.with_suffix(".json"))
    return task


def exit_code(task: Path) -> int | None:
    """Of a task; None while it runs."""
    try:
        return int(task.with_suffix(".exit").read_text())
    except (FileNotFoundError, ValueError):
        return None


def node(host: str) -> None:
    """Run tasks until killed."""
    running: dict[Path, subprocess.Popen[bytes]] = {}
    log = (STATE / "job.log").open("ab")
    while True:
        for made in sorted((STATE / host).glob("*.json")):
            asked = json.loads(made.read_text())
            process = subprocess.Popen(
                asked["argv"], env=asked["env"], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
            running[made.with_suffix("")] = process
            made.rename(made.with_suffix(".started"))
        for task, process in list(running.items()):
            asked_signal = task.with_suffix(".signal")
            if asked_signal.exists():
                os.kill(process.pid, int(asked_signal.read_text()))
                asked_signal.unlink()
            if process.poll() is not None:
                code = process.returncode
                task.with_suffix(".exit").write_text(str(code if code >= 0 else 128 - code))
                del running[task]
        reap({process.pid for process in running.values()})
        time.sleep(EVERY_S)


def reap(known: set[int]) -> None:
    """Wait for processes that lost their parents, as the first process of a namespace has to."""
    try:
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid not in known:
            os.waitpid(ended.si_pid, 0)
    except ChildProcessError:
        pass


def srun(arguments: list[str]) -> int:
    """One task on each node of the job; the highest exit code. Passes SIGTERM on to all tasks."""
    kills = "--kill-on-bad-exit=1" in arguments
    argv = [one for i, one in enumerate(arguments) if not all(a.startswith("-") for a in arguments[: i + 1])]
    hosts = os.environ["SLURM_JOB_NODELIST"].split(",")
    tasks = {submit(host, argv, dict(os.environ) | {"SLURM_NODEID": str(i)}): None for i, host in enumerate(hosts)}

    def signal_all(number: int) -> None:
        for task, code in tasks.items():
            if code is None:
                task.with_suffix(".signal").write_text(str(number))

    signal.signal(signal.SIGTERM, lambda *_: signal_all(signal.SIGTERM))
    bad_at = None
    while None in tasks.values():
        for task in tasks:
            tasks[task] = exit_code(task)
        if kills and bad_at is None and any(tasks.values()):
            bad_at = time.monotonic()
            signal_all(signal.SIGTERM)
        if bad_at is not None and time.monotonic() > bad_at + KILL_WAIT_S:
            signal_all(signal.SIGKILL)
        time.sleep(EVERY_S)
    return max(code or 0 for code in tasks.values())


def scontrol(arguments: list[str]) -> int:
    """`show hostnames LIST` of a list with commas, and `requeue ID`, which is only recorded."""
    if arguments[:2] == ["show", "hostnames"]:
        sys.stdout.write("\n".join(arguments[2].split(",")) + "\n")
    return 0


def main() -> int:
    name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    if arguments[:1] == ["node"]:
        node(arguments[1])
    with (STATE / "calls").open("a") as calls:
        print(json.dumps([name, *arguments]), file=calls)
    return {"srun": srun, "scontrol": scontrol}[name](arguments)


if __name__ == "__main__":
    sys.exit(main())
