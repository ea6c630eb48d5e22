"""Nodes of a real cluster, each a `ray start --block`, that join late, are drained by SIGTERM, and are killed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support_ray_nodes import RayCluster, ray_cluster

pytestmark = [pytest.mark.ray, pytest.mark.slow]

QUICK_CHECKS = {
    "RAY_health_check_period_ms": "200", "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}  # fmt: skip
WATCH = """
import sys, time
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from psych_ray.cluster import nodes
from psych_ray.cluster.session import ray_session
from psych_ray.config import ClusterConfig, ClusterKind
from psych_ray.sweep.cluster_shape import Slots
from psych_ray.sweep.events import NodeDraining, NodeJoined

class Busy:
    def node(self):
        return ray.get_runtime_context().get_node_id()

busy = {}
with ray_session(ClusterConfig(kind=ClusterKind.existing, address=sys.argv[1])):
    with nodes.NodesWatch(Slots(ranks=1, cpus=1, gpus=0), every_s=0.1) as watch:
        while True:
            for event in watch.events():
                print(event, watch.is_alive(event.node), flush=True)
                if isinstance(event, NodeJoined):
                    place = NodeAffinitySchedulingStrategy(event.node, soft=False)
                    busy[event.node] = ray.remote(num_cpus=1, scheduling_strategy=place)(Busy).remote()
                    ray.get(busy[event.node].node.remote())
                    print("busy", flush=True)
                elif isinstance(event, NodeDraining):
                    ray.kill(busy[event.node])
            time.sleep(0.05)
"""


@pytest.fixture
def cluster() -> Iterator[RayCluster]:
    with ray_cluster() as cluster:
        cluster.start(**QUICK_CHECKS)
        yield cluster


def test_nodes_that_join_are_drained_and_are_killed_are_seen(cluster):
    with watching(cluster, WATCH) as watch:
        assert line(watch).startswith("NodeJoined"), "the head"
        assert line(watch) == "busy"

        drained = cluster.start(2)
        joined = line(watch)
        assert joined.startswith("NodeJoined(")
        assert joined.endswith("slots=2) True")
        assert line(watch) == "busy"
        began = time.monotonic()
        drained.process.terminate()
        draining = line(watch)
        assert time.monotonic() - began < 3
        assert draining.startswith("NodeDraining(")
        assert 25 < float(draining.partition("seconds=")[2].partition(",")[0]) <= 30, "Ray's default"
        assert line(watch).startswith("NodeLost("), "without work it ends before that"
        assert time.monotonic() - began < 15

        killed = cluster.start()
        assert line(watch).startswith("NodeJoined(")
        assert line(watch) == "busy"
        killed.kill()
        began = time.monotonic()
        lost = line(watch)
        assert lost.startswith("NodeLost(")
        assert lost.endswith("False")
        assert time.monotonic() - began < 10


@contextmanager
def watching(cluster: RayCluster, code: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program that is connected to the cluster, and prints what it sees."""
    with subprocess.Popen(
        [sys.executable, "-c", code, cluster.address], env=cluster.environment, cwd=cluster.directory,
        stdout=subprocess.PIPE, text=True,
    ) as watch:  # fmt: skip
        try:
            yield watch
        finally:
            watch.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


NOTICES = """
import sys, time
from psych_ray.cluster.nodes import NodesWatch
from psych_ray.cluster.notices import NoticesWatch
from psych_ray.cluster.session import ray_session
from psych_ray.config import ClusterConfig, ClusterKind, Notices
from psych_ray.sweep.cluster_shape import Slots

with ray_session(ClusterConfig(kind=ClusterKind.existing, address=sys.argv[1])):
    notices = NoticesWatch(Notices.gcp, every_s=0.1)
    with NodesWatch(Slots(ranks=1, cpus=1, gpus=0), notices=notices, every_s=0.1) as watch:
        while True:
            for event in watch.events():
                print(event, flush=True)
            time.sleep(0.05)
"""


class GoogleCloud(BaseHTTPRequestHandler):
    preempted = threading.Event()
    asked = threading.Event()

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.set()
        self.send_response(200)
        self.end_headers()
        is_true = self.path.endswith("/preempted") and self.preempted.is_set()
        self.wfile.write(b"TRUE" if is_true else b"NONE")


def test_a_notice_of_the_cloud_drains_its_node_also_when_the_actor_that_waits_for_it_was_killed():
    with ThreadingHTTPServer(("127.0.0.1", 0), GoogleCloud) as cloud, ray_cluster() as cluster:
        thread = threading.Thread(target=cloud.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        head = cluster.start(PSYCH_RAY_METADATA_ENDPOINT=f"http://127.0.0.1:{cloud.server_port}")
        with watching(cluster, NOTICES) as watch:
            assert line(watch).startswith("NodeJoined(")
            assert GoogleCloud.asked.wait(60)
            head.process_with("ray::NodeNotices").kill()
            GoogleCloud.preempted.set()
            draining = line(watch)
            assert draining.startswith("NodeDraining(")
            assert "seconds=30.0, reason='Google Cloud preempts its machine'" in draining
        cloud.shutdown()
        thread.join()
