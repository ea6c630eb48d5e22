"""The driver with a fake Ray at its outermost boundary: real scheduler, real gangs, a clock that the test moves.

The fake stands for the module `ray` where `gang` and `driver` use it. Ranks follow a script instead of loading weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from psych_ray.checkpoints.find import simulator_checkpoint
from psych_ray.cluster import check, gang, replicas
from psych_ray.cluster.actor import RankProcess
from psych_ray.cluster.driver import POLL_S, drive
from psych_ray.cluster.replicas import ASK_S
from psych_ray.config import EngineName
from psych_ray.ending import Ending
from psych_ray.errors import CheckpointError, ClusterLostError, FailureKind, ResultsError
from psych_ray.results.schema import ScoringIdentity, TranscriptRef
from psych_ray.sweep.cluster_shape import Slots
from psych_ray.sweep.events import NodeJoined
from psych_ray.sweep.failure import Failure
from psych_ray.sweep.retries import UNREACHABLE_PAUSES_S
from psych_ray.sweep.scheduler import RANK_TIMEOUT_S, Scheduler
from psych_ray.sweep.stalls import Deadlines
from psych_ray.sweep.starts import WeightsFacts
from psych_ray.sweep.unit import Unit, UnitReport
from psych_ray.tracking import events
from psych_ray.worker.heartbeat import Heartbeat
from psych_ray.worker.spec import LoadReport, ReplicaSpec

Outcome = Any
"""What a call of a rank gives: a report, a Failure, an exception of Ray, or NEVER."""
NEVER = object()
NODE = "01" * 28


@dataclass(eq=False)
class Reference:
    """Outcome of a call, known at a time."""

    at: float
    outcome: Outcome


@dataclass
class FakeRay:
    """As much of Ray as the driver uses. `script(attempt, rank, call)` gives what a rank's call takes and gives."""

    script: Callable[[int, int, Any], tuple[float, Outcome]]
    work: Callable[[int, int, float], Outcome] = lambda attempt, rank, now: int(now * 1000)
    now: float = 0.0
    gangs: list[list[FakeActor]] = field(default_factory=list)
    alive: set[str] = field(default_factory=set)
    groups: set[int] = field(default_factory=set)
    longest_wait: float = 0.0
    gpus_wanted: list[int] = field(default_factory=list)
    """Of each actor."""
    cuts: list[tuple[str, str]] = field(default_factory=list)
    """Actors that were asked to end a unit early, with its id."""

    def __post_init__(self) -> None:
        self.available_resources = lambda: {"CPU": 3.0}
        self.util = SimpleNamespace(placement_group=self._placement_group, remove_placement_group=self.groups.remove)

    def _placement_group(
        self, bundles: list[dict[str, float]], *, strategy: str, _soft_target_node_id: str | None = None
    ) -> int:
        assert _soft_target_node_id in {NODE, None}
        assert strategy == "STRICT_PACK"
        self.groups.add(len(self.gangs))
        return len(self.gangs)

    def remote(self, **options: Any) -> Any:
        assert options == {"concurrency_groups": {"progress": 1}}
        return self._remote

    def _remote(self, rank_class: type) -> Any:
        def options(**wanted: Any) -> Any:
            self.gpus_wanted.append(wanted["num_gpus"])
            return SimpleNamespace(remote=lambda spec, rank: FakeActor(self, spec, rank, wanted["name"]))

        return SimpleNamespace(options=options)

    def wait(self, references: list[Reference], *, num_returns: int, timeout: float) -> tuple[list, list]:
        assert references, "Ray refuses an empty list"
        if num_returns > 1 or timeout == 0:
            done = [reference for reference in references if reference.at <= self.now]
            return done, [reference for reference in references if reference.at > self.now]
        assert num_returns == 1
        self.longest_wait = max(self.longest_wait, timeout)
        first = min(references, key=lambda reference: reference.at)
        if first.at > self.now + timeout:
            self.now += timeout
            return [], references
        self.now = max(self.now, first.at)
        return [first], [reference for reference in references if reference is not first]

    def get(self, reference: Reference) -> Outcome:
        assert reference.at <= self.now
        if isinstance(reference.outcome, Exception):
            raise reference.outcome
        return reference.outcome

    def kill(self, actor: FakeActor) -> None:
        self.alive.remove(actor.name)

    def sleep(self, seconds: float) -> None:
        self.longest_wait = max(self.longest_wait, seconds)
        self.now += seconds


