"""The Ray session of a sweep: an embedded local one, or one that runs already. Leaves nothing behind.

A local session keeps its files in a directory of its own that no other user can enter, and removes that at its end;
its ports are bound to loopback, and only processes that have its secret may use them.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from psych_ray.cluster.shape import local_shape
from psych_ray.compat import keep_gpus_visible_to_ray_workers, local_ray_options, ray_on_loopback, ray_token
from psych_ray.config import ClusterConfig, ClusterKind
from psych_ray.errors import ConfigError, PsychRayError, first_line
from psych_ray.sweep.cluster_shape import ClusterShape, NodeShape
from psych_ray.temporary import temporary_directory

_OBJECT_STORE_BYTES = 128 * 2**20


@contextmanager
def ray_session(config: ClusterConfig, shape: ClusterShape | None = None) -> Iterator[None]:
    """Connect to Ray, or start it, for as long as the block runs; within another session, use that one.

    A local session gets the CPU cores and GPUs of `shape`, for which was planned.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if config.kind == ClusterKind.existing:
        try:
            ray.init(address=config.address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            token = "" if os.environ.get("RAY_AUTH_MODE") else "; one that requires its token needs RAY_AUTH_MODE=token"
            raise ConfigError(
                f"cluster.address={config.address}: no Ray cluster answers there ({first_line(error)}){token}"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()
        return
    with temporary_directory() as directory, ray_on_loopback(), ray_token(secrets.token_hex(32)):
        try:
            _start_local(directory, (shape or local_shape(config)).nodes[0])
            yield
        finally:
            ray.shutdown()


def _start_local(directory: Path, node: NodeShape) -> None:
    keep_gpus_visible_to_ray_workers()
    try:
        ray.init(
            num_cpus=node.cpus,
            num_gpus=node.gpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=_OBJECT_STORE_BYTES,
            **local_ray_options(directory),
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise PsychRayError(f"Ray could not be started here: {first_line(error)}") from error
