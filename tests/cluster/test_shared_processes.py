"""Replicas of small weights that take over each other's process, and those that must not."""

from __future__ import annotations

import gc
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from ray.exceptions import RayActorError

from psych_ray.app.sweep import _share_process
from psych_ray.checkpoints.find import find_checkpoints, simulator_checkpoint
from psych_ray.cluster import replicas
from psych_ray.cluster.actor import RankProcess
from psych_ray.cluster.replicas import Replicas
from psych_ray.config import CheckpointsConfig, CheckpointSource, Config, EngineName
from psych_ray.errors import FailureKind
from psych_ray.results.schema import ScoringIdentity
from psych_ray.sweep.cluster_shape import Slots
from psych_ray.sweep.events import StartReplica
from psych_ray.sweep.failure import Failure
from psych_ray.sweep.placement import Placement
from psych_ray.worker.heartbeat import Heartbeat
from psych_ray.worker.spec import LoadReport, ReplicaSpec

HERE = "here"


def spec(checkpoint, **more) -> ReplicaSpec:
    return ReplicaSpec(
        checkpoints=(checkpoint,),
        facts={},
        identity=ScoringIdentity(dtype="float32", cut="tokens", cut_at=None, parity=False),
        engine=EngineName.transformers,
        device="cpu",
        results_root="/nowhere",
        **more,
    )


class FakeGang:
    """A process on which every call is done at once; what it is to hold."""

    made: list[FakeGang]
    outcome: object

    def __init__(self, given: ReplicaSpec, slots: Slots, **more: object) -> None:
        self.shares_process, self.node, self.actors, self.asks_for = given.shares_process, None, [self], ""
        self.held, self.is_alive = [given.checkpoints[0].slug], True
        self.made.append(self)

    def renew(self, given: ReplicaSpec) -> None:
        assert self.is_alive
        self.held.append(given.checkpoints[0].slug)

    def load(self) -> list[object]:
        return [(self, "load", len(self.held))]

    def progress(self, rank: int) -> object:
        return (self, "progress", len(self.held))

    def kill(self) -> None:
        assert self.is_alive
        self.is_alive = False


@pytest.fixture
def fleet(monkeypatch):
    def get(reference):
        if reference[1] == "progress":
            return Heartbeat(0, HERE)
        if isinstance(FakeGang.outcome, Exception):
            raise FakeGang.outcome
        return FakeGang.outcome

    FakeGang.made, FakeGang.outcome = [], LoadReport(seconds=1.0)
    fake = SimpleNamespace(wait=lambda references, **_: (references, []), get=get, available_resources=dict)
    monkeypatch.setattr(replicas, "ray", fake)
    monkeypatch.setattr(replicas, "Gang", FakeGang)
    specs = {name: spec(SimpleNamespace(slug=name, reference=None), shares_process=name != "large") for name in "abc"}
    specs["large"] = replace(specs["a"], checkpoints=(SimpleNamespace(slug="large"),), shares_process=False)
    return Replicas(specs, Slots(1, 1, 0), SimpleNamespace(is_alive=lambda node: True), False, lambda *reported: None)


def held() -> list[list[str]]:
    return [gang.held for gang in FakeGang.made]


def load(fleet: Replicas, number: int, weights: str, *nodes: str) -> None:
    fleet.start(StartReplica(number, weights, nodes=nodes))
    list(fleet.wait(0.0, lambda seconds: None))
    fleet.ask_for_progress(10.0 * number)
    fleet.answers()


def test_small_weights_follow_each_other_in_one_process_until_nothing_follows(fleet):
    load(fleet, 1, "a", HERE)
    for number, weights in ((2, "b"), (3, "c")):
        fleet.stop(number - 1)
        load(fleet, number, weights, HERE)
        fleet.end_spare()
    assert held() == [["a", "b", "c"]]
    fleet.stop(3)
    assert FakeGang.made[0].is_alive
    fleet.end_spare()
    assert not FakeGang.made[0].is_alive


@pytest.mark.parametrize(("first", "second"), [("large", "a"), ("a", "large")])
def test_large_weights_have_a_process_of_their_own(fleet, first, second):
    load(fleet, 1, first)
    fleet.stop(1)
    load(fleet, 2, second)
    fleet.end_spare()
    assert held() == [[first], [second]]
    assert [gang.is_alive for gang in FakeGang.made] == [False, True]


@pytest.mark.parametrize("outcome", [Failure(FailureKind.out_of_memory, "full"), RayActorError()])
def test_a_process_in_which_anything_failed_is_not_taken_over(fleet, outcome):
    FakeGang.outcome = outcome
    load(fleet, 1, "a")
    fleet.stop(1)
    load(fleet, 2, "b")
    assert held() == [["a"], ["b"]]
    assert not FakeGang.made[0].is_alive


def test_a_process_that_still_works_or_whose_node_is_another_is_not_taken_over(fleet):
    fleet.start(StartReplica(1, "a"))
    fleet.ask_for_progress(0.0)
    fleet.answers()
    fleet.stop(1)
    load(fleet, 2, "b")
    fleet.stop(2)
    load(fleet, 3, "c", "elsewhere")
    assert held() == [["a"], ["b"], ["c"]]
    fleet.stop_all()
    assert not any(gang.is_alive for gang in FakeGang.made)


def test_the_weights_before_are_freed(tiny_checkpoint, byte_tokenizer_directory, tmp_path):
    path = tiny_checkpoint("Llama", byte_tokenizer_directory)
    (checkpoint,) = find_checkpoints(CheckpointsConfig(source=CheckpointSource.local, paths=[str(path)]))

    def modules() -> set[int]:
        gc.collect()
        return {id(one) for one in gc.get_objects() if issubclass(type(one), torch.nn.Module)}

    before, root = modules(), str(tmp_path)
    rank = RankProcess(replace(spec(checkpoint), results_root=root))
    assert isinstance(rank.load(None), LoadReport)
    assert modules() - before
    rank.renew(replace(spec(simulator_checkpoint()), results_root=root))
    assert not modules() - before
    assert isinstance(rank.load(None), LoadReport)


@pytest.mark.parametrize(
    ("parameters", "trusted", "ranks", "gpus", "pickles", "shares"),
    [
        (1_000_000, False, 1, 0, False, True),
        (1_000_000_000, False, 1, 0, False, False),
        (0, False, 1, 0, False, False),
        (1_000_000, True, 1, 0, False, False),
        (1_000_000, False, 2, 0, False, False),
        (1_000_000, False, 1, 1, False, False),
        (1_000_000, False, 1, 0, True, False),
    ],
)
def test_which_weights_share_a_process(parameters, trusted, ranks, gpus, pickles, shares):
    config = Config(checkpoints=CheckpointsConfig(allow_pickle=pickles))
    checkpoint = SimpleNamespace(
        n_parameters=parameters, reference=None, card=SimpleNamespace(trust_remote_code=trusted)
    )
    placement = Placement(EngineName.transformers, ranks, "configured")
    assert _share_process([checkpoint], placement, Slots(1, 1, gpus), config) is shares  # type: ignore[list-item]
