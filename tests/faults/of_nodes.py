"""Faults of the campaign on a running cluster of several nodes, each a `ray start --block` on loopback.

The head has no CPU cores for replicas; of the others each holds one.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
from case import ALL_AT_ONCE, Case
from support_ray_nodes import Node, RayCluster, ray_cluster
from support_sweeps import start

NODES = ("a", "b")
GRACE_S = 12
"""From the notice of a cloud to the end of its machine."""
WINDOW_S = 2
"""For each transcript of a unit that is to be cut."""
FILL = """
import sys, time
import ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="CRITICAL")
held = []
while True:
    if len(held) < 30:
        held.append(ray.put(bytes(10_000_000)))
        print(len(held), flush=True)
    else:
        time.sleep(0.1)
"""


@contextmanager
def cluster_of(*names: str, **of_a: str) -> Iterator[tuple[RayCluster, dict[str, Node]]]:
    """A head and nodes of these names; `of_a`: environment of the node a."""
    with ray_cluster() as cluster:
        cluster.start(0)
        # one after the other: of nodes that one machine starts at the same time, some do not start (Ray 2.60)
        yield cluster, {name: start_node(cluster, name, **(of_a if name == "a" else {})) for name in names}


def start_node(cluster: RayCluster, name: str, **environment: str) -> Node:
    return cluster.start(1, PSYCH_RAY_FAULTS_NODE=name, **environment)


@contextmanager
def sweep_on(case: Case, cluster: RayCluster, *more: str, pause_s: float = 1.0) -> Iterator[subprocess.Popen[str]]:
    """A sweep on the cluster that takes a while for each unit."""
    existing = ("cluster=existing", f"cluster.address={cluster.address}", *more)
    with case.hook(pause_s=pause_s):
        process = start(case.command(*existing), cluster.directory, cluster.environment)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def begun_on(case: Case) -> set[str]:
    """Names of the nodes on which a unit has begun."""
    return {line["node"] for line in case.units()}


def chosen_node(case: Case, process: subprocess.Popen[str]) -> tuple[str, str] | None:
    """A node that scores, and the other one; None where nothing is left to score."""
    before = len(case.units())
    if not case.wait_until(process, lambda: len(case.units()) > before):
        return None
    node = case.units()[-1]["node"]
    return node, next(name for name in NODES if name != node)


def drain_node(case: Case) -> None:
    """A node drains after SIGTERM to its `ray start --block`, as a preempted machine's does."""
    with cluster_of(*NODES) as (cluster, nodes), sweep_on(case, cluster, "cluster.replicas=1") as process:
        chosen = chosen_node(case, process)
        if chosen is not None:
            nodes[chosen[0]].process.terminate()
            case.disturbed(drain_node, kills=1)
            n = len(case.units())
        code, said = case.end(process)
    case.require(holds=code == 0, what=f"exit {code} after a drained node: {said[-600:]}")
    if chosen is None:
        return
    case.require(holds="is draining: its node is drained" in said, what=f"no line of the drained node: {said[-600:]}")
    case.require(holds="ended while" not in said, what=f"drained, and counted as a failure: {said[-600:]}")
    case.require(holds=chosen[1] in {line["node"] for line in case.units()[n:]}, what="the other node was not used")
    case.settle()
    case.require(holds=case.disturbances[-1].again <= 1, what="more than one unit was scored again")


def kill_node(case: Case) -> None:
    """All processes of a node end at once, as when its machine is gone."""
    with cluster_of(*NODES) as (cluster, nodes), sweep_on(case, cluster, "cluster.replicas=1") as process:
        chosen = chosen_node(case, process)
        if chosen is not None:
            kills = len(nodes[chosen[0]].processes())
            nodes[chosen[0]].kill()
            case.disturbed(kill_node, kills=kills)
            n = len(case.units())
        code, said = case.end(process)
    case.require(holds=code == 0, what=f"exit {code} after a killed node: {said[-600:]}")
    if chosen is None:
        return
    case.require(holds=chosen[1] in {line["node"] for line in case.units()[n:]}, what="the other node was not used")
    case.settle()
    case.require(holds=case.disturbances[-1].again <= 1, what="more than one unit was scored again")


def join_late(case: Case) -> None:
    """A node joins while the sweep runs."""
    with cluster_of("a") as (cluster, _), sweep_on(case, cluster, pause_s=2) as process:
        n = len(case.units())
        if case.wait_until(process, lambda: len(case.units()) > n):
            start_node(cluster, "b")
            case.disturbed(join_late)
        left = len(case.disturbances) and process.poll() is None
        code, said = case.end(process)
    case.require(holds=code == 0, what=f"exit {code} with a node that joined: {said[-600:]}")
    if left and len(case.units()) - n > 10:
        case.require(holds="b" in begun_on(case), what="the node that joined was not used")