class FakeActor:
    """A rank whose calls follow the script."""

    def __init__(self, ray: FakeRay, spec: ReplicaSpec, rank: int, name: str) -> None:
        self.ray, self.spec, self.rank, self.name = ray, spec, rank, name
        if rank == 0:
            ray.gangs.append([])
        ray.gangs[-1].append(self)
        ray.alive.add(name)
        self.attempt = len(ray.gangs)
        self.open_rendezvous = SimpleNamespace(remote=lambda: "address")
        self.load = SimpleNamespace(remote=lambda address: self._call("load"))
        self.score = self.check = SimpleNamespace(remote=self._call)
        self.progress = SimpleNamespace(remote=self._progress)
        self.cut = SimpleNamespace(remote=lambda unit: ray.cuts.append((name, unit)))

    def _progress(self) -> Reference:
        """By default every rank shows progress whenever it is asked."""
        work = self.ray.work(self.attempt, self.rank, self.ray.now)
        outcome = Heartbeat(work, NODE) if isinstance(work, int) else work
        return Reference(self.ray.now if outcome is not NEVER else float("inf"), outcome)

    def _call(self, what: Any) -> Reference:
        seconds, outcome = self.ray.script(self.attempt, self.rank, what)
        return Reference(self.ray.now + seconds if outcome is not NEVER else float("inf"), outcome)


@dataclass
class FakeNodes:
    """Tells what it was given, once."""

    told: list[Any]
    dead: frozenset[str] = frozenset()

    def events(self) -> list[Any]:
        events, self.told = self.told, []
        return events

    def is_alive(self, node: str) -> bool:
        return node not in self.dead

    def notes(self) -> list[str]:
        return []


class FakeTable:
    """Takes every part."""

    def commit(self, parts: list[Any]) -> None:
        pass

    def require_held(self) -> None:
        pass


class Recorder:
    """A tracker that keeps every event."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def handle(self, event: Any) -> None:
        self.events.append(event)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def report(unit: Unit) -> UnitReport:
    return UnitReport(unit.checkpoint, unit.condition, unit.id, tokens=1, responses=unit.n_responses, seconds=1.0)


def ideal(attempt: int, rank: int, call: Any) -> tuple[float, Outcome]:
    return (30.0, LoadReport(seconds=30.0)) if call == "load" else (60.0, report(call))


def spec(ranks: int) -> ReplicaSpec:
    return ReplicaSpec(
        checkpoints=(SimpleNamespace(slug="a", reference=None),),  # type: ignore[arg-type]
        facts={},
        identity=ScoringIdentity(dtype="float32", cut="tokens", cut_at=None, parity=False),
        engine=EngineName.deepspeed_tp if ranks > 1 else EngineName.transformers,
        results_root="/nowhere",
        ranks=ranks,
    )


def nothing_lost() -> None:
    pass


class Interruption(Ending):
    """A signal at a time of the fake's clock."""

    ray: FakeRay

    def __init__(self, at: float, patience: float) -> None:
        super().__init__()
        self.at, self.patience = at, patience

    @property
    def is_asked(self) -> bool:
        return self.ray.now >= self.at

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.at + self.patience - self.ray.now)


@dataclass
class Sweep:
    """What became of one sweep."""

    ray: FakeRay
    tracker: Recorder
    skipped: list[str]

    @property
    def committed(self) -> Counter[str]:
        return Counter(event.report.unit for event in self.tracker.of(events.UnitCommitted))


