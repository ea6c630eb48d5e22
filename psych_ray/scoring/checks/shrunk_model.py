"""Compares a sharded engine with the reference on a shrunk model: random, small, of the same architecture.

Weights too large for one device cannot be scored by the reference. So a random checkpoint with few layers and small
widths is made, which keeps what decides how weights are sharded and what the layers compute, and is loaded both by the
engine and by the reference. Does not depend on the engine, a tokenizer or the checkpoint's weights.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed
from transformers import PreTrainedConfig, PreTrainedModel

from psych_ray.compat.torch import is_out_of_memory
from psych_ray.config import CheckpointCard, ScoringConfig
from psych_ray.errors import InsufficientMemoryError, PsychRayError, first_line
from psych_ray.scoring.checks.self_check import BOUND_NATS
from psych_ray.scoring.engines.base import Engine, Query, TokenScores, WholeModelEngine
from psych_ray.scoring.engines.sharded.process_group import Rank
from psych_ray.scoring.models.load import load_model
from psych_ray.scoring.models.text_model import text_model
from psych_ray.scoring.scored import Check
from psych_ray.temporary import temporary_directory

_LENGTHS = (160, 5, 97, 2, 48, 131, 11)
"""Of the sequences: longer than the window, one scored token, and a number that few numbers of ranks divide."""

_WINDOW, _LEAST_VOCABULARY, _LEAST_WIDTH, _HEAD_WIDTH, _MOST_EXPERTS = 32, 512, 64, 32, 32

_WIDTHS = ("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size", "intermediate_size_mlp")
_DEPTHS = ("num_hidden_layers", "depth", "num_layers", "encoder_layers", "num_global_layers")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_WINDOWS = ("sliding_window", "attention_chunk_size")

_FAILURES = (
    PsychRayError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


def check_shrunk_model(
    load: Callable[[CheckpointCard, Path], Engine],
    config: PreTrainedConfig,
    rank: Rank,
    scoring: ScoringConfig | None = None,
) -> Check:
    """Load a shrunk model of the kind of `config` with `load` and for the reference, and compare their scores.

    All ranks call it together, and return the same check. Nothing of the model remains, in memory or on disk; an engine
    that has a `close` is closed. `scoring`: device and dtype.

    Running out of memory is not a failed check and raises, on the rank that ran out and at once: the others may be in a
    collective that it has left, so that it cannot exchange results with them.
    """
    scoring = scoring or ScoringConfig()
    bound = BOUND_NATS[getattr(torch, scoring.dtype)]
    name = "the sharded engine matches the reference on a shrunk model"
    try:
        with _shrunk_checkpoint(config, rank, getattr(torch, scoring.dtype)) as directory:
            card = CheckpointCard(id=f"shrunk {config.model_type}", path=str(directory))
            queries = _queries(_vocabulary(config, rank.world_size))
            expected = _reference_scores(card, directory, scoring, queries)
            found, name = _scores(load, card, directory, queries)
        check = _compare(name, found, expected, bound)
    except InsufficientMemoryError:
        raise
    except _FAILURES as error:
        if is_out_of_memory(error):
            raise
        check = Check(name, passed=False, detail=first_line(error))
    finally:
        gc.collect()
    return _first_failure(check, rank)


def _reference_scores(
    card: CheckpointCard, directory: Path, scoring: ScoringConfig, queries: Sequence[Query]
) -> list[Any]:
    model, _ = load_model(card, directory, scoring, allow_pickle=False)
    return WholeModelEngine(model).score(queries)


def _scores(
    load: Callable[[CheckpointCard, Path], Engine], card: CheckpointCard, directory: Path, queries: Sequence[Query]
) -> tuple[list[TokenScores], str]:
    engine = load(card, directory)
    try:
        return engine.score(queries), f"{engine.name} matches the reference on a shrunk model"
    finally:
        getattr(engine, "close", lambda: None)()


def _compare(name: str, found: Sequence[TokenScores], expected: Sequence[TokenScores], bound: float) -> Check:
    found_R, expected_R = (np.concatenate([one.nll_R for one in scores]) for scores in (found, expected))
    if not (np.isfinite(expected_R).all() and np.isfinite(found_R).all()):
        return Check(name, passed=False, detail="likelihoods are not finite")
    differences = np.abs(found_R - expected_R)
    mean, largest = float(differences.mean()), float(differences.max())
    return Check(name, mean <= bound, f"{mean:.1e} nats per token, at most {largest:.1e} (bound {bound:g})")


def _first_failure(check: Check, rank: Rank) -> Check:
    """The check of the first rank on which it failed, else of rank 0."""
    if rank.world_size == 1:
        return check
    checks = [check] * rank.world_size
    distributed.all_gather_object(checks, check)
    return next((one for one in checks if not one.passed), checks[0])


def _queries(vocabulary: int) -> list[Query]:
    rng = np.random.default_rng(0)
    return [Query(rng.integers(0, vocabulary, length), np.arange(1, length)) for length in _LENGTHS]


@contextmanager
def _shrunk_checkpoint(config: PreTrainedConfig, rank: Rank, dtype: torch.dtype) -> Iterator[Path]:
    """Directory of a shrunk checkpoint, in the hub's layout; one per rank, as ranks may not share a disk.

    Rank 0 draws the weights and sends the files. RuntimeError on all ranks where it cannot be made.
    """
    with temporary_directory() as directory:
        sent: list[Any] = [None]
        if rank.is_first:
            try:
                small = shrunk_config(config, rank.world_size)
                model: Any = _random_model(small)
                model.to(dtype).save_pretrained(directory)
                small.save_pretrained(directory)  # replaces that of the text model, which may lack its whole
                sent = [{path.name: path.read_bytes() for path in directory.iterdir()} if rank.world_size > 1 else {}]
            except Exception as error:  # noqa: BLE001  whatever it is, the other ranks wait for a broadcast
                sent = [first_line(error)]
        if rank.world_size > 1:
            distributed.broadcast_object_list(sent, src=0)
        if isinstance(sent[0], str):
            raise RuntimeError(f"no shrunk model of {config.model_type} can be made: {sent[0]}")  # noqa: TRY004
        for name, content in sent[0].items():
            (directory / name).write_bytes(content)
        yield directory


def _random_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Draw weights with which every layer, norm and bias matters, and predictions are far from uniform."""
    model_class, model_config = text_model(config)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(201)
        model = model_class(model_config)
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=2 * weight.shape[-1] ** -0.5)
            else:  # they start at 0 or 1, which would hide errors, also in which part a rank holds
                weight.add_(torch.randn_like(weight), alpha=0.3)
    return model


