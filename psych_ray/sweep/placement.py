"""Which engine holds a checkpoint, on how many ranks, and why: from its sizes and the cluster's. Pure.

What is chosen never changes a score, so it is not part of a sweep's identity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from psych_ray.checkpoints.shape import CheckpointShape
from psych_ray.config import Dtype, EngineName, ScoringConfig
from psych_ray.errors import CheckpointError
from psych_ray.scoring.engines.packs import PASS_TOKENS
from psych_ray.sweep.cluster_shape import ClusterShape
from psych_ray.sweep.cost import tokens_at_most

_USABLE = 0.95
"""Share of a memory that weights and hidden states can take."""
_FIXED_BYTES = 1.5e9
"""A GPU's driver, the libraries and a chunk of logits, whatever is read."""
_BYTES = {Dtype.float32: 4.0, Dtype.bfloat16: 2.0}
_QUANTIZED_BYTES = {4: 0.6, 8: 1.1}
_RANKS_WITHOUT_GPUS = 2


@dataclass(frozen=True, slots=True)
class Placement:
    """How one set of weights is held."""

    engine: EngineName
    ranks: int
    """Processes that hold it together, each with a GPU of its own where there are GPUs."""
    reason: str


@dataclass(frozen=True, slots=True)
class Unfit:
    """Why weights have no placement."""

    reason: str
    """The same for all that are refused for it: without name and size."""
    weights_bytes: float | None = None
    """Their size, where it is the reason."""
    smallest: str = ""
    """The smallest memory that would do, where memory is the reason."""

    @property
    def size(self) -> str:
        """Empty where it is not the reason."""
        return "" if self.weights_bytes is None else f"{self.weights_bytes / 1e9:,.1f} GB"

    def __str__(self) -> str:
        """The reason with the size, as it is told of one checkpoint."""
        return f"its {self.size} of weights {self.reason}" if self.size else self.reason


class UnfitError(CheckpointError):
    """A checkpoint that has no placement."""

    def __init__(self, name: str, unfit: Unfit) -> None:
        super().__init__(f"{name}: {unfit}")
        self.unfit = unfit


@dataclass(frozen=True, slots=True)
class _Need:
    """Memory that a checkpoint takes while it reads, bytes."""

    weights: float
    tokens: int
    """Read in one forward pass."""
    whole: float
    """Hidden states per token that each rank holds whole."""
    sharded: float
    """Hidden states per token within heads and MLPs, of which a rank holds its shard."""

    @classmethod
    def of(cls, shape: CheckpointShape, scoring: ScoringConfig, longest: int) -> _Need:
        """Estimate it; `longest`: characters of the longest transcript.

        Per layer and token: the residual stream before and after, the norm's output and what leaves attention;
        queries and their output; of the MLP the gate, its activation, the values and their product.
        """
        each = _BYTES[scoring.dtype]
        width, inner = shape.hidden_size or 0, shape.intermediate_size or 0
        return cls(
            weights=shape.n_parameters * (_QUANTIZED_BYTES[shape.bits] if shape.bits else each),
            tokens=max(PASS_TOKENS, tokens_at_most(longest, scoring, shape.context)),
            whole=4 * width * each,
            sharded=(2 * width + 4 * inner) * each,
        )

    def per_rank(self, ranks: int) -> float:
        """Memory of one of so many ranks."""
        return self.weights / ranks + self.tokens * (self.whole + self.sharded / ranks) + _FIXED_BYTES

    def fits(self, ranks: int, gpu_memory_bytes: float) -> bool:
        """Whether so many GPUs hold it together."""
        return self.per_rank(ranks) <= _USABLE * gpu_memory_bytes


