"""From a configuration to a plan that can be carried out, or one clear line why not. Loads no weights, starts nothing.

Everything that can be refused is refused here, before a replica starts: checkpoints and conditions that do not exist,
transcripts that cannot be used, a results root with other settings, checkpoints that fit nowhere on the cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from psych_ray.app.costs import costs_of, is_complete, measured_rates, planned_task
from psych_ray.app.status import write_plan
from psych_ray.checkpoints.find import (
    REFERENCES,
    Checkpoint,
    Found,
    find_all,
    load_group,
    reference_checkpoint,
    simulator_checkpoint,
    with_references,
)
from psych_ray.checkpoints.shape import CheckpointShape, shape_of
from psych_ray.config import CheckpointSource, Config, TranscriptSource
from psych_ray.demo import demo_checkpoints
from psych_ray.errors import ConfigError, ResultsError, TranscriptError
from psych_ray.results.catalogue import catalogue, require_same_form
from psych_ray.results.refused import refusals, write_refused
from psych_ray.results.schema import CheckpointFacts, ScoringIdentity, TranscriptRef
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import ResultsStore
from psych_ray.sweep.cluster_shape import ClusterShape, Slots, divide, require_fit
from psych_ray.sweep.cost import Device, fetch_seconds, load_seconds, replica_device
from psych_ray.sweep.placement import Placement, Placer, Unfit, UnfitError
from psych_ray.sweep.plan import PlannedTranscripts, Task, without_committed
from psych_ray.sweep.rates import Rate
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.sources import LeftOut, Skipped, read_transcripts

_PLAIN = "plain"
Survey = Callable[[Iterable[Transcript]], list[TranscriptRef]]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A sweep that is ready to run."""

    store: ResultsStore
    snapshot: Snapshot
    """What the store held before the sweep."""
    checkpoints: dict[str, Checkpoint]
    """By slug, in the order of the configuration."""
    scoring: ScoringIdentity
    tasks: list[Task]
    """Checkpoint by checkpoint, condition by condition."""
    skipped: list[Skipped]
    """Transcripts and files that `transcripts.on_error=skip` skipped."""
    left_out: list[LeftOut]
    """What else of the source is not used, while its transcripts are scored."""
    cluster: ClusterShape
    placements: dict[str, Placement]
    """By slug of the weights that a replica loads, of those with missing responses."""
    devices: dict[str, Device]
    """What a replica of these weights runs on, by their slug; the times of the plan are estimated for it."""
    rates: dict[str, Rate]
    """Of one replica, by slug of the checkpoint, of those that have a placement."""
    load_seconds: dict[str, float]
    """Assumed time to load the weights, by their slug."""
    fetch_seconds: dict[str, float]
    """Assumed time to bring the weights to a node's own disk, by their slug."""
    unfit: dict[str, Unfit]
    """Why weights have no placement, by their slug; where `refuse` is set there are none."""
    slots: Slots


def find(config: Config, *, say: Callable[[str], None]) -> list[Checkpoint]:
    """The checkpoints of `find_sweep`."""
    return list(find_sweep(config, say=say).checkpoints)


def find_sweep(config: Config, *, say: Callable[[str], None], assume: bool = False) -> Found:
    """Find the checkpoints of a configuration, and refuse conditions that do not exist; reads no results.

    `say` gets a line for each checkpoint of the hub that is not among them. `assume`: as of `find_all`.
    """
    for condition in config.conditions:
        condition_named(condition, parity=config.scoring.parity)
    found = _found(config, say, assume=assume)
    for reason in found.missing.values():
        say(f"left out: {reason}")
    return found


