"""The processes that hold one set of weights: one actor, or an actor a rank that live and die together.

A rank that is restarted alone would wait for the others for ever, so none is: whoever sees one of them fail ends all.
Decides nothing about units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from psych_ray.cluster.actor import ReplicaActor
from psych_ray.cluster.session import Slots
from psych_ray.config import ClusterConfig
from psych_ray.errors import ConfigError
from psych_ray.sweep.unit import Unit
from psych_ray.worker.spec import ReplicaSpec


class Gang:
    """One replica on as many processes as its weights need. Every call returns one reference a rank, rank 0's first."""

    def __init__(self, spec: ReplicaSpec, slots: Slots, *, name: str, across_nodes: bool = False) -> None:
        self._group: PlacementGroup | None = None
        options: dict[str, Any] = {"num_cpus": slots.cpus, "num_gpus": slots.gpus}
        if spec.ranks > 1:
            bundle = {"CPU": slots.cpus} | ({"GPU": slots.gpus} if slots.gpus else {})
            self._group = placement_group([bundle] * spec.ranks, strategy="PACK" if across_nodes else "STRICT_PACK")
        self.actors = []
        for rank in range(spec.ranks):
            if self._group is not None:
                options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                    self._group, placement_group_bundle_index=rank
                )
            actor = ReplicaActor.options(**options, name=f"{name}-{rank}")  # type: ignore[attr-defined]
            self.actors.append(actor.remote(spec, rank))
        self._meets = spec.needs_process_group

    def load(self) -> list[Any]:
        """Load the weights."""
        if not self._meets:
            return [self.actors[0].load.remote(None)]
        # The others wait for the place within Ray; whoever calls this waits for nothing.
        place = self.actors[0].open_rendezvous.remote()
        return [actor.load.remote(place) for actor in self.actors]

    def score(self, unit: Unit) -> list[Any]:
        """Score a unit; rank 0 commits its part."""
        return [actor.score.remote(unit) for actor in self.actors]

    def check(self, transcripts: Sequence[Any]) -> list[Any]:
        """Tell what the self-check saw, and how these transcripts align with the tokens."""
        return [actor.check.remote(list(transcripts)) for actor in self.actors]

    def kill(self) -> None:
        """End all processes, and give back what they held."""
        for actor in self.actors:
            ray.kill(actor)
        if self._group is not None:
            remove_placement_group(self._group)


def require_room(config: ClusterConfig, slots: Slots, ranks: int) -> None:
    """Raise ConfigError for a gang that no node, or nowhere together, could ever hold: Ray would wait for ever."""
    if ranks == 1:
        return
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    here = [min(_times(node, "CPU", slots.cpus), _times(node, "GPU", slots.gpus)) for node in alive]
    most = sum(here) if config.across_nodes else max(here, default=0)
    if ranks > most:
        what = "GPUs" if slots.gpus else f"times {slots.cpus} CPU cores"
        where = "the cluster has" if config.across_nodes else "the largest node has"
        raise ConfigError(
            f"cluster.ranks: a checkpoint needs {ranks} {what} together, {where} {most}; fewer cluster.ranks, "
            "scoring.engine=deepspeed_zero" + ("" if config.across_nodes else ", or cluster.across_nodes=true")
        )


def _times(node: dict[str, float], resource: str, each: int) -> int:
    return int(node.get(resource, 0.0) // each) if each else 10**9
