"""Private and undocumented interfaces of Ray (2.60): where a local session listens, its secret, which nodes live.

Ray is imported inside the functions that use it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from psych_ray.compat.environment import environment

_SESSION = "session_2000-01-01_00-00-00_000000"


def local_ray_options(directory: Path) -> dict[str, Any]:
    """Arguments of `ray.init` for a local session whose files are in `directory` (Ray 2.60).

    `_temp_dir` begins with an underscore; without it Ray writes to /tmp/ray and leaves it there. Ray makes it and all
    below it writable for everyone, so it is a directory in `directory`, whose mode stays. Its name is short as those of
    sockets are limited. The address is given because RAY_ADDRESS otherwise replaces it. A raylet that does not answer
    counts as dead after 4 requests of 10 s, a second apart; by default that takes more than a minute. By default
    replicas have a niceness of 15: with anything else on the machine they get a small share of its cores.
    """
    health = {"health_check_period_ms": 1000, "health_check_timeout_ms": 10_000, "health_check_failure_threshold": 4}
    system = health | {"worker_niceness": 0}
    return {"address": "local", "_temp_dir": str(directory / "r"), "_system_config": system}


def local_socket_path(directory: Path) -> Path:
    """As long as the longest path of a socket of a local session whose files are in `directory` (Ray 2.60).

    Ray names the session by the time and its process, and refuses paths that Linux does not allow.
    """
    return Path(local_ray_options(directory)["_temp_dir"], f"{_SESSION}_{os.getpid()}", "sockets", "plasma_store")


@contextmanager
def ray_on_loopback() -> Iterator[None]:
    """Within the context, a Ray that this process starts binds its ports to 127.0.0.1, not to all addresses (Ray 2.60).

    That is how Ray runs on Windows and macOS, where an environment variable switches it off; elsewhere the variable
    switches it on. It is read when Ray is imported, so the constant is set for this process, and the variable for
    those that it starts. `_node_ip_address="127.0.0.1"` has no such effect: Ray replaces it by the network's address.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    with environment({ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}):
        ray_constants.ENABLE_RAY_CLUSTER = False
        try:
            yield
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def ray_with_few_processes() -> Iterator[None]:
    """Within the context, a Ray that this process starts has no dashboard, log monitor and autoscaler (Ray 2.60).

    Each is a Python process that imports Ray, and `ray.init` waits for the first, which it starts for statistics of
    usage even without `include_dashboard`. A local session has no use for any of them.
    """
    from ray._private import parameter, services

    params, start_api_server = parameter.RayParams, services.start_api_server
    parameter.RayParams = partial(params, no_monitor=True, include_log_monitor=False)
    services.start_api_server = lambda *args, **kwargs: (None, None)
    try:
        yield
    finally:
        parameter.RayParams, services.start_api_server = params, start_api_server