@pytest.fixture
def sweep(monkeypatch):
    def run(
        script,
        *,
        ranks=2,
        n_units=3,
        attempts=2,
        work=None,
        tracker=None,
        interruption=None,
        check=nothing_lost,
        nodes=None,
    ) -> Sweep:
        fake = FakeRay(script, work) if work else FakeRay(script)
        monkeypatch.setattr(gang, "ray", fake)
        monkeypatch.setattr(replicas, "ray", fake)
        monkeypatch.setattr(gang, "PlacementGroupSchedulingStrategy", lambda group, **where: (group, where))
        units = [Unit("a", "plain", (TranscriptRef(f"t{k}", "s", "f", k, 100, 5),)) for k in range(n_units)]
        facts = {"a": WeightsFacts(ranks, is_sharded=ranks > 1, load_seconds=1e9)}
        scheduler = Scheduler.plan(units, attempts=attempts, facts=facts)
        tracker = Recorder() if tracker is None else tracker
        if interruption is not None:
            interruption.ray = fake
        try:
            skipped = drive(
                scheduler,
                {"a": spec(ranks)},
                Slots(ranks, 1, 1),
                FakeTable(),
                tracker,
                FakeNodes([NodeJoined(NODE, ranks)]),
                ending=interruption,
                check=check,
                clock=lambda: fake.now,
                sleep=fake.sleep,
            )
        finally:
            if check is nothing_lost:
                assert not fake.alive, "processes are left"
                assert not fake.groups, "placement groups are left"
            assert fake.longest_wait <= POLL_S
        return Sweep(fake, tracker, skipped)

    return run


@pytest.mark.parametrize(
    ("at", "patience", "n_committed", "says"),
    [
        (10.0, 30.0, 0, []),
        (100.0, 80.0, 2, ["interrupted; finishing 1 unit, at most 80 s; interrupt again to stop at once"]),
        (100.0, 40.0, 1, ["interrupted; finishing 1 unit, at most 40 s; interrupt again to stop at once"]),
    ],
    ids=["loading", "finished", "too late"],
)
def test_after_an_interruption_the_unit_in_flight_is_finished_if_it_is_in_time(sweep, at, patience, n_committed, says):
    tracker = Recorder()
    with pytest.raises(KeyboardInterrupt):
        sweep(ideal, tracker=tracker, interruption=Interruption(at, patience))
    assert len(tracker.of(events.UnitCommitted)) == n_committed
    assert [event.message for event in tracker.of(events.Noted)] == says


def test_a_cluster_that_no_longer_answers_ends_the_sweep_without_another_call_of_ray(sweep):
    checks = iter([False] * 100)

    def check() -> None:
        if next(checks, True):
            raise ClusterLostError("the cluster no longer answers")

    tracker = Recorder()
    with pytest.raises(ClusterLostError, match="no longer answers"):
        sweep(ideal, tracker=tracker, check=check)
    assert len(tracker.of(events.UnitCommitted)) == 1


@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_an_undisturbed_sweep_commits_every_unit_once(sweep, ranks):
    done = sweep(ideal, ranks=ranks)
    assert list(done.committed.values()) == [1, 1, 1]
    assert done.skipped == []
    assert done.ray.now == 30.0 + 3 * 60.0
    assert len(done.ray.gangs) == 1


def test_running_out_of_memory_while_loading_on_one_rank_of_two_is_resolved_in_seconds(sweep):
    """Rank 1 raises at 12 s; rank 0 waits in a collective that nobody ends."""

    def script(attempt, rank, call):
        if attempt == 1 and call == "load":
            return (12.0, Failure(FailureKind.out_of_memory, "out of memory")) if rank == 1 else (0.0, NEVER)
        return ideal(attempt, rank, call)

    done = sweep(script)
    assert list(done.committed.values()) == [1, 1, 1]
    assert done.ray.now == 12.0 + 30.0 + 3 * 60.0, "the other rank was not waited for"
    assert [actors[0].spec.pass_share for actors in done.ray.gangs] == [1.0, 0.5]
    assert [event.message for event in done.tracker.of(events.Failed)] == [
        "replica of a ended while loading: rank 1: out of memory; its next gang reads 0.5 of the tokens per pass"
    ]


