"""Running out of memory is an error that may be retried, wherever it happens and whatever the library raises."""

from __future__ import annotations

import errno

import numpy as np
import pytest
import torch
import transformers
from support_gangs import EXPERTS, tiny

from psych_ray.config import CheckpointCard, ScoringConfig
from psych_ray.errors import CheckpointError, FailureKind, InsufficientMemoryError
from psych_ray.scoring.checks.self_check import self_check
from psych_ray.scoring.checks.shrunk_model import check_shrunk_model
from psych_ray.scoring.engines.base import Query, TransformersEngine, WholeModelEngine
from psych_ray.scoring.engines.sharded.process_group import Rank
from psych_ray.scoring.loading import load_scorer
from psych_ray.scoring.memory import memory_errors
from psych_ray.scoring.models.load import load_model

SCORING = ScoringConfig(device="cpu")
CPU_ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate"
)
FORMS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of 1 GiB"),
    MemoryError(),
    RuntimeError(CPU_ALLOCATOR),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]


def raising(error: Exception):
    def raises(*args, **kwargs):
        raise error

    return raises


@pytest.fixture
def checkpoint(tiny_checkpoint, byte_tokenizer_directory):
    return tiny_checkpoint("Llama", byte_tokenizer_directory)


@pytest.mark.parametrize("error", FORMS, ids=str)
def test_while_loading_it_is_no_fault_of_the_checkpoint(checkpoint, monkeypatch, error):
    monkeypatch.setattr(transformers.LlamaForCausalLM, "from_pretrained", raising(error))
    with pytest.raises(InsufficientMemoryError, match=r"^tiny-llama-bytes: out of memory while loading .*; .*bfloat16"):
        load_scorer(checkpoint, SCORING)


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), OSError(errno.ENOENT, "gone")], ids=str)
def test_other_errors_while_loading_are(checkpoint, monkeypatch, error):
    monkeypatch.setattr(transformers.LlamaForCausalLM, "from_pretrained", raising(error))
    with pytest.raises(CheckpointError, match="cannot be loaded from"):
        load_scorer(checkpoint, SCORING)


def test_while_transformers_converts_weights_it_is_seen_as_well(tmp_path, monkeypatch):
    """Transformers collects what happens there, and raises another error that does not say it."""
    tiny("Qwen3Moe", **EXPERTS).save_pretrained(tmp_path)
    monkeypatch.setattr(torch, "stack", raising(torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(InsufficientMemoryError, match=r"^experts: out of memory while loading"):
        load_model(CheckpointCard(id="experts"), tmp_path, SCORING, allow_pickle=False)


@pytest.mark.parametrize("error", FORMS, ids=str)
def test_the_shrunk_model_does_not_take_it_for_a_wrong_engine(error):
    """Without `load_scorers` around it, what a library raises passes through."""
    with pytest.raises(InsufficientMemoryError), memory_errors("here", "do something"):
        check_shrunk_model(raising(error), transformers.LlamaConfig(), Rank(0, 1), SCORING)


@pytest.mark.parametrize("error", FORMS, ids=str)
def test_the_self_check_does_not_choose_a_slower_engine_for_it(checkpoint, error):
    model, _ = load_model(CheckpointCard(id="a"), checkpoint, SCORING, allow_pickle=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    engines = {"fails": raising(error), "transformers": lambda: TransformersEngine(model)}
    with pytest.raises(InsufficientMemoryError), memory_errors("here", "do something"):
        self_check(model, tokenizer, engines)


@pytest.mark.parametrize("engine", [TransformersEngine, WholeModelEngine])
def test_a_pass_that_does_not_fit_says_how_many_tokens_it_has(engine, monkeypatch):
    model = tiny("Llama")
    built = engine(model)
    monkeypatch.setattr(model.model.norm, "forward", raising(FORMS[0]))
    with pytest.raises(InsufficientMemoryError, match=r"of 7 tokens; .*scoring\.cut_at") as caught:
        built.score([Query(np.arange(8), np.array([3, 7]))])
    assert caught.value.kind is FailureKind.out_of_memory
    assert "\n" not in str(caught.value)


def test_what_is_something_else_passes_through():
    with pytest.raises(KeyError, match="else"), memory_errors("here", "do something"):
        raise KeyError("else")
