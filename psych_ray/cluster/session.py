"""The Ray session of a sweep: an embedded local one, or one that runs already. Leaves nothing behind.

A local session binds to loopback, keeps its files in a directory of its own, and takes that away at its end.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray

from psych_ray.config import ClusterConfig, ClusterKind
from psych_ray.errors import ConfigError, PsychRayError, first_line
from psych_ray.temporary import temporary_directory

_OBJECT_STORE_BYTES = 128 * 2**20


@dataclass(frozen=True, slots=True)
class Slots:
    """How many processes run at a time, each a replica or a rank of one, and what each of them gets."""

    ranks: int
    cpus: int
    gpus: int


@contextmanager
def ray_session(config: ClusterConfig) -> Iterator[None]:
    """Connect to Ray, or start it, for as long as the block runs."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if config.kind == ClusterKind.existing:
        try:
            ray.init(address=config.address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            token = "" if os.environ.get("RAY_AUTH_MODE") else "; one that wants its token asks for RAY_AUTH_MODE=token"
            raise ConfigError(
                f"cluster.address={config.address}: no Ray cluster answers there ({first_line(error)}){token}"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()
        return
    with temporary_directory() as directory:
        try:
            _start_local(config, directory)
            yield
        finally:
            ray.shutdown()


def divide(config: ClusterConfig, wanted: int) -> Slots:
    """Divide the cluster among at most `wanted` processes of one GPU each, or, without GPUs, of some CPU cores each."""
    have = ray.cluster_resources()
    cpus, gpus = int(have.get("CPU", 0)), int(have.get("GPU", 0))
    most = min(gpus, wanted) if gpus else wanted
    each = config.cpus_per_replica or max(1, min(4, cpus // gpus) if gpus else cpus // max(1, wanted))
    if each > cpus:
        raise ConfigError(f"cluster.cpus_per_replica={each}: the cluster has {cpus}")
    return Slots(ranks=min(cpus // each, most), cpus=each, gpus=1 if gpus else 0)


def _start_local(config: ClusterConfig, directory: Path) -> None:
    # Ray would otherwise hide the GPUs from, and pin threads of, workers that asked for none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(
            num_cpus=config.cpus,
            num_gpus=config.gpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=_OBJECT_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(directory),
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise PsychRayError(f"Ray could not be started here: {first_line(error)}") from error
