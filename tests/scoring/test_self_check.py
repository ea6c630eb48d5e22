"""The self-check fails for what would give wrong scores: each fault is made on purpose."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from support_packing import slow_attention
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer

from psych_ray.errors import CheckpointError
from psych_ray.scoring.checks.self_check import self_check
from psych_ray.scoring.engines import block_attention, onednn, packed_attention
from psych_ray.scoring.engines.base import TransformersEngine, WholeModelEngine
from psych_ray.scoring.engines.packed import PackedEngine
from psych_ray.scoring.engines.row_blocks import ROWS


@pytest.fixture
def loaded(tiny_checkpoint, byte_tokenizer_directory):
    directory = tiny_checkpoint("Qwen3", byte_tokenizer_directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(directory), directory


def candidates(model, attend=slow_attention):
    return {
        "transformers, packed": lambda: PackedEngine(model, attend=attend),
        "transformers": lambda: TransformersEngine(model),
    }


def test_a_sound_checkpoint_is_scored_by_the_fastest_engine(loaded):
    model, tokenizer, directory = loaded
    engine, checks = self_check(model, tokenizer, candidates(model), directory=directory)
    assert isinstance(engine, PackedEngine)
    assert all(check.passed for check in checks)
    assert [check.name for check in checks] == [
        "responses found", "begin-of-text at most once", "head is the file's", "likelihoods are finite",
        "transformers, packed matches the reference",
    ]  # fmt: skip


def test_packing_that_leaks_is_not_used(loaded):
    def leaking(query, key, value, cu_seqlens, *more, **options):
        whole = torch.tensor([0, query.shape[0]], dtype=torch.int32)
        return slow_attention(query, key, value, whole, None, query.shape[0], None, **options)

    model, tokenizer, _ = loaded
    engine, checks = self_check(model, tokenizer, candidates(model, leaking))
    assert isinstance(engine, TransformersEngine)
    assert [check.passed for check in checks[-2:]] == [False, True]


@pytest.mark.skipif(not onednn.available(), reason="this build of PyTorch has no oneDNN for this CPU")
def test_blocks_of_rows_that_forget_the_ones_before_are_seen(loaded, monkeypatch):
    model, tokenizer, _ = loaded
    keep = packed_attention.RunningPack._keep

    def forgets(running, module, rows, key, value):
        keep(running, module, rows, key, value)
        running.value_KPD[:, : rows.start] = 0

    monkeypatch.setattr(packed_attention.RunningPack, "_keep", forgets)
    in_blocks = {
        "packed": lambda: PackedEngine(model, batch_tokens=2048, attend=block_attention.attend, layer_rows=ROWS)
    }
    engine, checks = self_check(model, tokenizer, in_blocks)
    assert isinstance(engine, WholeModelEngine)
    assert not checks[-1].passed


def test_a_leak_that_fades_at_once_is_seen(loaded):
    """A convolution over three tokens: lost in the mean over whole probes, not at a text's first tokens."""

    def leaking(query, key, value, cu_seqlens, *more, **options):
        output = slow_attention(query, key, value, cu_seqlens, *more, **options)
        for start in cu_seqlens[1:-1].tolist():
            output[start] += 0.01 * output[start - 1]
        return output

    model, tokenizer, _ = loaded
    engine, checks = self_check(model, tokenizer, candidates(model, leaking))
    assert isinstance(engine, TransformersEngine)
    assert "the sequence before it changes a sequence by" in checks[-2].detail


def test_layers_that_are_known_to_leak_are_not_packed(loaded):
    model, tokenizer, _ = loaded
    kinds = model.config.layer_types

    def packed():
        model.config.layer_types = ["full_attention", "linear_attention"]
        try:
            return PackedEngine(model, attend=slow_attention)
        finally:
            model.config.layer_types = kinds

    engine, checks = self_check(model, tokenizer, candidates(model) | {"transformers, packed": packed})
    assert isinstance(engine, TransformersEngine)
    assert checks[-2].detail == "layers of linear_attention cannot be packed"


def test_an_engine_that_fails_or_is_wrong_is_not_used(loaded):
    model, tokenizer, _ = loaded

    def garbage():
        other = copy.deepcopy(model)
        torch.nn.init.normal_(other.lm_head.weight)
        return TransformersEngine(other)

    def fails():
        raise RuntimeError("no kernel for this GPU\nand more")

    engine, checks = self_check(model, tokenizer, {"fails": fails, "garbage": garbage})
    assert isinstance(engine, WholeModelEngine)
    assert [check.passed for check in checks[-2:]] == [False, False]
    assert checks[-2].detail == "no kernel for this GPU"


def test_a_soft_cap_that_is_forgotten_is_seen(loaded):
    model, tokenizer, _ = loaded
    head = model.lm_head
    head.register_forward_hook(lambda module, given, logits: 5 * torch.tanh(logits / 5))
    engine, _ = self_check(model, tokenizer, {"plain": lambda: TransformersEngine(model)})
    assert isinstance(engine, WholeModelEngine)


def test_likelihoods_that_are_not_finite_refuse_the_checkpoint(loaded):
    model, tokenizer, _ = loaded
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match="likelihoods are finite"):
        self_check(model, tokenizer, candidates(model))


def test_a_head_that_is_not_the_files_refuses_the_checkpoint(loaded):
    model, tokenizer, directory = loaded
    weights = load_file(directory / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"].flip(0).clone()
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"head is the file's: lm_head\.weight differs"):
        self_check(model, tokenizer, candidates(model), directory=directory)


def test_a_head_tied_by_mistake_refuses_the_checkpoint(loaded):
    model, tokenizer, directory = loaded
    model.lm_head.weight = model.model.embed_tokens.weight
    with pytest.raises(CheckpointError, match="head is the file's"):
        self_check(model, tokenizer, candidates(model), directory=directory)


def test_two_begin_of_texts_refuse_the_checkpoint(loaded):
    model, tokenizer, _ = loaded
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    bos = tokenizer.bos_token_id
    model.resize_token_embeddings(len(tokenizer))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> <s> $0", special_tokens=[("<s>", bos)]
    )
    with pytest.raises(CheckpointError, match="begin-of-text at most once: 2 times"):
        self_check(model, tokenizer, candidates(model))