def test_a_checkpoint_that_never_fits_is_skipped_after_its_attempts(sweep):
    def script(attempt, rank, call):
        return (12.0, Failure(FailureKind.out_of_memory, "out of memory")) if rank == 1 else (0.0, NEVER)

    done = sweep(script)
    assert len(done.ray.gangs) == 2
    assert done.ray.now == 24.0
    assert len(done.skipped) == 3
    assert "rank 1: out of memory" in done.skipped[0]


def test_a_rank_that_dies_takes_its_gang_with_it_and_nothing_is_lost_or_doubled(sweep):
    def script(attempt, rank, call):
        if attempt == 1 and rank == 1 and call != "load":
            return 20.0, RayActorError(error_msg="The actor died unexpectedly")
        return ideal(attempt, rank, call)

    done = sweep(script)
    assert list(done.committed.values()) == [1, 1, 1]
    assert len(done.ray.gangs) == 2


def test_a_broken_connection_that_is_reported_before_the_preemption_that_caused_it_is_not_counted(sweep):
    def script(attempt, rank, call):
        if attempt < 20 and call != "load":
            if rank == 0:
                return 20.0, Failure(FailureKind.unknown, "RuntimeError: Connection closed by peer")
            return 22.0, RayActorError(error_msg="The node was taken", preempted=True)
        return ideal(attempt, rank, call)

    done = sweep(script, attempts=1)
    assert list(done.committed.values()) == [1, 1, 1]
    assert done.skipped == []
    assert done.tracker.of(events.Failed) == []
    assert len(done.tracker.of(events.Noted)) == 19


def test_preemptions_without_number_count_against_nothing(sweep):
    def script(attempt, rank, call):
        if attempt < 60 and rank == 1 and (call != "load" or attempt % 2):
            return 20.0, RayActorError(error_msg="The node was taken", preempted=True)
        return ideal(attempt, rank, call)

    done = sweep(script, attempts=1)
    assert list(done.committed.values()) == [1, 1, 1]
    assert done.skipped == []


def test_a_rank_that_reports_nothing_while_the_other_failed_ends_the_gang_in_time(sweep):
    def script(attempt, rank, call):
        if attempt == 1 and call != "load":
            return (1.0, Failure(FailureKind.transcript, "no", "t0")) if rank == 0 else (0.0, NEVER)
        return ideal(attempt, rank, call)

    done = sweep(script)
    assert len(done.skipped) == 1
    assert "transcript t0 of s: " in done.skipped[0]
    assert len(done.committed) == 2
    assert done.ray.now == pytest.approx(30 + 1 + RANK_TIMEOUT_S + 30 + 2 * 60)


def test_a_transcript_that_all_ranks_refuse_is_skipped_and_the_gang_goes_on(sweep):
    def script(attempt, rank, call):
        if call != "load" and call.transcripts[0].id == "t1":
            return 1.0 + rank, Failure(FailureKind.transcript, "not for us", "t1")
        return ideal(attempt, rank, call)

    done = sweep(script)
    assert done.skipped == ["a, plain: transcript t1 of s: not for us"]
    assert len(done.ray.gangs) == 1
    assert [event.responses for event in done.tracker.of(events.ResponsesSkipped)] == [5]


STALL_S = Deadlines().stall_seconds


