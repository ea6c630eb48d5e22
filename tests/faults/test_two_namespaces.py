"""Two nodes that share no network and no /tmp: network namespaces joined by a veth pair, results on an S3 server.

What they share is the rest of the file system, where the packages and the weights lie, and the kernel.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support_ray_nodes import Node

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.slow]

HEAD, WORKER, PORT = "10.213.77.1", "10.213.77.2", 6391
ROOT = "s3://bucket/demo"
SERVER = """
import sys
import s3_server

class Logged(s3_server.Handler):
    def do_PUT(self):
        with open(sys.argv[2], "a") as file:
            print(self.client_address[0], self.path, file=file)
        self.serve()

with s3_server.S3Server(Logged, sys.argv[1]) as server:
    server.create_bucket("bucket")
    print(server.url, flush=True)
    server.serve_forever()
"""
ROWS = """
import json, sys
from support_sweeps import table
found = table(sys.argv[1])
keys = ["checkpoint", "condition", "transcript", "response"]
print(json.dumps({"rows": found.height, "unique": found.unique(keys).height,
    "checkpoints": found["checkpoint"].n_unique(), "not scored": found.filter(found["status"] != "scored").height}))
"""


@dataclass
class Machines:
    """The two namespaces, by their names, and what runs in them."""

    names: dict[str, str]
    directory: Path
    environment: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, host: str, *command: str, own_tmp: bool = False) -> subprocess.Popen[str]:
        """Start a command on one of them."""
        script = f'mount -t tmpfs tmpfs /tmp && mkdir -p {self.directory} && exec "$@"'
        within = ["unshare", "-m", "sh", "-c", script, "sh"] if own_tmp else []
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.names[host], *within, *command], env=self.environment, cwd="/", text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.started.append(process)
        return process

    def ray(self, host: str, *options: str) -> Node:
        """Start a node of Ray, with its own /tmp unless it is the head; returns when it has joined."""
        process = self.start(
            host, sys.executable, "-m", "ray.scripts.scripts", "start", *options, "--block",
            f"--node-ip-address={host}", "--num-cpus=1", "--num-gpus=0", "--object-store-memory=80000000",
            own_tmp=host != HEAD,
        )  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if "Ray runtime started" in line:
                return Node(process)
        raise AssertionError(process.communicate())

    def psych_ray(self, host: str, command: str, *overrides: str, timeout: float) -> tuple[int, str, str]:
        """Run a command on one of them to its end."""
        process = self.start(
            host, sys.executable, "-m", "psych_ray.cli.main", command, f"results.root={ROOT}", *overrides
        )
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return process.returncode, out, err


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def namespaces() -> Iterator[dict[str, str]]:
    """The two namespaces by their addresses; skips where this user cannot make them."""
    if shutil.which("ip") is None:
        pytest.skip("needs the command ip to make network namespaces")
    names = {HEAD: f"pr-head-{os.getpid()}", WORKER: f"pr-work-{os.getpid()}"}
    links = {HEAD: f"prh{os.getpid()}", WORKER: f"prw{os.getpid()}"}
    try:
        try:
            for name in names.values():
                _ip("netns", "add", name)
            _ip("link", "add", links[HEAD], "type", "veth", "peer", "name", links[WORKER])
            for host, name in names.items():
                _ip("link", "set", links[host], "netns", name)
                _ip("-n", name, "address", "add", f"{host}/30", "dev", links[host])
                _ip("-n", name, "link", "set", links[host], "up")
                _ip("-n", name, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
        yield names
    finally:
        for name in names.values():
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", name)


@pytest.fixture
def machines(namespaces) -> Iterator[Machines]:
    directory = Path(f"/tmp/prm{os.getpid()}")
    directory.mkdir()
    tests = Path(__file__).parents[1]
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("AWS_", "RAY_"))} | {
        "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests), os.environ.get("PYTHONPATH", "")]),
        "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "TMPDIR": str(directory),
        "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
    }  # fmt: skip
    machines = Machines(namespaces, directory, environment)
    try:
        yield machines
    finally:
        for process in reversed(machines.started):
            Node(process).kill()
            process.communicate()  # closes its pipes
        shutil.rmtree(directory)


def test_the_demo_is_swept_by_nodes_that_share_no_network_and_no_results_on_disk(machines, tmp_path):
    writes = tmp_path / "writes"
    server = machines.start(HEAD, sys.executable, "-c", SERVER, HEAD, str(writes))
    assert server.stdout is not None
    machines.environment["AWS_ENDPOINT_URL"] = server.stdout.readline().strip()
    machines.ray(HEAD, "--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={machines.directory}/r")
    machines.ray(WORKER, f"--address={HEAD}:{PORT}")
    code, _, err = machines.psych_ray(
        HEAD, "sweep", "cluster=existing", f"cluster.address={HEAD}:{PORT}", "transcripts.participants=6",
        "tracking=console", "checkpoints.references=[]", f"report.root={tmp_path}", "scoring.unit_seconds=2",
        timeout=250,
    )  # fmt: skip
    assert code == 0, err
    assert "Traceback" not in err
    found, err = machines.start(WORKER, sys.executable, "-c", ROWS, ROOT).communicate(timeout=60)
    table = json.loads(found)
    assert table["rows"] == table["unique"] > 0, err
    assert table["not scored"] == 0
    assert table["checkpoints"] >= 6
    parts = [line.split()[0] for line in writes.read_text().splitlines() if "/responses/checkpoint" in line]
    assert set(parts) == {HEAD, WORKER}, "both nodes score, and write to the bucket themselves"
