"""The processes that hold one set of weights: an actor per rank, started and ended together.

A rank that is restarted alone would wait for the others, so none is: when one fails, all are ended. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from psych_ray.cluster.actor import PROGRESS, RankProcess
from psych_ray.compat.ray import prefers_node
from psych_ray.sweep.cluster_shape import Slots
from psych_ray.sweep.unit import Unit
from psych_ray.transcripts.record import Transcript
from psych_ray.worker.spec import ReplicaSpec


def resources(amounts: Mapping[str, float]) -> str:
    """Describe amounts of Ray's resources, for example `1 GPU, 4 CPU`."""
    return ", ".join(f"{amounts.get(name, 0):g} {name}" for name in ("GPU", "CPU"))


class Gang:
    """One replica on as many processes as its weights need. Every call returns one reference per rank, by rank."""

    def __init__(
        self, spec: ReplicaSpec, slots: Slots, *, name: str, across_nodes: bool = False, nodes: Sequence[str] = ()
    ) -> None:
        """Start the processes; `nodes`: where, by rank, in Ray's hex ids, or elsewhere where there is no room."""
        self._group: PlacementGroup | None = None
        together = "" if across_nodes or spec.ranks == 1 else " on one node"
        gpus = 0 if spec.of_references else slots.gpus
        each = resources({"CPU": slots.cpus, "GPU": gpus})
        self.asks_for = f"it needs {spec.ranks} rank{'s' * (spec.ranks > 1)} of {each}{together}"
        """What Ray must find a place for, in words."""
        options: dict[str, Any] = {
            "num_cpus": slots.cpus, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0,
        }  # fmt: skip
        if spec.ranks > 1:
            bundle = {"CPU": slots.cpus} | ({"GPU": gpus} if gpus else {})
            strategy = "PACK" if across_nodes else "STRICT_PACK"
            target = {"_soft_target_node_id": nodes[0]} if nodes and not across_nodes else {}
            self._group = ray.util.placement_group([bundle] * spec.ranks, strategy=strategy, **target)
        elif nodes:
            options["scheduling_strategy"] = prefers_node(nodes[0])
        actor_class: Any = ray.remote(concurrency_groups={PROGRESS: 1})(RankProcess)
        self.actors = []
        for rank in range(spec.ranks):
            if self._group is not None:
                options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                    self._group, placement_group_bundle_index=rank
                )
            self.actors.append(actor_class.options(**options, name=f"{name}-{rank}").remote(spec, rank))
        self._needs_process_group = spec.needs_process_group
        self.shares_process = spec.shares_process
        """Whether it may be renewed."""
        self.node: str | None = None
        """Of rank 0, once that is known."""

    def renew(self, spec: ReplicaSpec) -> None:
        """Let the process of a gang of one rank hold other weights; both must allow it. `load` follows."""
        self.actors[0].renew.remote(spec)

    def load(self) -> list[Any]:
        """Load the weights."""
        if not self._needs_process_group:
            return [self.actors[0].load.remote(None)]
        # Ray hands the address on when rank 0 has it; the caller does not wait.
        address = self.actors[0].open_rendezvous.remote()
        return [actor.load.remote(address) for actor in self.actors]

    def score(self, unit: Unit) -> list[Any]:
        """Score a unit; rank 0 writes its part."""
        return [actor.score.remote(unit) for actor in self.actors]

    def progress(self, rank: int) -> Any:
        """Ask a rank how much it has done so far, and where it is; one reference."""
        return self.actors[rank].progress.remote()

    def cut(self, unit: Unit) -> None:
        """Let a unit end early."""
        for actor in self.actors:
            actor.cut.remote(unit.id)

    def check(self, transcripts: Sequence[Transcript]) -> list[Any]:
        """Report what the self-check saw, and how these transcripts align with the tokens."""
        return [actor.check.remote(list(transcripts)) for actor in self.actors]

    def kill(self) -> None:
        """End all processes, and free what they held."""
        for actor in self.actors:
            ray.kill(actor)
        if self._group is not None:
            ray.util.remove_placement_group(self._group)