@pytest.mark.parametrize("answers", ["nothing", "the same"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_rank_that_stands_still_is_ended_with_its_gang_and_its_unit_is_scored_again(sweep, ranks, answers):
    def script(attempt, rank, call):
        return (0.0, NEVER) if attempt == 1 and call != "load" else ideal(attempt, rank, call)

    def work(attempt, rank, now):
        if attempt == 1 and rank == ranks - 1 and now > 100.0:
            return NEVER if answers == "nothing" else 7
        return int(now * 1000)

    done = sweep(script, ranks=ranks, work=work)
    assert list(done.committed.values()) == [1, 1, 1]
    assert len(done.ray.gangs) == 2
    assert 100.0 + STALL_S - ASK_S <= done.ray.now - (30 + 3 * 60) <= 100.0 + STALL_S + 2 * ASK_S
    (failed,) = done.tracker.of(events.Failed)
    named = "rank 1: " if ranks > 1 else ""
    assert failed.message == f"replica of a ended while scoring: {named}it made no progress for 600 s"


def test_a_unit_that_takes_longer_than_the_deadline_is_waited_for_as_long_as_ranks_make_progress(sweep):
    def script(attempt, rank, call):
        return ideal(attempt, rank, call) if call == "load" else (20 * STALL_S, report(call))

    done = sweep(script)
    assert list(done.committed.values()) == [1, 1, 1]
    assert len(done.ray.gangs) == 1


def test_a_replica_without_a_place_is_given_up_in_a_line_with_what_it_needs_and_what_is_free(sweep):
    done = sweep(lambda attempt, rank, call: (0.0, NEVER), ranks=4, work=lambda attempt, rank, now: NEVER)
    assert done.ray.now == Deadlines().place_seconds
    assert len(done.ray.gangs) == 1
    (failed,) = done.tracker.of(events.Failed)
    assert failed.message == (
        "replica of a given up: it had no place on the cluster for 3600 s: it needs 4 ranks of 1 GPU, 1 CPU on one "
        "node; free are 0 GPU, 3 CPU"
    )
    assert len(done.skipped) == 3


def test_a_driver_that_was_stopped_for_hours_does_not_blame_its_ranks(sweep):
    def script(attempt, rank, call):
        return ideal(attempt, rank, call) if call == "load" else (4 * 3600.0, report(call))

    def work(attempt, rank, now):
        if 70.0 <= now < 75.0:
            replicas.ray.now += 3 * 3600.0  # the fake: between a question and its answer
        return int(now // 60.0)  # a step takes a minute

    done = sweep(script, n_units=1, work=work)
    assert list(done.committed.values()) == [1]
    assert len(done.ray.gangs) == 1


def test_ranks_are_asked_one_question_at_a_time_every_few_seconds(sweep):
    asked = []

    def work(attempt, rank, now):
        asked.append((rank, now))
        return NEVER if rank else int(now)

    def script(attempt, rank, call):
        return ideal(attempt, rank, call)

    done = sweep(script, work=work)
    assert [rank for rank, _ in asked].count(1) == 1, "the first question is still open"
    times = [now for rank, now in asked if rank == 0]
    assert done.ray.now / ASK_S - 3 <= len(times) <= done.ray.now / ASK_S + 1
    assert min(after - before for before, after in pairwise(times)) >= ASK_S


def test_a_store_that_comes_back_costs_a_pause_and_nothing_else(sweep):
    down_until = 100.0

    def script(attempt, rank, call):
        if call != "load" and done_at() < down_until:
            return 1.0, Failure(FailureKind.unreachable, "the store does not answer")
        return ideal(attempt, rank, call)

    def done_at() -> float:
        return replicas.ray.now  # the fake

    done = sweep(script, ranks=1)
    assert list(done.committed.values()) == [1, 1, 1]
    assert len(done.ray.gangs) == 1
    assert done.ray.now <= down_until + max(UNREACHABLE_PAUSES_S[:4]) + 3 * 60 + 5


@pytest.mark.parametrize(("reference", "gpus"), [("chance", 0), (None, 1)])
def test_a_replica_of_references_takes_no_gpu_of_its_slot(monkeypatch, reference, gpus):
    fake = FakeRay(ideal)
    monkeypatch.setattr(gang, "ray", fake)
    one = replace(spec(1), checkpoints=(SimpleNamespace(slug="a", reference=reference),))  # type: ignore[arg-type]
    started = gang.Gang(one, Slots(1, 4, 1), name="replica")
    assert fake.gpus_wanted == [gpus]
    assert started.asks_for == f"it needs 1 rank of {gpus} GPU, 4 CPU"


def test_a_fault_outside_of_loading_and_scoring_is_reported_by_its_kind(tmp_path):
    """An exception in the constructor of an actor would reach the driver as the death of a process."""
    (tmp_path / "file").write_text("")
    simulator = ReplicaSpec(
        checkpoints=(simulator_checkpoint(),),
        facts={},
        identity=ScoringIdentity(dtype="float32", cut="tokens", cut_at=None, parity=False),
        engine=EngineName.transformers,
        results_root=str(tmp_path / "file"),
    )
    found = RankProcess(simulator).load(None)
    assert isinstance(found, Failure)
    assert found.kind == FailureKind.sweep
    assert "that is a file; name a directory" in found.reason
    failed = Failure(FailureKind.unknown, "no port is free")
    assert RankProcess(simulator).load(failed) is failed


def test_ray_s_own_errors_become_failures_of_their_kind():
    from ray.exceptions import OutOfMemoryError, RayTaskError

    taken = RayActorError(error_msg="gone", preempted=True)
    raised = RayTaskError("load", "traceback", CheckpointError("no such file"))
    errors = [taken, OutOfMemoryError("x"), raised, RayActorError()]
    assert [replicas.failure_of_death(error).kind for error in errors] == [
        FailureKind.preempted, FailureKind.out_of_memory, FailureKind.checkpoint, FailureKind.lost,
    ]  # fmt: skip


def test_when_nothing_can_be_committed_any_more_the_sweep_stops_and_leaves_nothing(sweep):
    def script(attempt, rank, call):
        return ideal(attempt, rank, call) if call == "load" else (1.0, Failure(FailureKind.sweep, "disk full"))

    with pytest.raises(ResultsError, match="disk full"):
        sweep(script, ranks=1)


def test_a_check_on_a_cluster_that_no_longer_answers_ends_without_another_call_of_ray(monkeypatch):
    fake = FakeRay(ideal)
    monkeypatch.setattr(gang, "ray", fake)
    monkeypatch.setattr(check, "ray", fake)
    monkeypatch.setattr(fake, "kill", lambda actor: pytest.fail("a call of Ray that would not return"))

    def lost() -> None:
        raise ClusterLostError("the cluster no longer answers")

    with pytest.raises(ClusterLostError):
        list(
            check.run_check(
                {"a": spec(1)}, Slots(1, 1, 1), [], across_nodes=False, deadlines=Deadlines(), check_cluster=lost
            )
        )


@pytest.mark.parametrize(
    ("script", "work", "says"),
    [
        (ideal, None, None),
        (lambda *_: (0.0, NEVER), None, "it made no progress for 1800 s"),
        (
            lambda *_: (0.0, NEVER),
            NEVER,
            "it had no place on the cluster for 3600 s: it needs 1 rank of 1 GPU, 1 CPU; ",
        ),
    ],
)
def test_a_check_waits_for_nothing_without_a_deadline(monkeypatch, script, work, says):
    checked = []

    def also_check(attempt, rank, call):
        return (5.0, [checked.append(call)]) if isinstance(call, list) else script(attempt, rank, call)

    fake = FakeRay(also_check, lambda attempt, rank, now: work or 7)
    monkeypatch.setattr(gang, "ray", fake)
    monkeypatch.setattr(check, "ray", fake)
    found = list(
        check.run_check(
            {"a": spec(1)}, Slots(1, 1, 1), [], across_nodes=False, deadlines=Deadlines(), clock=lambda: fake.now
        )
    )
    assert not fake.alive
    if says is None:
        assert checked == [[]]
    else:
        (not_loaded,) = found
        assert not_loaded.reason.startswith(says)