def shrunk_config(config: PreTrainedConfig, n_ranks: int) -> PreTrainedConfig:
    """Make the configuration of a small model of the same kind.

    Kept: each kind of layer, heads that share keys, whether heads divide over ranks, experts, tied head, positions,
    windows (shorter), scales and caps. AttributeError where its layers or heads have other names.
    """
    small = copy.deepcopy(config)
    text = small.get_text_config(decoder=True)
    if text is not small:
        _shrink_towers(small, text)
    for part in (small, text):
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    _shrink_layers(text)
    _shrink_widths(text, n_ranks)
    text.vocab_size = _vocabulary(config, n_ranks)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if isinstance(known := getattr(text, name, None), int) and known >= text.vocab_size:
            setattr(text, name, 0)
    for name in _WINDOWS:
        if getattr(text, name, None):
            setattr(text, name, min(getattr(text, name), _WINDOW))
    return small


def _vocabulary(config: PreTrainedConfig, n_ranks: int) -> int:
    """Size of the vocabulary, with the same remainder over the ranks as that of the checkpoint."""
    whole: int = config.get_text_config(decoder=True).vocab_size
    return min(whole, _LEAST_VOCABULARY + (whole - _LEAST_VOCABULARY) % n_ranks)


def _shrink_layers(text: Any) -> None:
    """Keep one layer of each kind, at least two, and the entries of lists by layer that belong to them."""
    n_layers = text.num_hidden_layers
    listed = {
        name: list(values)
        for name, values in text.to_dict().items()
        if isinstance(values, list | tuple) and len(values) == n_layers > 1 and list(values) != list(range(n_layers))
    }
    kinds = list(zip(*listed.values(), strict=True)) or [()] * n_layers
    first = {str(kind): index for index, kind in reversed(list(enumerate(kinds)))}
    kept = sorted({*first.values()} | ({0, 1} if len(first) == 1 and n_layers > 1 else set()))
    text.num_hidden_layers = len(kept)
    for name, values in listed.items():
        setattr(text, name, [values[index] for index in kept])
    # settings that count layers instead: one dense layer, then experts
    if getattr(text, "first_k_dense_replace", None):
        text.first_k_dense_replace = 1
    for name, none in (("mlp_only_layers", []), ("num_nextn_predict_layers", 0), ("num_kv_shared_layers", 0)):
        if getattr(text, name, None):
            setattr(text, name, none)


def _shrink_widths(text: Any, n_ranks: int) -> None:
    heads, width = text.num_attention_heads, text.hidden_size
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    fewer = min(key_heads, max(2, n_ranks)) if key_heads % n_ranks == 0 else key_heads
    if getattr(text, "num_key_value_heads", None):
        text.num_key_value_heads = fewer
    text.num_attention_heads = n_heads = fewer * (heads // key_heads)
    head_width = getattr(text, "head_dim", None) or width // heads
    if head_width * heads != width:  # the two widths are independent
        text.hidden_size = n_heads * max(2, _LEAST_WIDTH // n_heads)
    else:
        head_width = _shrink_head_width(text, head_width)
        text.hidden_size = n_heads * head_width
        if getattr(text, "head_dim", None):
            text.head_dim = head_width
    for name in _WIDTHS:
        if getattr(text, name, None):
            setattr(text, name, _LEAST_WIDTH * n_ranks)
    for name in _EXPERTS:
        if isinstance(experts := getattr(text, name, None), int):
            setattr(text, name, min(experts, _MOST_EXPERTS))


def _shrink_head_width(text: Any, head_width: int) -> int:
    """Shrink the sections of rotary positions; returns the width of a head, unchanged where a list requires it."""
    positions = getattr(text, "rope_parameters", None) or {}
    listed = {name: values for name, values in positions.items() if isinstance(values, list)}
    sections = listed.pop("mrope_section", [])
    small = min(head_width, _HEAD_WIDTH)
    if listed or any(n * small % head_width for n in sections):
        return head_width
    if sections:
        positions["mrope_section"] = [n * small // head_width for n in sections]
    return small


def _shrink_towers(whole: Any, text: Any) -> None:
    """Shrink the towers for images and sound, which are built and then removed."""
    for part in vars(whole).values():
        if isinstance(part, PreTrainedConfig) and part is not text:
            for name in _DEPTHS:
                if getattr(part, name, None):
                    setattr(part, name, 1)
            if getattr(part, "deepstack_visual_indexes", None):
                part.deepstack_visual_indexes = [0]
