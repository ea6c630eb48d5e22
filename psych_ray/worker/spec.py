"""What a replica is made from, and its reports besides those of units. Does not import torch or Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from psych_ray.checkpoints.disk import WeightsDisk
from psych_ray.checkpoints.find import Checkpoint
from psych_ray.config import CutBy, Dtype, EngineName, ScoringConfig
from psych_ray.results.schema import CheckpointFacts, ScoringIdentity
from psych_ray.scoring.scored import Check


@dataclass(frozen=True, kw_only=True)
class ReplicaSpec:
    """Everything that the ranks of a replica need, the same for all of them and on any node."""

    checkpoints: tuple[Checkpoint, ...]
    """One checkpoint, or several that share their weights: a base and its adapters."""
    facts: Mapping[str, CheckpointFacts]
    """By slug; written to the footers of parts."""
    identity: ScoringIdentity
    """The settings that change scores."""
    calibration: bool = True
    """As in `ScoringConfig`: keep more than the scores."""
    engine: EngineName
    device: str = "auto"
    """auto (a GPU where the process has one), cpu or cuda."""
    device_name: str | None = None
    """What all its ranks run on together, as footers have it, for example `2 GPUs`; None: not known."""
    nvme: str | None = None
    """For deepspeed_zero: a directory on a node's own disk to keep the weights in; None: its memory."""
    disk: str | None = None
    """Directory on a node's own disk to which the weights are fetched before they are loaded; None: not fetched."""
    disk_gb: float | None = None
    """Limit of what is kept there, 1e9 bytes; None: 90 % of what is free."""
    results_root: str
    """Location of the results store, as `open_store` takes it."""
    allow_pickle: bool = False
    threads: int | None = None
    """CPU threads for torch; None: torch's default."""
    ranks: int = 1
    """Processes that hold the weights together."""
    stall_seconds: float = 600.0
    """Time-out of a collective: how long a rank may keep the others waiting."""
    pass_share: float = 1.0
    """Fraction of the default number of tokens per pass; below 1 after a rank ran out of memory."""
    shares_process: bool = False
    """Whether its process may hold other such weights before and after it: for small ones most of the time of a replica
    is that of a new process that imports torch and transformers."""

    @property
    def of_references(self) -> bool:
        """Whether it holds no weights and needs no GPU."""
        return self.checkpoints[0].reference is not None

    @property
    def needs_process_group(self) -> bool:
        """Whether its ranks must be joined before they load, even a single one."""
        return self.engine in {EngineName.deepspeed_tp, EngineName.deepspeed_zero}

    @property
    def weights_disk(self) -> WeightsDisk | None:
        """The node's own disk that the weights are fetched to."""
        if self.disk is None:
            return None
        return WeightsDisk(self.disk, self.disk_gb, allow_pickle=self.allow_pickle)

    @property
    def scoring(self) -> ScoringConfig:
        """The settings as `load_scorers` takes them."""
        return ScoringConfig(
            engine=self.engine,
            dtype=Dtype(self.identity.dtype),
            cut=CutBy(self.identity.cut),
            cut_at=self.identity.cut_at,
            parity=self.identity.parity,
            calibration=self.calibration,
            device=self.device,
            nvme=self.nvme,
        )


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What a replica reports once its weights are loaded."""

    seconds: float
    notes: tuple[str, ...] = ()
    """One line for each check that an engine did not pass, and the engine used instead."""


@dataclass(frozen=True, kw_only=True)
class CheckpointReport:
    """What the self-check of a checkpoint found, and how transcripts align with its tokens."""

    checkpoint: str
    """Slug."""
    engine: str
    checks: tuple[Check, ...]
    responses: dict[str, int]
    """By study: responses that were aligned."""
    straddling_edges: dict[str, int]
    """By study: edges of responses that are inside a token."""