@contextmanager
def ray_token(token: str) -> Iterator[None]:
    """Within the context, a Ray that this process starts, or connects to, is used with this secret (Ray 2.60).

    It travels in the environment, which only processes of the same user can read; without one, Ray writes a token to
    ~/.ray/auth_token, which all users can read. Ray keeps what it has read of both, so it is told to read them again.
    """
    raylet: Any = import_module("ray._raylet")

    def read_again() -> None:
        raylet.Config.initialize("")  # before the token: without one, the process ends while the mode asks for it
        raylet.AuthenticationTokenLoader.instance().reset_cache()

    try:
        with environment({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_AUTH_TOKEN_PATH": None}):
            read_again()
            yield
    finally:
        read_again()


@contextmanager
def ray_keeps_signal_handlers() -> Iterator[None]:
    """Within the context, `ray.init` does not replace the handler of SIGTERM by one that exits with 15 (Ray 2.60)."""
    from ray._private import utils

    before = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = before


def silence_ray_errors() -> None:
    """Keep Ray from printing what the cluster reports, tens of lines of C++ logs among it (Ray 2.60).

    A thread of the driver prints it, whatever `log_to_driver` and `logging_level` say.
    """
    from ray._private import worker

    worker.print_to_stdstream = lambda *args, **kwargs: None


def dead_ray_processes() -> list[str]:
    """Those of raylet and gcs that this process has started and that ended (Ray 2.60)."""
    from ray._private import worker

    node: Any = worker._global_node
    names = {"gcs_server": "gcs", "raylet": "raylet"}
    return [] if node is None else [names[kind] for kind, _ in node.dead_processes() if kind in names]


def raylet_process() -> int:
    """Process id of the raylet that this process has started (Ray 2.60)."""
    from ray._private import worker

    node: Any = worker._global_node
    return int(node.all_processes["raylet"][0].process.pid)


def ray_node_is_alive() -> Callable[[float], bool | None]:
    """Function that asks whether the node that this process is connected to is alive, with a time-out in seconds.

    None where the gcs does not answer in time. The client is one of its own, as those behind Ray's public functions
    wait for as long as they like (Ray 2.60).
    """
    import ray

    raylet: Any = import_module("ray._raylet")
    context = ray.get_runtime_context()
    client = raylet.GcsClient(address=context.gcs_address)
    node_id = raylet.NodeID.from_hex(context.get_node_id())  # of this type: it is not checked, and C++ reads it

    def ask(timeout_s: float) -> bool | None:
        try:
            return bool(client.check_alive([node_id], timeout=timeout_s)[0])
        except ray.exceptions.RayError:
            return None

    return ask


@dataclass(frozen=True, slots=True)
class RayNode:
    """A live node as the gcs knows it."""

    id: str
    """In hex."""
    address: str
    port: int
    """Of its raylet."""
    resources: Mapping[str, float]
    """All that it has, by Ray's names."""
    drain_deadline_s: float | None
    """None unless it drains; when it will be gone, seconds since 1970 by the clock of who drains it, 0 if not told."""


class RayNodes:
    """Asks the gcs of the cluster that this process is connected to for its nodes, with time-outs (Ray 2.60).

    `ray.nodes()` waits for as long as it likes, and says nothing of drains; Ray Train's preemption watcher and Ray
    Serve ask `get_draining_nodes`, of which only the second gives a time-out.
    """

    def __init__(self) -> None:
        import ray

        raylet: Any = import_module("ray._raylet")
        self._pb2: Any = import_module("ray.core.generated.gcs_pb2")
        self._node_id = raylet.NodeID
        self._errors = ray.exceptions.RayError
        self._client = raylet.GcsClient(address=ray.get_runtime_context().gcs_address)

    def alive(self, timeout_s: float) -> list[RayNode] | None:
        """All live nodes, draining ones as well; None where the gcs does not answer in time."""
        try:
            nodes = self._client.get_all_node_info(timeout=timeout_s, state_filter=self._pb2.GcsNodeInfo.ALIVE)
            drains = self._client.get_draining_nodes(timeout=timeout_s)
        except self._errors:
            return None
        return [
            RayNode(
                id=node.node_id.hex(),
                address=node.node_manager_address,
                port=node.node_manager_port,
                resources=dict(node.resources_total),
                drain_deadline_s=drains[node.node_id.hex()] / 1000 if node.node_id.hex() in drains else None,
            )
            for node in nodes.values()
        ]

    def is_alive(self, node: str, timeout_s: float) -> bool | None:
        """Whether a node, by its id in hex, is alive; None where the gcs does not answer in time."""
        node_id = self._node_id.from_hex(node)  # of this type: it is not checked, and C++ reads it
        try:
            return bool(self._client.check_alive([node_id], timeout=timeout_s)[0])
        except self._errors:
            return None


def prefers_node(node: str) -> Any:
    """Scheduling strategy of an actor: on this node, or elsewhere where it has no room or is gone (Ray 2.60).

    Without the private argument an actor waits for room on a node that is full of others' work.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=True, _spill_on_unavailable=True)


def keep_gpus_visible_to_ray_workers() -> None:
    """Keep Ray from hiding the GPUs from, and limiting the threads of, actors that reserve none (Ray 2.60).

    An environment variable that its documentation names as a coming default; to be set before `ray.init`.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def was_preempted(error: BaseException) -> bool:
    """Whether Ray says that an actor died because its node was preempted (Ray 2.60)."""
    return bool(getattr(error, "preempted", False))
