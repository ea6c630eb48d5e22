"""The cluster of a command: its shape before anything is planned, and the session in which replicas run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from psych_ray.cluster.shape import described_shape, local_shape, running_shape
from psych_ray.config import ClusterConfig, ClusterKind
from psych_ray.errors import ConfigError
from psych_ray.sweep.cluster_shape import ClusterShape


@contextmanager
def cluster_to_plan_for(config: ClusterConfig) -> Iterator[ClusterShape]:
    """Shape that a plan is made for: the described one, this machine's, or, connected to it, the running cluster's."""
    described = described_shape(config)
    if described is not None:
        yield described
        return
    with cluster_to_run_on(config) as shape:
        yield shape


@contextmanager
def cluster_to_run_on(config: ClusterConfig) -> Iterator[ClusterShape]:
    """Shape of the cluster that replicas will run on; a running one stays connected for as long as the block runs."""
    if config.nodes is not None:
        raise ConfigError(
            f"cluster.nodes={config.nodes} describes a cluster for psych-ray plan; omit it, the cluster is read"
        )
    if config.kind == ClusterKind.local:
        yield local_shape(config)
        return
    from psych_ray.cluster.session import ray_session

    with ray_session(config):
        yield running_shape(config)
