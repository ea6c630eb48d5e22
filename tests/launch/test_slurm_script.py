"""launch/slurm is run by a stand-in for Slurm on two nodes: it is preempted, requeues itself, and completes.

Ray, `ray symmetric-run` and the sweep are the real ones, each node in a network and a process namespace of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from support_hosts import HOSTS, two_hosts, within
from support_sweeps import n_parts, table

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "launch/slurm/sweep.sbatch"
FAKE = Path(__file__).with_name("fake_slurm.py")
JOB_S = 140.0


@dataclass
class Slurm:
    """A job on two nodes."""

    state: Path

    @property
    def calls(self) -> list[list[str]]:
        """What was called, with arguments."""
        return [json.loads(line) for line in (self.state / "calls").read_text().splitlines()]

    @property
    def log(self) -> str:
        """Output of the job."""
        return (self.state / "job.log").read_text()

    def environment(self, restarts: int) -> dict[str, str]:
        """Of the batch script."""
        ours = {name: text for name, text in os.environ.items() if not name.startswith(("AWS_", "RAY_", "SLURM_"))}
        return ours | {
            "PATH": f"{self.state}/bin:{os.environ['PATH']}", "VENV": sys.prefix, "FAKE_SLURM": str(self.state),
            "TMPDIR": str(self.state), "RAY_TMPDIR": str(self.state / "r"), "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE": "1",
            "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": ",".join(HOSTS), "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "1", "SLURM_RESTART_COUNT": str(restarts),
        }  # fmt: skip

    def run(self, overrides: list[str], restarts: int, interrupt_at: int | None, root: Path) -> int:
        """Run the batch script on the first node, and send it USR1 after so many parts; its exit code."""
        environment = self.environment(restarts)
        daemons = [
            subprocess.Popen(
                [
                    *within(host), "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable,
                    str(FAKE), "node", host,
                ],
                env=environment, cwd=ROOT,
            )
            for host in HOSTS
        ]  # fmt: skip
        try:
            os.environ["FAKE_SLURM"] = str(self.state)
            import fake_slurm

            task = fake_slurm.submit(HOSTS[0], ["bash", str(SCRIPT), *overrides], environment)
            ends, sent = time.monotonic() + JOB_S, interrupt_at is None
            while (code := fake_slurm.exit_code(task)) is None:
                assert time.monotonic() < ends, self.log
                if not sent and n_parts(root) >= (interrupt_at or 0):
                    task.with_suffix(".signal").write_text(str(int(signal.SIGUSR1)))
                    sent = True
                time.sleep(0.1)
            return code
        finally:
            for daemon in daemons:
                for process in [*psutil.Process(daemon.pid).children(), psutil.Process(daemon.pid)]:
                    process.kill()
                daemon.wait(20)


@pytest.fixture
def slurm() -> Iterator[Slurm]:
    state = Path(f"/tmp/prs{os.getpid()}")  # sockets need a short path
    (state / "bin").mkdir(parents=True)
    for host in HOSTS:
        (state / host).mkdir()
    for name in ("srun", "scontrol"):
        (state / "bin" / name).write_text(f"#!{sys.executable}\n{FAKE.read_text()}")
        (state / "bin" / name).chmod(0o755)
    try:
        with two_hosts():
            yield Slurm(state)
    finally:
        os.environ.pop("FAKE_SLURM", None)
        shutil.rmtree(state)


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_that_is_preempted_requeues_itself_and_its_second_run_completes_it(slurm, tmp_path):
    root = tmp_path / "results"
    overrides = [
        f"results.root={root}", "transcripts.participants=6", "scoring.unit_seconds=0.3", "tracking=console",
        "checkpoints.references=[]", "checkpoints.only=[demo-1-base]",
    ]  # fmt: skip
    assert slurm.run(overrides, 0, 1, root) == 130, slurm.log
    assert "interrupted; requeued" in slurm.log
    assert slurm.calls[-1] == ["scontrol", "requeue", "7"]
    kept = {path.name for path in root.glob("responses/*/*/*.parquet")}
    assert kept

    assert slurm.run(overrides, 1, None, root) == 0, slurm.log
    assert [call[0] for call in slurm.calls] == ["scontrol", "srun", "scontrol", "scontrol", "srun"]
    found = table(root)
    keys = ["checkpoint", "condition", "transcript", "response"]
    assert found.unique(keys).height == found.height
    by_checkpoint = found.group_by("checkpoint").len()["len"]
    assert by_checkpoint.n_unique() == 1
    assert kept <= {path.name for path in root.glob("responses/*/*/*.parquet")}
    assert "Traceback" not in slurm.log
