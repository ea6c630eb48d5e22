"""From a configuration to a plan that can be carried out, or one clear line why not. Loads no weights, starts nothing.

Everything that can be refused is refused here, before a replica costs anything: checkpoints that are none, conditions
that do not exist, transcripts that cannot be used, a results root that holds other settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from psych_ray.app.status import write_plan
from psych_ray.checkpoints.find import Checkpoint, find_checkpoints, load_group, simulator_checkpoint
from psych_ray.config import CheckpointSource, Config, TranscriptSource
from psych_ray.demo import demo_checkpoints
from psych_ray.errors import ResultsError, TranscriptError
from psych_ray.results.catalogue import catalogue
from psych_ray.results.schema import CheckpointFacts, ScoringIdentity, TranscriptRef
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import ResultsStore, open_store
from psych_ray.sweep.cost import CPU_CORE, GPU, Device
from psych_ray.sweep.placement import Placement, gpus_of, place
from psych_ray.sweep.plan import Task, plan_task, without_committed
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.sources import Skipped, read_transcripts


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A sweep that is ready to run."""

    store: ResultsStore
    snapshot: Snapshot
    """What the store held before the sweep."""
    checkpoints: dict[str, Checkpoint]
    """By slug, in the order of the configuration."""
    scoring: ScoringIdentity
    lanes: list[Task]
    """Checkpoint by checkpoint, condition by condition."""
    skipped: list[Skipped]
    """Transcripts that `transcripts.on_error=skip` left out."""
    device: Device
    """What the times of the plan are estimated for."""
    placements: dict[str, Placement]
    """By slug of the weights that a replica loads."""

    @property
    def n_responses_missing(self) -> int:
        """Rows that are not committed yet."""
        return sum(lane.n_responses_missing for lane in self.lanes)


def prepare(config: Config, *, say: Callable[[str], None], write: bool = True) -> Prepared:
    """Find checkpoints and transcripts, and plan what is missing.

    `write`: also bring the transcripts into `sources/` of the results root, as a sweep needs it. `say` gets a line for
    every step that may take long.
    """
    store = open_store(config.results.root)
    for condition in config.conditions:
        condition_named(condition, parity=config.scoring.parity)
    checkpoints = _checkpoints(config, say)
    identity = scoring_identity(config)
    snapshot = Snapshot.read(store)
    _refuse_to_mix(store.location, snapshot, identity, checkpoints)
    skipped: list[Skipped] = []
    transcripts = read_transcripts(config.transcripts, on_skipped=skipped.append)
    refs = catalogue(store, transcripts) if write else _survey(transcripts)
    if not any(ref.n_responses for ref in refs):
        raise TranscriptError(f"transcripts={config.transcripts.source}: no marked response was found")
    placements = _placements(checkpoints, config, longest=max(ref.n_characters for ref in refs))
    device = _device(config)
    if write:
        store.remove_unfinished()
        write_plan(
            store, [(checkpoint.slug, condition) for checkpoint in checkpoints for condition in config.conditions]
        )
    lanes = [
        plan_task(
            checkpoint=checkpoint.slug,
            condition=condition,
            n_parameters=checkpoint.n_parameters,
            transcripts=refs,
            unit_seconds=config.scoring.unit_seconds,
            device=device,
        )
        for checkpoint in checkpoints
        for condition in config.conditions
    ]
    return Prepared(
        store=store,
        snapshot=snapshot,
        checkpoints={checkpoint.slug: checkpoint for checkpoint in checkpoints},
        scoring=identity,
        lanes=without_committed(lanes, snapshot.committed),
        skipped=skipped,
        device=device,
        placements=placements,
    )


def scoring_identity(config: Config) -> ScoringIdentity:
    """Pick the settings that change scores."""
    scoring = config.scoring
    return ScoringIdentity(
        dtype=scoring.dtype.value, cut=scoring.cut.value, cut_at=scoring.cut_at, parity=scoring.parity
    )


def checkpoint_facts(checkpoint: Checkpoint) -> CheckpointFacts:
    """Pick what footers and statistics tell of a checkpoint."""
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


def _placements(checkpoints: Iterable[Checkpoint], config: Config, *, longest: int) -> dict[str, Placement]:
    """Place each set of weights; where adapters share them, as the adapters need it."""
    gpus = gpus_of(config.cluster)
    hardest: dict[str, Checkpoint] = {}
    for checkpoint in checkpoints:
        if checkpoint.base_of_adapter or load_group(checkpoint) not in hardest:
            hardest[load_group(checkpoint)] = checkpoint
    return {weights: place(checkpoint, config, gpus, longest=longest) for weights, checkpoint in hardest.items()}


def _checkpoints(config: Config, say: Callable[[str], None]) -> list[Checkpoint]:
    if config.checkpoints.source != CheckpointSource.demo:
        return find_checkpoints(config.checkpoints)
    directories = demo_checkpoints(Path(config.checkpoints.cache).expanduser(), progress=say)
    found = find_checkpoints(config.checkpoints, directories)
    if config.transcripts.source == TranscriptSource.demo:
        found.append(simulator_checkpoint())
    return found


def _survey(transcripts: Iterable[Transcript]) -> list[TranscriptRef]:
    return [TranscriptRef(t.id, t.study, "", 0, len(t.text), len(t.responses)) for t in transcripts]


def _refuse_to_mix(
    location: str, snapshot: Snapshot, identity: ScoringIdentity, checkpoints: Iterable[Checkpoint]
) -> None:
    """Raise ResultsError where the root was made with other settings, or with other weights of the same name."""
    now = {checkpoint.slug: checkpoint.fingerprint for checkpoint in checkpoints}
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


def _device(config: Config) -> Device:
    gpus = config.cluster.gpus
    has_gpu = gpus > 0 if gpus is not None else Path("/dev/nvidia0").exists()
    return GPU if has_gpu and config.scoring.device != "cpu" else CPU_CORE
