"""The Ray session of a sweep: an embedded local one, or one that runs already. Leaves nothing behind.

A local session keeps its files in a directory of its own that no other user can enter, and removes that at its end;
its ports are bound to loopback, and only processes that have its secret may use them.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import ray

from psych_ray.cluster.agents import agents_end_with_this_process
from psych_ray.cluster.probe import CONNECT_S, why_not_connected
from psych_ray.cluster.shape import local_shape
from psych_ray.cluster.watch import ClusterWatch
from psych_ray.compat.environment import environment
from psych_ray.compat.openmp import openmp_spins_briefly
from psych_ray.compat.ray import (
    keep_gpus_visible_to_ray_workers,
    local_ray_options,
    local_socket_path,
    ray_keeps_signal_handlers,
    ray_on_loopback,
    ray_token,
    ray_with_few_processes,
    silence_ray_errors,
)
from psych_ray.config import ClusterConfig, ClusterKind
from psych_ray.ending import ENDING, ends_within
from psych_ray.errors import ConfigError, PsychRayError, first_line
from psych_ray.sweep.cluster_shape import ClusterShape, NodeShape
from psych_ray.temporary import temporary_directory

_OBJECT_STORE_BYTES = 128 * 2**20
_SOCKET_BYTES = 107
"""What Linux allows for the path of a socket."""
START_S = 120.0
SHUT_DOWN_S = 30.0


_watches: list[ClusterWatch] = []
"""Of the session that runs, if there is one."""


@contextmanager
def ray_session(config: ClusterConfig, shape: ClusterShape | None = None) -> Iterator[Callable[[], None]]:
    """Connect to Ray, or start it, for as long as the block runs; within another session, use that one.

    A local session gets the CPU cores and GPUs of `shape`, for which was planned. The function that the block gets
    raises ClusterLostError once the cluster does not answer any more.
    """
    if ray.is_initialized():
        yield _watches[-1].check if _watches else lambda: None
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    silence_ray_errors()
    if config.kind == ClusterKind.existing:
        _connect(config.address)
        with _until_shut_down(f"the Ray cluster at {config.address}") as check:
            yield check
        return
    with temporary_directory() as directory:
        _require_short_sockets(directory)
        with ray_on_loopback(), ray_token(secrets.token_hex(32)), environment(openmp_spins_briefly()):
            _start_local(directory, (shape or local_shape(config)).nodes[0])
            with agents_end_with_this_process(), _until_shut_down("the local Ray") as check:
                yield check


@contextmanager
def _until_shut_down(name: str) -> Iterator[Callable[[], None]]:
    watch = ClusterWatch(name)
    try:
        with watch:
            _watches.append(watch)
            yield watch.check
    finally:
        _watches.remove(watch)
        if not watch.is_lost:
            with ends_within(
                SHUT_DOWN_S,
                f"{name} did not end within {SHUT_DOWN_S:g} s; what is committed stays, the same command continues",
            ):
                ray.shutdown()


def _connect(address: str) -> None:
    _refuse_other_protocols(address)
    reason = why_not_connected(address)
    if reason is None:
        line = f"cluster.address={address}: the Ray cluster there stopped answering while it was connected to"
        try:
            with ends_within(CONNECT_S, line), ray_keeps_signal_handlers(), chdir("/"):
                ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
            ENDING.take_back()
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = first_line(error)
    if reason is not None:
        token = "" if os.environ.get("RAY_AUTH_MODE") else "; one that requires its token needs RAY_AUTH_MODE=token"
        raise ConfigError(f"cluster.address={address}: no Ray cluster answers there ({reason}){token}")


def _refuse_other_protocols(address: str) -> None:
    """Raise ConfigError for ray://, Ray Client, which gives a driver neither nodes nor losses as they happen."""
    by_environment = os.environ.get("RAY_ADDRESS", "") if address == "auto" else ""
    if "://" in (by_environment or address):
        named = f"cluster.address={address}" + (f" with RAY_ADDRESS={by_environment}" if by_environment else "")
        raise ConfigError(
            f"{named}: a sweep runs on the cluster itself, not through another protocol: submit it with `ray job "
            "submit --address=http://HEAD:8265 -- psych-ray sweep cluster=existing ...`, or run it on the head node "
            "with cluster.address=auto"
        )


def _start_local(directory: Path, node: NodeShape) -> None:
    keep_gpus_visible_to_ray_workers()
    try:
        line = f"Ray could not be started here: it took longer than {START_S:g} s"
        # Ray puts the working directory before all others from which its processes import, whatever lies in it.
        with ends_within(START_S, line), ray_keeps_signal_handlers(), ray_with_few_processes(), chdir(directory):
            ray.init(
                num_cpus=node.cpus,
                num_gpus=node.gpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                object_store_memory=_OBJECT_STORE_BYTES,
                **local_ray_options(directory),
            )
        ENDING.take_back()  # Ray's C++ code would print a stack trace for each SIGTERM
    except (OSError, RuntimeError, ValueError) as error:
        ray.shutdown()
        raise PsychRayError(f"Ray could not be started here: {first_line(error)}") from error
    except BaseException:
        ray.shutdown()
        raise


def _require_short_sockets(directory: Path) -> None:
    """Raise PsychRayError where the temporary folder has too long a path for the sockets of a local Ray."""
    folder, n_bytes = directory.parent, len(os.fsencode(local_socket_path(directory)))
    if n_bytes > _SOCKET_BYTES:
        own = len(os.fsencode(folder))
        raise PsychRayError(
            f"TMPDIR={folder}: its path of {own} bytes is too long for Ray, whose sockets below it get paths of "
            f"{n_bytes}, and the system allows {_SOCKET_BYTES}; set TMPDIR to a directory with a path of at most "
            f"{own + _SOCKET_BYTES - n_bytes} bytes, for example TMPDIR=/tmp"
        )
