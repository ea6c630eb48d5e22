"""What each node of a running Ray cluster has, read by a task on it: memory, and the versions of what scores.

Nodes with other packages than this machine would fail replica by replica, or score otherwise; they are refused here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psych_ray.errors import ConfigError

READ_S = 60.0


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Memory is in bytes."""

    gpu_memory: tuple[float, ...]
    """Of each GPU; 0 where it is not known."""
    memory: float
    """Of the host."""
    versions: Mapping[str, str | None]
    """Of Python and of the packages that must be the same; None for one that is missing."""


def facts_of_nodes(nodes: Sequence[Mapping[str, Any]]) -> dict[str, NodeFacts]:
    """Facts by node id, of nodes as `ray.nodes()` describes them; without those that do not answer in `READ_S`."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    reader = ray.remote(num_cpus=0, num_gpus=0, max_retries=0)(_reader())
    references = {}
    for node in nodes:
        on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        references[reader.options(scheduling_strategy=on_node).remote()] = node["NodeID"]
    done, late = ray.wait(list(references), num_returns=len(references), timeout=READ_S)
    for reference in late:
        ray.cancel(reference, force=True)
    found = {}
    for reference in done:
        try:
            found[references[reference]] = NodeFacts(*ray.get(reference))
        except RayError:
            continue
    return found


def require_same_versions(address: str, nodes: Sequence[Mapping[str, Any]], facts: Mapping[str, NodeFacts]) -> None:
    """Raise ConfigError, in one line, where a node has other versions than this process. `nodes` as above."""
    here = _reader()()[2]
    different = []
    for node in nodes:
        if node["NodeID"] in facts:
            there = facts[node["NodeID"]].versions
            names = [name for name in here if _public(there.get(name)) != _public(here[name])]
            if names:
                different.append((node["NodeManagerAddress"], names, there))
    if not different:
        return
    where, names, there = different[0]
    if there["psych_ray"] is None:
        has = "has no psych_ray"
        what = f"install psych_ray {here['psych_ray']} there"
    else:
        has = "has " + ", ".join(f"{name} {there[name] or 'missing'} ({here[name]} here)" for name in names)
        what = "install the same versions on all nodes"
    more = f", and {len(different) - 1} more of {len(nodes)} nodes differ" if len(different) > 1 else ""
    raise ConfigError(f"cluster.address={address}: node {where} {has}{more}: {what}")


def _reader() -> Any:
    """Make a function that Ray sends to a node with its code, so that it runs where psych_ray is missing."""
    packages = ("ray", "torch", "transformers")

    def read() -> tuple[tuple[float, ...], float, dict[str, str | None]]:
        import sys
        from importlib import import_module, metadata

        versions: dict[str, str | None] = {"python": "{}.{}".format(*sys.version_info)}
        for package in packages:
            try:
                versions[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                versions[package] = None
        try:
            versions["psych_ray"] = import_module("psych_ray").__version__
            here = import_module("psych_ray.cluster.shape")
            return tuple(here.gpu_memory()), here.memory_here(), versions
        except (ImportError, AttributeError):
            versions.setdefault("psych_ray", None)
            return (), 0.0, versions

    return read


def _public(version: str | None) -> str | None:
    """Version without its local part: PyTorch's names the CUDA that it was built for, which nodes may not share."""
    return None if version is None else version.partition("+")[0]
