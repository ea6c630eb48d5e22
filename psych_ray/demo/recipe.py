"""All constants of the demo checkpoints, in one value with a fingerprint.

Imports neither torch nor transformers, so that finding checkpoints that exist is fast.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from psych_ray.config import Stage
from psych_ray.transcripts.simulated import simulated_transcripts

FAMILY = "demo"


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Some training steps of one kind."""

    steps: int
    participants: tuple[int, ...]
    """Number of each task in a batch; more for tasks that are harder to learn."""
    window_tokens: int | None = None
    """Length of the part of a session; None: all of it."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One run of AdamW; after a warm-up the learning rate follows a cosine down to a tenth."""

    phases: tuple[Phase, ...]
    learning_rate: float

    @property
    def steps(self) -> int:
        """Number of steps of all phases."""
        return sum(phase.steps for phase in self.phases)


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A base and the stages that are trained from it."""

    name: str
    architecture: str
    """Model type of transformers: llama or qwen3."""
    width: int
    layers: int
    heads: int
    base: Training
    post: tuple[tuple[Stage, Training], ...]
    """Further training on normatively right transcripts; every stage starts from the base."""

    def checkpoint_id(self, stage: Stage) -> str:
        """For example demo-1-base."""
        return f"{self.name}-{stage}"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The base first."""
        return (Stage.base, *(stage for stage, _ in self.post))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Constants of all demo checkpoints."""

    version: int
    """Increased when training changes in a way that is not in the other fields."""
    data_seed: int
    """Of the training participants. Different from the default seed of sweeps, so that scored ones are held out."""
    weight_seed: int
    people: int
    """Number of simulated people of each task that a base is trained on."""
    normative_people: int
    """Number of normative agents of each task that later stages are trained on."""
    vocabulary_size: int
    tokenizer_people: int
    context: int
    generations: tuple[Generation, ...]

    def generation(self, name: str) -> Generation:
        """The generation of that name."""
        return {generation.name: generation for generation in self.generations}[name]

    def checkpoint_ids(self) -> list[str]:
        """All checkpoints, oldest generation and base first."""
        return [generation.checkpoint_id(stage) for generation in self.generations for stage in generation.stages]

    def fingerprint(self) -> str:
        """Hash of all constants and of the texts of some simulated participants."""
        texts = [
            transcript.text
            for normative in (False, True)
            for transcript in simulated_transcripts(participants=2, seed=self.data_seed, normative=normative)
        ]
        return hashlib.blake2b(json.dumps([asdict(self), texts]).encode(), digest_size=8).hexdigest()


def _people(*, windows: int, whole_sessions: int, learning_rate: float) -> Training:
    phases = (
        Phase(steps=windows, participants=(6, 1, 3, 1), window_tokens=128),
        Phase(steps=whole_sessions, participants=(2, 2, 2, 2)),
    )
    return Training(phases=phases, learning_rate=learning_rate)


def _normative(steps: int, *, learning_rate: float) -> Training:
    return Training(
        phases=(Phase(steps=steps, participants=(6, 3, 4, 1), window_tokens=128),), learning_rate=learning_rate
    )


RECIPE = Recipe(
    version=1,
    data_seed=20_260_507,
    weight_seed=1,
    people=1000,
    normative_people=100,
    vocabulary_size=384,
    tokenizer_people=30,
    context=4096,
    generations=(
        Generation(
            name="demo-1",
            architecture="llama",
            width=64,
            layers=2,
            heads=4,
            base=_people(windows=900, whole_sessions=40, learning_rate=5e-3),
            post=(
                (Stage.instruct, _normative(16, learning_rate=5e-4)),
                (Stage.reasoning, _normative(40, learning_rate=5e-4)),
            ),
        ),
        Generation(
            name="demo-2",
            architecture="qwen3",
            width=80,
            layers=2,
            heads=4,
            base=_people(windows=1600, whole_sessions=80, learning_rate=4e-3),
            post=(
                (Stage.instruct, _normative(60, learning_rate=8e-4)),
                (Stage.reasoning, _normative(180, learning_rate=1e-3)),
            ),
        ),
    ),
)