def prepare(
    config: Config,
    checkpoints: Sequence[Checkpoint],
    snapshot: Snapshot,
    store: ResultsStore,
    cluster: ClusterShape,
    *,
    write: bool = True,
    place_all: bool = False,
    refuse: bool = True,
    survey: Survey | None = None,
) -> Prepared:
    """Read the transcripts, and plan what is missing of these checkpoints for a cluster of this shape.

    `write`: also bring the transcripts into `sources/` of the store, as a sweep needs it. `place_all`: also
    place checkpoints of which nothing is missing. `refuse`: raise for the first checkpoint that fits nowhere; else it
    is in `unfit`. `survey`: without `write`, in place of `survey_of`.
    """
    identity = scoring_identity(config)
    _refuse_to_mix(store.location, snapshot, identity, checkpoints)
    normalise = config.transcripts.normalise
    if not require_same_form(store, normalise) and snapshot.tasks:
        _refuse_other_transcripts(store.location, snapshot, config)
    skipped: list[Skipped] = []
    left_out: list[LeftOut] = []
    transcripts = read_transcripts(config.transcripts, on_skipped=skipped.append, on_left_out=left_out.append)
    refs = catalogue(store, transcripts, normalise=normalise) if write else (survey or survey_of)(transcripts)
    planned = PlannedTranscripts.of(refs)
    if not planned.refs:
        raise TranscriptError(f"transcripts={config.transcripts.source}: no marked response was found")
    committed = snapshot.committed_among([ref.id for ref in planned.refs])
    conditions = {checkpoint.slug: _conditions_of(checkpoint, config.conditions) for checkpoint in checkpoints}
    missing = [
        checkpoint
        for checkpoint in checkpoints
        if place_all or not all(is_complete(committed.get((checkpoint.slug, c))) for c in conditions[checkpoint.slug])
    ]
    shapes = {checkpoint.slug: shape_of(checkpoint) for checkpoint in missing}
    longest = max(ref.n_characters for ref in refs)
    placements, slots, unfit = _place(missing, shapes, config, cluster, longest=longest, refuse=refuse)
    devices = {
        weights: replica_device(
            ranks=placement.ranks, cpus=slots.cpus, gpus=0 if weights == REFERENCES else _gpus(slots, config)
        )
        for weights, placement in placements.items()
    }
    if write:
        store.remove_unfinished()
        write_refused(store, refusals(skipped, left_out), studies={ref.study for ref in refs})
        write_plan(store, [(slug, condition) for slug, its_own in conditions.items() for condition in its_own])
    costs = costs_of(
        missing, shapes, devices, measured_rates(snapshot, checkpoints, shapes, planned, committed, config)
    )
    tasks = [
        planned_task(checkpoint, condition, planned, costs.get(checkpoint.slug), config)
        for checkpoint in checkpoints
        for condition in conditions[checkpoint.slug]
    ]
    return Prepared(
        store=store,
        snapshot=snapshot,
        checkpoints={checkpoint.slug: checkpoint for checkpoint in checkpoints},
        scoring=identity,
        tasks=without_committed(tasks, committed),
        skipped=skipped,
        left_out=left_out,
        cluster=cluster,
        placements=placements,
        devices=devices,
        rates={slug: cost.rate() for slug, cost in costs.items()},
        load_seconds={load_group(cost.checkpoint): load_seconds(cost.shape) for cost in costs.values()},
        fetch_seconds={load_group(cost.checkpoint): fetch_seconds(cost.shape) for cost in costs.values()},
        unfit=unfit,
        slots=slots,
    )


def scoring_identity(config: Config) -> ScoringIdentity:
    """Pick the settings that change scores."""
    scoring = config.scoring
    return ScoringIdentity(
        dtype=scoring.dtype.value, cut=scoring.cut.value, cut_at=scoring.cut_at, parity=scoring.parity
    )


def checkpoint_facts(checkpoint: Checkpoint) -> CheckpointFacts:
    """Pick what footers and statistics contain of a checkpoint."""
    card = checkpoint.card
    return CheckpointFacts(
        slug=checkpoint.slug,
        id=card.id,
        fingerprint=checkpoint.fingerprint,
        revision=card.revision,
        family=card.family,
        generation=card.generation,
        size_b=card.size_b,
        stage=card.stage.value if card.stage else None,
        base=checkpoint.base_slug,
    )


def _place(
    checkpoints: Iterable[Checkpoint],
    shapes: Mapping[str, CheckpointShape],
    config: Config,
    cluster: ClusterShape,
    *,
    longest: int,
    refuse: bool,
) -> tuple[dict[str, Placement], Slots, dict[str, Unfit]]:
    """Place each set of weights, and divide the cluster among them; reasons, by slug, for weights that fit nowhere."""
    placements: dict[str, Placement] = {}
    unfit: dict[str, Unfit] = {}
    placer = Placer(
        cluster, config.scoring, ranks=config.cluster.ranks, across_nodes=config.cluster.across_nodes, longest=longest
    )
    for weights, checkpoint in _most_demanding(checkpoints).items():
        try:
            placements[weights] = placer.choose_placement(checkpoint.card.id, shapes[checkpoint.slug])
        except UnfitError as error:
            if refuse:
                raise
            unfit[weights] = error.unfit
    while True:
        try:
            return placements, _slots([one.ranks for one in placements.values()], config, cluster), unfit
        except ConfigError as error:
            if refuse or not placements:
                raise
            most = max(one.ranks for one in placements.values())
            unfit |= {weights: Unfit(str(error)) for weights, one in placements.items() if one.ranks == most}
            placements = {weights: one for weights, one in placements.items() if one.ranks < most}