def kill_head(case: Case) -> None:
    """The head is gone with its gcs: the sweep ends in one line."""
    with cluster_of(*NODES) as (cluster, _), sweep_on(case, cluster) as process:
        is_running = chosen_node(case, process) is not None
        if is_running:
            kills = len(cluster.nodes[0].processes())
            cluster.nodes[0].kill()
            case.disturbed(kill_head, kills=kills)
        code, said = case.end(process)
    lines = [line for line in said.splitlines() if line.startswith("psych-ray: ")]
    in_one_line = len(lines) == 1 and "no longer answers" in lines[0] and "the same command continues" in lines[0]
    case.require(
        holds=(code == 1 and in_one_line) if is_running else code == 0,
        what=f"exit {code} without a head: {said[-600:]}",
    )


def notice_of_cloud(case: Case) -> None:
    """A cloud says that it takes back a machine on which one long unit runs: it is cut, and what is done is kept."""
    with cloud() as (url, warn), cluster_of("a", PSYCH_RAY_METADATA_ENDPOINT=url) as (cluster, nodes):
        more = ("cluster.notices=aws", "cluster.replicas=1", ALL_AT_ONCE)
        with sweep_on(case, cluster, *more, pause_s=0) as process:
            with case.hook(window_pause_s=WINDOW_S):
                n = len(case.units())
                is_begun = case.wait_until(process, lambda: len(case.units()) > n)
                if is_begun:
                    warn.set()
                    case.disturbed(notice_of_cloud)
                    start_node(cluster, "b", PSYCH_RAY_METADATA_ENDPOINT=url + "/silent")
                    case.wait_until(process, lambda: time.time() > case.disturbances[-1].at + GRACE_S)
            nodes["a"].kill()
            code, said = case.end(process)
    case.require(holds=code == 0, what=f"exit {code} after a notice: {said[-600:]}")
    if not is_begun:
        return
    case.require(holds="is draining: AWS will terminate" in said, what=f"no line of the notice: {said[-600:]}")
    case.require(holds="ended while" not in said, what=f"announced, and counted as a failure: {said[-600:]}")
    ends = [line for line in case.units()[n:] if line["what"] == "end"]
    if len(ends[0]["ids"]) * WINDOW_S > GRACE_S:
        case.require(holds=0 < len(ends[0]["left"]) < len(ends[0]["ids"]), what="the unit was not cut")
        case.require(holds=ends[-1]["node"] == "b", what="the other node was not used")
    case.settle()
    case.require(holds=case.disturbances[-1].again == 0, what="a transcript was scored again after a cut")


def fill_object_store(case: Case) -> None:
    """Another job of the cluster puts more into Ray's object store than it holds."""
    with cluster_of(*NODES) as (cluster, _), filling(cluster) as job, sweep_on(case, cluster, pause_s=0) as process:
        case.disturbed(fill_object_store)
        code, said = case.end(process)
        job.kill()
        n_held = len(job.communicate()[0].split())
    case.require(holds=code == 0, what=f"exit {code} with a full object store: {said[-600:]}")
    case.require(holds=n_held > 20, what=f"the other job held only {n_held} objects of 10 MB")


@contextmanager
def filling(cluster: RayCluster) -> Iterator[subprocess.Popen[bytes]]:
    """A job that prints a line for each object that it holds."""
    with subprocess.Popen(
        [sys.executable, "-c", FILL, cluster.address], env=cluster.environment, cwd=cluster.directory,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as job:  # fmt: skip
        try:
            yield job
        finally:
            job.kill()


def run_out_of_memory(case: Case) -> None:
    """Ray's memory monitor kills a worker that grows."""
    memory = psutil.virtual_memory()
    share = 1 - (memory.available - 3e9) / memory.total
    limit = {"RAY_memory_usage_threshold": f"{share:.4f}", "RAY_memory_monitor_refresh_ms": "100"}
    with cluster_of("a", **limit) as (cluster, _), sweep_on(case, cluster, pause_s=0.2) as process:
        n = len(case.units())
        is_running = case.wait_until(process, lambda: len(case.units()) > n)
        with case.hook(grow=""):
            if is_running:
                case.disturbed(run_out_of_memory)
            code, said = case.end(process)
    case.require(holds=code == 0, what=f"exit {code} after Ray's kill: {said[-600:]}")
    if is_running:
        case.disturbances[-1].kills = said.count("ended while scoring")
        case.require(holds=case.disturbances[-1].kills > 0, what=f"nothing was killed: {said[-600:]}")


@contextmanager
def cloud() -> Iterator[tuple[str, threading.Event]]:
    """The metadata service of AWS, and what makes it say that the machine will be taken back."""
    until: list[str] = []
    warn = threading.Event()

    class Service(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_PUT(self) -> None:
            self.answer(200, "token")

        def do_GET(self) -> None:
            if not warn.is_set() or not self.path.endswith("instance-action") or self.path.startswith("/silent"):
                self.answer(404, "")
                return
            if not until:
                until.append((datetime.now(UTC) + timedelta(seconds=GRACE_S)).strftime("%Y-%m-%dT%H:%M:%SZ"))
            self.answer(200, f'{{"action": "terminate", "time": "{until[0]}"}}')

        def answer(self, status: int, body: str) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", warn
        finally:
            server.shutdown()
            thread.join()


OF_NODES = [
    drain_node, kill_node, join_late, kill_head, notice_of_cloud, fill_object_store, run_out_of_memory,
]  # fmt: skip