@dataclass(frozen=True, slots=True)
class Placer:
    """Chooses engine and ranks of checkpoints on one cluster."""

    cluster: ClusterShape
    scoring: ScoringConfig
    ranks: int | None = None
    """`cluster.ranks`; None: as few as hold the checkpoint."""
    across_nodes: bool = False
    longest: int = 0
    """Characters of the longest transcript."""

    def choose_placement(self, name: str, shape: CheckpointShape) -> Placement:
        """Choose engine and ranks of the checkpoint `name`.

        UnfitError where the engine of the configuration cannot hold it, and where nothing on this cluster can.
        """
        placement = self._choose(name, shape)
        self._require_memory(name, shape, placement)
        if self.ranks is not None and placement.ranks != self.ranks and shape.n_parameters:
            return replace(placement, reason=f"{placement.reason}; cluster.ranks={self.ranks} is not used")
        return placement

    def _choose(self, name: str, shape: CheckpointShape) -> Placement:
        engine = self.scoring.engine
        if not shape.n_parameters:
            return Placement(EngineName.transformers, 1, "no weights")
        if engine == EngineName.transformers:
            return Placement(engine, 1, "configured")
        if engine != EngineName.auto:
            return self._configured(name, shape)
        if not self.cluster.gpus:
            return Placement(EngineName.transformers, 1, "no GPUs")
        if not self.cluster.gpu_memory_bytes:
            reason = "the memory of the GPUs is not known; set cluster.gpu_memory_gb"
            return Placement(EngineName.transformers, 1, reason)
        return self._fitting(shape)

    def _smallest_memory(self, shape: CheckpointShape, need: _Need) -> str:
        host = f"{_whole_gb(need.weights)} of host memory"
        if not self.cluster.gpus or self.scoring.device == "cpu":
            return host
        n = max(shape.rank_counts(self._most_ranks), default=1)
        if shape.only_transformers or self.scoring.engine == EngineName.transformers:
            n = 1
        gpus = f"{n} GPUs" if n > 1 else "one GPU"
        gpus = f"{gpus} of {_whole_gb(need.per_rank(n))}"
        in_host = self.scoring.engine in {EngineName.auto, EngineName.deepspeed_zero} and not shape.only_transformers
        return f"{gpus}, or {host}" if in_host else gpus

    @property
    def _most_ranks(self) -> int:
        return self.ranks or (self.cluster.gpus if self.across_nodes else self.cluster.gpus_per_node)

    def _configured(self, name: str, shape: CheckpointShape) -> Placement:
        engine, ranks = self.scoring.engine, self.ranks
        if shape.only_transformers:
            raise UnfitError(name, Unfit(f"{shape.only_transformers}, which scoring.engine={engine} cannot hold"))
        if engine == EngineName.deepspeed_zero:
            return Placement(engine, ranks or max(1, self.cluster.gpus_per_node), "configured")
        if ranks is None:
            counts = [n for n in shape.rank_counts(self._most_ranks or _RANKS_WITHOUT_GPUS) if n > 1]
            memory = self.cluster.gpu_memory_bytes
            need = _Need.of(shape, self.scoring, self.longest)
            fitting = [n for n in counts if not memory or need.fits(n, memory)]
            ranks = min(fitting or counts[-1:], default=2)
        if obstacle := shape.tensor_parallel_obstacle(ranks):
            raise UnfitError(name, Unfit(obstacle))
        return Placement(engine, ranks, "configured")

    def _fitting(self, shape: CheckpointShape) -> Placement:
        """Take the first that fits: one GPU, some GPUs of a node together, weights beside the GPUs."""
        need = _Need.of(shape, self.scoring, self.longest)
        memory = self.cluster.gpu_memory_bytes
        size = f"{need.weights / 1e9:,.1f} GB of weights, {need.tokens:,} tokens per pass,"
        one = f"{memory / 1e9:.3g} GB"
        if need.fits(1, memory):
            return Placement(EngineName.transformers, 1, f"{size} fit one GPU of {one}")
        if shape.only_transformers:
            reason = f"{size} may not fit one GPU of {one}, but {shape.only_transformers}"
            return Placement(EngineName.transformers, 1, reason)
        most = self._most_ranks
        counts = [n for n in shape.rank_counts(most) if n == self.ranks or (self.ranks is None and n > 1)]
        for n in counts:
            if need.fits(n, memory):
                fewer = "" if self.ranks else ", not fewer"
                return Placement(EngineName.deepspeed_tp, n, f"{size} fit {n} GPUs of {one} together{fewer}")
        unfit = f"no number of GPUs of {one} on a node"
        if not counts and most > 1:
            unfit = f"no GPU of {one}, and {self.ranks or f'2 to {most}'} ranks cannot shard them"
        return Placement(EngineName.deepspeed_zero, most, f"{size} fit {unfit}; kept in the node's memory")

    def _require_memory(self, name: str, shape: CheckpointShape, placement: Placement) -> None:
        """Raise UnfitError for weights in memory that no node has, or no GPU where one must hold them."""
        on_gpu = self.cluster.gpus > 0 and self.scoring.device != "cpu"
        is_zero = placement.engine == EngineName.deepspeed_zero
        in_host_memory = self.scoring.nvme is None if is_zero else not on_gpu
        need = _Need.of(shape, self.scoring, self.longest)
        nodes = self.cluster.usable_nodes if self.across_nodes else ()
        memory = max(self.cluster.memory_bytes, sum(node.memory_bytes for node in nodes))
        gpu_memory = self.cluster.gpu_memory_bytes
        one_gpu = on_gpu and placement.engine == EngineName.transformers
        too_large = in_host_memory and memory and need.weights > _USABLE * memory
        if too_large or (one_gpu and gpu_memory and need.weights > gpu_memory):
            reason = (
                f"fit nowhere on this cluster ({self.cluster}"
                + (f", {memory / 1e9:,.0f} GB of host memory" if memory else "")
                + "); more or larger GPUs, "
                + ("scoring.dtype=bfloat16, " if self.scoring.dtype == Dtype.float32 and not shape.bits else "")
                + "scoring.nvme=DIR with scoring.engine=deepspeed_zero, or exclude it with checkpoints.only"
            )
            raise UnfitError(name, Unfit(reason, need.weights, self._smallest_memory(shape, need)))


def _whole_gb(used_bytes: float) -> str:
    """A memory of which so much can be used."""
    return f"{math.ceil(used_bytes / _USABLE / 1e9):,} GB"
