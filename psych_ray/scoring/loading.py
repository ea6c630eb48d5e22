"""Loads checkpoints as scorers: weights, tokenizer, engine and cut, with one base for all of its adapters.

The modules that this one combines raise CheckpointError where weights are not what the files describe. Does not depend
on clusters or on what is scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from psych_ray.checkpoints.cards import CONFIG
from psych_ray.checkpoints.find import Checkpoint, find_checkpoints, load_group
from psych_ray.checkpoints.hub import fetch
from psych_ray.checkpoints.model_config import read_config
from psych_ray.config import CheckpointCard, CheckpointsConfig, CheckpointSource, CutBy, EngineName, ScoringConfig
from psych_ray.errors import CheckpointError, UnsupportedError
from psych_ray.scoring.checks.self_check import self_check, sharded_self_check
from psych_ray.scoring.checks.shrunk_model import check_shrunk_model
from psych_ray.scoring.engines import onednn
from psych_ray.scoring.engines.base import Engine, TransformersEngine, WholeModelEngine
from psych_ray.scoring.engines.block_attention import attend
from psych_ray.scoring.engines.lora import AdapterEngine, SharedBase, require_adapter
from psych_ray.scoring.engines.onednn import OneDnnEngine
from psych_ray.scoring.engines.packed import PackedEngine
from psych_ray.scoring.engines.row_blocks import ROWS
from psych_ray.scoring.engines.sharded.process_group import Rank
from psych_ray.scoring.engines.sharded.tensor_parallel import TensorParallelEngine, load_tensor_parallel
from psych_ray.scoring.engines.sharded.zero import ZeroEngine, load_zero
from psych_ray.scoring.memory import LOADING_ADVICE, memory_errors
from psych_ray.scoring.models.load import load_model, loading_errors
from psych_ray.scoring.scorer import LanguageModelScorer, Truncation
from psych_ray.scoring.tokens.alignment import require_offsets
from psych_ray.scoring.tokens.chat_templates import template_of
from psych_ray.scoring.work import Work
from psych_ray.transcripts.conditions.authors import CUT_CHARACTERS

# With more rows, oneDNN's products are no faster.
_CPU_BATCH = 2048


def load_scorer(
    checkpoint: Checkpoint | Path | str,
    scoring: ScoringConfig | None = None,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> LanguageModelScorer:
    """Load a checkpoint, or the one in a directory, on this process's device.

    `trust_remote_code`: run the modelling code in that directory; a `Checkpoint` says this itself.
    CheckpointError where it cannot be loaded whole.
    """
    if not isinstance(checkpoint, Checkpoint):
        config = CheckpointsConfig(
            source=CheckpointSource.local,
            paths=[str(checkpoint)],
            allow_pickle=allow_pickle,
            trust_remote_code=[str(checkpoint)] if trust_remote_code else [],
        )
        (checkpoint,) = find_checkpoints(config)
    return load_scorers([checkpoint], scoring, allow_pickle=allow_pickle)[checkpoint.slug]


def load_scorers(
    checkpoints: Sequence[Checkpoint],
    scoring: ScoringConfig | None = None,
    *,
    allow_pickle: bool = False,
    rank: Rank | None = None,
    pass_share: float = 1.0,
    work: Work | None = None,
) -> dict[str, LanguageModelScorer]:
    """Load checkpoints on this process's device, by slug; a base and its adapters share one copy of the weights.

    For a deepspeed engine this process is the `rank` of a gang, all ranks of which call this and hold one checkpoint
    together; `pass_share` is the fraction of the default tokens per forward pass that they run. `work` is what the
    loading, and later the scoring, is counted in.
    CheckpointError where one of them cannot be loaded whole; InsufficientMemoryError, on the rank that runs out of
    memory and at once, where one does not fit.
    """
    scoring, work = scoring or ScoringConfig(), work or Work()
    if rank is not None:
        (checkpoint,) = checkpoints
        with _loading_memory_errors(checkpoint), work.of_loading():
            scorer = _load_sharded(checkpoint, scoring, rank, pass_share, work, allow_pickle=allow_pickle)
            return {checkpoint.slug: scorer}
    if scoring.engine not in {EngineName.auto, EngineName.transformers}:
        raise UnsupportedError(f"scoring.engine={scoring.engine} needs the ranks that psych-ray sweep starts")
    groups: dict[str, list[Checkpoint]] = {}
    for checkpoint in checkpoints:
        groups.setdefault(load_group(checkpoint), []).append(checkpoint)
    scorers: dict[str, LanguageModelScorer] = {}
    for members in groups.values():
        with _loading_memory_errors(members[0]), work.of_loading():
            scorers |= _load_group(members, scoring, work, allow_pickle=allow_pickle)
    return scorers


def _loading_memory_errors(checkpoint: Checkpoint) -> AbstractContextManager[None]:
    return memory_errors(f"{checkpoint.card.id}: out of memory while loading", LOADING_ADVICE)


def _load_group(
    members: Sequence[Checkpoint], scoring: ScoringConfig, work: Work, *, allow_pickle: bool
) -> dict[str, LanguageModelScorer]:
    base = members[0].base_of_adapter or members[0]
    directories = {member.slug: _directory(member, work, allow_pickle=allow_pickle) for member in members}
    adapters = [member for member in members if member.base_of_adapter]
    for member in adapters:  # before the base is loaded, which takes minutes
        require_adapter(member.card, directories[member.slug], allow_pickle=allow_pickle)
    base_directory = directories.get(base.slug) or _directory(base, work, allow_pickle=allow_pickle)
    model, config = load_model(base.card, base_directory, scoring, allow_pickle=allow_pickle)
    work.count_layers(model)
    cut = _cut(scoring, config)
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    base_tokenizer = _tokenizer(base.card, base_directory, config, rows)
    # Before any adapter is added: the base's engine does not depend on whether it shares its weights.
    engine, checks = self_check(
        model, base_tokenizer, candidate_engines(model), name=base.card.id, directory=base_directory, context=cut.tokens
    )
    engines = {base.slug: engine}
    if adapters:
        shared = SharedBase(model)
        engines = {base.slug: AdapterEngine(engine, shared, None)}
        for member in adapters:
            name = shared.add(member.card, directories[member.slug])
            own_engine = WholeModelEngine(model) if shared.changes_head(name) else engine
            engines[member.slug] = AdapterEngine(own_engine, shared, name)
    scorers = {}
    for member in members:
        own = member.base_of_adapter and (directories[member.slug] / "tokenizer.json").is_file()
        tokenizer = _tokenizer(member.card, directories[member.slug], config, rows) if own else base_tokenizer
        scorers[member.slug] = LanguageModelScorer(
            engines[member.slug],
            tokenizer,
            cut,
            template=template_of(tokenizer),
            parity=scoring.parity,
            calibration=scoring.calibration,
            checks=checks,
            work=work,
        )
    return scorers


def _load_sharded(
    checkpoint: Checkpoint, scoring: ScoringConfig, rank: Rank, pass_share: float, work: Work, *, allow_pickle: bool
) -> LanguageModelScorer:
    card = checkpoint.card
    directory = _directory(checkpoint, work, allow_pickle=allow_pickle)
    with loading_errors(card, directory):
        whole_config = AutoConfig.from_pretrained(directory, trust_remote_code=card.trust_remote_code)
    for load in sharded_loaders(scoring, rank, allow_pickle=allow_pickle):
        shrunk = check_shrunk_model(lambda card, directory: load(card, directory)[0], whole_config, rank, scoring)  # noqa: B023
        if shrunk.passed:
            break
    else:
        raise CheckpointError(f"{card.id} fails its self-check: {shrunk.name}: {shrunk.detail}")
    engine, config = load(card, directory)
    work.count_layers(engine.module, ranks=rank.world_size if isinstance(engine, ZeroEngine) else 1)
    engine.pass_tokens = max(1, int(engine.pass_tokens * pass_share))
    cut = _cut(scoring, config)
    tokenizer = _tokenizer(card, directory, config, config.get_text_config(decoder=True).vocab_size)
    checks = sharded_self_check(engine, tokenizer, shrunk, name=card.id, context=cut.tokens)
    return LanguageModelScorer(
        engine,
        tokenizer,
        cut,
        template=template_of(tokenizer),
        parity=scoring.parity,
        calibration=scoring.calibration,
        checks=checks,
        work=work,
    )


ShardedLoader = Callable[[CheckpointCard, Path], tuple[TensorParallelEngine | ZeroEngine, PreTrainedConfig]]


def sharded_loaders(scoring: ScoringConfig, rank: Rank, *, allow_pickle: bool) -> list[ShardedLoader]:
    """Functions that load a checkpoint on these ranks with the chosen engine, the fastest first."""
    if scoring.engine == EngineName.deepspeed_tp:
        return [partial(load_tensor_parallel, scoring=scoring, rank=rank, allow_pickle=allow_pickle)]
    nvme = Path(scoring.nvme) if scoring.nvme else None
    load = partial(load_zero, scoring=scoring, rank=rank, allow_pickle=allow_pickle, nvme=nvme)
    return [load, partial(load, packed=False)]


def candidate_engines(model: PreTrainedModel) -> dict[str, Callable[[], Engine]]:
    """Functions that build an engine for this model, by name, the fastest first."""
    plain = TransformersEngine(model)
    if model.device.type == "cuda" and model.dtype in (torch.bfloat16, torch.float16):  # the dtypes of its kernels
        return {PackedEngine.name: lambda: PackedEngine(model), plain.name: lambda: plain}
    if model.device.type == "cpu" and model.dtype == torch.float32 and onednn.available():
        return {
            f"{PackedEngine.name}, oneDNN": lambda: OneDnnEngine(
                PackedEngine(model, batch_tokens=_CPU_BATCH, attend=attend, layer_rows=ROWS)
            ),
            f"{plain.name}, oneDNN": lambda: OneDnnEngine(plain),
            plain.name: lambda: plain,
        }
    return {plain.name: lambda: plain}


def _directory(checkpoint: Checkpoint, work: Work, *, allow_pickle: bool) -> Path:
    card, path = checkpoint.card, checkpoint.copy or checkpoint.card.path
    directory = Path(path) if path else fetch(card, allow_pickle=allow_pickle, on_bytes=work.add)
    if (directory / CONFIG).is_file():
        read_config(directory / CONFIG, code_allowed=card.trust_remote_code)
    return directory


def _tokenizer(card: CheckpointCard, directory: Path, config: PreTrainedConfig, rows: int) -> PreTrainedTokenizerBase:
    """Load a tokenizer that reports offsets and belongs to the weights; CheckpointError for any other."""
    with loading_errors(card, directory):
        tokenizer: object = AutoTokenizer.from_pretrained(
            directory, config=config, trust_remote_code=card.trust_remote_code
        )
        if isinstance(tokenizer, PreTrainedTokenizerBase):
            tokenizer("a")  # some values of its configuration are used only then
    if not isinstance(tokenizer, PreTrainedTokenizerBase):  # tokenizer_class may name any class of transformers
        raise CheckpointError(f"{card.id}: the tokenizer_class of its files is no tokenizer; fetch them again")
    require_offsets(tokenizer, card.id)
    if len(tokenizer) > rows:
        raise CheckpointError(f"{card.id}: its tokenizer has {len(tokenizer)} tokens, its weights {rows}: not a pair")
    return tokenizer


def _cut(scoring: ScoringConfig, config: PreTrainedConfig) -> Truncation:
    """Where transcripts are truncated for this checkpoint; never beyond its context, whatever the setting.

    With `parity` the conditions truncate, as the study's authors did, and nothing else does.
    """
    if scoring.parity:
        return Truncation()
    text_config = config.get_text_config(decoder=True)
    context = getattr(text_config, "max_position_embeddings", None)
    if scoring.cut == CutBy.characters:
        return Truncation(tokens=context, characters=scoring.cut_at or CUT_CHARACTERS)
    limits = [limit for limit in (scoring.cut_at, context) if limit is not None]
    return Truncation(tokens=min(limits, default=None))
