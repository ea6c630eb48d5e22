"""The local Ray session as another user of the machine sees it: sockets, modes of directories, the secret."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import ray

from psych_ray.cluster.nodes import NodesWatch
from psych_ray.cluster.session import ray_session
from psych_ray.compat.ray import local_socket_path
from psych_ray.config import ClusterConfig
from psych_ray.errors import PsychRayError
from psych_ray.sweep.cluster_shape import Slots
from psych_ray.sweep.events import NodeJoined

pytestmark = pytest.mark.ray

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
CLIENT = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1])
    print("connected")
except AuthenticationError:
    print("refused")
"""


@pytest.fixture(scope="module")
def session(scratch) -> Path:
    """Start a session with a worker; its directory."""
    before = {name: os.environ.get(name) for name in os.environ}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(scratch))
        patch.setattr("tempfile.tempdir", None)
        patch.chdir(scratch)
        patch.setenv("RAY_ADDRESS", "192.0.2.1:6379")  # of another cluster, which a local session is not
        with ray_session(ClusterConfig(cpus=1)):
            ray.get(ray.remote(lambda: None).remote())
            (directory,) = scratch.glob("psych-ray-*")
            yield directory
    left = {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH") or "OSX" in name}
    assert left == {name: value for name, value in before.items() if name in left}
    assert not directory.exists()


def test_threads_of_replicas_spin_briefly_while_they_wait(session):
    read = ray.remote(lambda: os.environ.get("GOMP_SPINCOUNT") or os.environ["OMP_WAIT_POLICY"])
    chosen = os.environ.get("GOMP_SPINCOUNT") or os.environ.get("OMP_WAIT_POLICY")
    assert ray.get(read.remote()) == (chosen or "1000")


def test_no_socket_has_a_longer_path_than_was_computed(session):
    sockets = [path for path in session.rglob("*") if path.is_socket()]
    assert max(len(str(path)) for path in sockets) == len(str(local_socket_path(session)))


def test_a_temporary_folder_with_too_long_a_path_is_refused_in_one_line(scratch, monkeypatch):
    folder = scratch / "a-folder-with-a-name-of-thirty"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    says = rf"TMPDIR={folder}: its path of \d+ bytes.* of \d+, and the system allows 107; set TMPDIR to"
    with pytest.raises(PsychRayError, match=says), ray_session(ClusterConfig(cpus=1)):
        pass
    folder.rmdir()  # nothing is left in it


def processes() -> list[psutil.Process]:
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def test_every_port_is_bound_to_loopback(session):
    listening = {
        (process.name(), connection.laddr.ip)
        for process in processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN or not connection.raddr
    }
    assert {"gcs_server", "raylet"} <= {name for name, _ in listening}
    assert {address for _, address in listening} <= LOOPBACK, listening


def test_no_other_user_can_enter_its_directory_or_read_its_secret(session):
    assert stat.S_IMODE(session.stat().st_mode) == 0o700
    secret = os.environ["RAY_AUTH_TOKEN"]
    assert len(secret) == 64
    assert not any(secret in part for process in processes() for part in process.cmdline())
    assert {stat.S_IMODE(Path(f"/proc/{process.pid}/environ").stat().st_mode) for process in processes()} == {0o400}
    by_default = Path("~/.ray/auth_token").expanduser()
    assert not by_default.exists() or by_default.read_text() != secret
    holding = [path for path in session.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert holding == []


@pytest.mark.parametrize(
    ("token", "outcome"),
    [({}, "refused"), ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}, "refused"), (None, "connected")],
    ids=["none", "another", "its own"],
)
def test_a_client_without_the_token_is_refused(session, token, outcome):
    environment = dict(os.environ)
    if token is not None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")} | token
    address = ray.get_runtime_context().gcs_address
    found = subprocess.run(
        [sys.executable, "-c", CLIENT, address], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.strip() == outcome


def test_its_node_joins_and_is_alive(session):
    node = ray.get_runtime_context().get_node_id()
    with NodesWatch(Slots(ranks=1, cpus=1, gpus=0)) as watch:
        assert watch.events() == [NodeJoined(node, 1)]
        assert watch.is_alive(node)
        assert not watch.is_alive("f" * len(node))


def test_replicas_import_nothing_from_the_working_directory(session):
    found = ray.get(ray.remote(lambda: sys.path).remote())
    assert str(session.parent) not in found
    assert str(session) in found, "which no other user can write to"


def test_it_starts_nothing_that_a_sweep_has_no_use_for(session):
    started = " ".join(" ".join(process.cmdline()) for process in processes())
    assert "raylet" in started
    assert not [name for name in ("dashboard/dashboard.py", "monitor.py", "log_monitor.py") if name in started]


KILLED = """
import time
from psych_ray.cluster.session import ray_session
from psych_ray.config import ClusterConfig
with ray_session(ClusterConfig()):
    print("started", flush=True)
    time.sleep(300)
"""


def test_every_process_ends_with_a_killed_driver(scratch):
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "started\n"
        started = psutil.Process(driver.pid).children(recursive=True)
        titles = [process.cmdline()[0] for process in started]
        driver.kill()
    assert {"ray::DashboardAgent", "ray::RuntimeEnvAgent"} <= set(titles)
    assert psutil.wait_procs(started, timeout=20)[1] == []