def _most_demanding(checkpoints: Iterable[Checkpoint]) -> dict[str, Checkpoint]:
    """One checkpoint for each set of weights; where adapters share them, an adapter."""
    chosen: dict[str, Checkpoint] = {}
    for checkpoint in checkpoints:
        if checkpoint.base_of_adapter or load_group(checkpoint) not in chosen:
            chosen[load_group(checkpoint)] = checkpoint
    return chosen


def _slots(ranks: Sequence[int], config: Config, cluster: ClusterShape) -> Slots:
    """Divide the cluster among replicas of so many ranks; ConfigError where one of them could never be placed."""
    most, across_nodes = max(ranks, default=1), config.cluster.across_nodes
    gang = 1 if across_nodes else most
    slots = divide(cluster, max(1, sum(ranks)), gang=gang, cpus_per_rank=config.cluster.cpus_per_replica)
    require_fit(cluster, slots, most, across_nodes=across_nodes)
    return slots


def _gpus(slots: Slots, config: Config) -> int:
    return 0 if config.scoring.device == "cpu" else slots.gpus


def _found(config: Config, say: Callable[[str], None], *, assume: bool) -> Found:
    references = list(map(reference_checkpoint, config.checkpoints.references))
    directories: list[Path] = []
    if config.checkpoints.source == CheckpointSource.demo:
        directories = demo_checkpoints(Path(config.checkpoints.cache).expanduser(), progress=say)
        if config.transcripts.source == TranscriptSource.demo:
            references.append(simulator_checkpoint())
    found = find_all(config.checkpoints, directories, assume=assume)
    return replace(found, checkpoints=tuple(with_references(found.checkpoints, references)))


def _conditions_of(checkpoint: Checkpoint, conditions: Sequence[str]) -> Sequence[str]:
    """All; of a reference, which reads nothing of what a condition adds or omits, one."""
    if checkpoint.reference is None:
        return conditions
    return [_PLAIN if _PLAIN in conditions else conditions[0]]


def survey_of(transcripts: Iterable[Transcript]) -> list[TranscriptRef]:
    """Read the transcripts, and keep what a plan needs of them."""
    return [TranscriptRef(t.id, t.study, "", 0, len(t.text), len(t.responses)) for t in transcripts]


def _refuse_other_transcripts(location: str, snapshot: Snapshot, config: Config) -> None:
    """Raise ResultsError where none of the transcripts is in the table: without `sources/`, their form is not known."""
    ids = [one.id for one in read_transcripts(config.transcripts)]
    if not any(is_in.any() for is_in in snapshot.committed_among(ids).values()):
        raise ResultsError(
            f"{location}: has lost its sources/, and none of these transcripts has the id of one that was scored "
            "there, as an earlier version gave other ids: name another results.root"
        )


def _refuse_to_mix(
    location: str, snapshot: Snapshot, identity: ScoringIdentity, checkpoints: Iterable[Checkpoint]
) -> None:
    """Raise ResultsError where the root was made with other settings, or with other weights of the same name."""
    now = {checkpoint.slug: checkpoint.fingerprint for checkpoint in checkpoints if not checkpoint.assumed}
    for scoring in snapshot.scoring:
        differences = identity.differences(scoring)
        if differences:
            raise ResultsError(
                f"{location} was scored with other settings ({'; '.join(differences)} there): "
                "repeat those, or name another results.root"
            )
    for facts in snapshot.checkpoints:
        if now.get(facts.slug, facts.fingerprint) != facts.fingerprint:
            raise ResultsError(
                f"{location} holds responses of another {facts.slug} (its weights, configuration or tokenizer "
                "changed): name another results.root, or give the checkpoint another id"
            )
