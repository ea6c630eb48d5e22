"""A real Ray cluster on loopback: each node is a `ray start --block`, which can be drained, killed and joined late.

Its nodes share this machine; each has a process group of its own, so that a whole node can be killed at once.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

# `ray start` joins no cluster with the variable that binds Ray to loopback, which its processes inherit.
_RAY = """
import sys
from ray._private import ray_constants, services
ray_constants.ENABLE_RAY_CLUSTER = True
services.get_node_ip_address = lambda *_, **__: "127.0.0.1"
from ray.scripts.scripts import main
sys.argv[0] = "ray"
main()
"""
# What Ray's head does with a job that `ray job submit` sends to its dashboard, whose packages need not be installed.
_SUBMIT = """
import asyncio, sys
import ray
from ray._private import worker
from ray.dashboard.modules.job.common import JobInfo, JobInfoStorageClient
from ray.dashboard.modules.job.job_supervisor import JobSupervisor
from ray.job_submission import JobStatus
names = ("RAY_worker_niceness", "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES",
    "RAY_EXPERIMENTAL_NOSET_ASCEND_RT_VISIBLE_DEVICES")
environment = {"env_vars": dict(zip(names, "011"))}
async def submit(name, entrypoint):
    jobs = JobInfoStorageClient(worker.global_worker.gcs_client, None)
    await jobs.put_info(name, JobInfo(entrypoint=entrypoint, status=JobStatus.PENDING))
    job = ray.remote(JobSupervisor).options(num_cpus=0, runtime_env=environment).remote(name, entrypoint, {}, None)
    job.run.remote()
    while not (info := await jobs.get_info(name)).status.is_terminal():
        await asyncio.sleep(0.2)
    print(info.driver_exit_code)
    print(open(f"{worker._global_node.get_logs_dir_path()}/job-driver-{name}.log").read())
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="CRITICAL")
asyncio.run(submit(*sys.argv[2:]))
"""


@dataclass
class Node:
    """One `ray start --block`."""

    process: subprocess.Popen[bytes]

    def processes(self) -> list[psutil.Process]:
        """All of its processes that run, workers as well."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def process_with(self, words: str) -> psutil.Process:
        """The one process whose command line begins so."""
        (found,) = [one for one in self.processes() if " ".join(one.cmdline()).startswith(words)]
        return found

    def kill(self) -> None:
        """Kill all processes at once, as when the machine is gone."""
        processes = self.processes()
        for process in [psutil.Process(self.process.pid), *processes] if self.process.poll() is None else processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=20)
        self.process.wait(20)


@dataclass
class RayCluster:
    """Nodes that were started, the head first."""

    directory: Path
    port: int
    nodes: list[Node] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Of its nodes, and of drivers that connect to it."""
        return os.environ | {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0" * 64, "TMPDIR": str(self.directory),
        }  # fmt: skip

    def start(self, cpus: int = 1, **environment: str) -> Node:
        """Start a node, the first as the head; returns when it has joined."""
        head = not self.nodes
        as_head = ["--head", f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={self.directory}/r"]
        node = Node(
            subprocess.Popen(
                [
                    sys.executable, "-c", _RAY, "start", *(as_head if head else [f"--address={self.address}"]),
                    "--block",
                    f"--num-cpus={cpus}", "--num-gpus=0", "--object-store-memory=80000000", "--disable-usage-stats",
                ],
                env=self.environment | environment, cwd=self.directory, start_new_session=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
        )  # fmt: skip
        self.nodes.append(node)
        assert node.process.stdout is not None
        said = b""
        while b"Ray runtime started" not in said:
            line = node.process.stdout.readline()
            assert line, said.decode()
            said += line
        return node

    def submit(self, name: str, entrypoint: str) -> subprocess.Popen[str]:
        """Start a job on the cluster; prints its exit code and its log when it has ended."""
        return subprocess.Popen(
            [sys.executable, "-c", _SUBMIT, self.address, name, entrypoint],
            env=self.environment, cwd=self.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip


@contextmanager
def ray_cluster() -> Iterator[RayCluster]:
    """A cluster without nodes so far; at the end nothing of it is left."""
    directory = Path(f"/tmp/prn{os.getpid()}")  # sockets need a short path
    directory.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    cluster = RayCluster(directory, port)
    try:
        yield cluster
    finally:
        for node in reversed(cluster.nodes):
            node.kill()
            assert node.process.stdout is not None
            node.process.stdout.close()
        shutil.rmtree(directory)
