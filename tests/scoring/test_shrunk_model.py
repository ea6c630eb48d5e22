"""The check on a shrunk model passes for every kind of checkpoint, and fails for each fault made on purpose."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from support_gangs import EXPERTS, FAMILIES, LINEAR, SCORING, WINDOWED, difference, queries, tiny
from support_ranks import on_ranks

from psych_ray.compat.deepspeed import partition_of
from psych_ray.config import CheckpointCard
from psych_ray.errors import CheckpointError
from psych_ray.scoring.checks.shrunk_model import check_shrunk_model, shrunk_config
from psych_ray.scoring.engines.base import Engine, TransformersEngine, WholeModelEngine
from psych_ray.scoring.engines.sharded.process_group import Rank
from psych_ray.scoring.engines.sharded.zero import load_zero
from psych_ray.scoring.models.load import load_model
from psych_ray.scoring.scored import Check

ONE = Rank(0, 1)
LARGE: dict[str, Any] = {
    "hidden_size": 5120, "intermediate_size": 27_648, "num_hidden_layers": 64, "num_attention_heads": 40,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936, "max_position_embeddings": 65_536,
}  # fmt: skip
PERIOD = {"sliding_window": 4096, "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 11}
LINEAR_LARGE = {**LINEAR, "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 16}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """No file may be left there."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield directory
    assert not list(directory.iterdir())


def large(architecture: str, **more: Any) -> transformers.PreTrainedConfig:
    """As checkpoints that no single GPU holds."""
    settings = LARGE | more
    if "layer_types" in settings:
        settings["layer_types"] = settings["layer_types"][: settings["num_hidden_layers"]]
    return getattr(transformers, f"{architecture}Config")(**settings)


LARGE_FAMILIES = {
    "llama": large("Llama"),
    "mistral": large("Mistral", sliding_window=4096),
    "qwen2": transformers.Qwen2Config(**{name: value for name, value in LARGE.items() if name != "head_dim"}),
    "qwen3, tied": large("Qwen3", tie_word_embeddings=True),
    "qwen3-moe": large("Qwen3Moe", **EXPERTS | {"num_experts": 128, "num_experts_per_tok": 8}),
    "qwen3.5, linear attention": large("Qwen3_5Text", **LINEAR_LARGE),
    "olmo2": transformers.Olmo2Config(**{name: value for name, value in LARGE.items() if name != "head_dim"}),
    "olmo3": large("Olmo3", **PERIOD),
    "gemma3": large("Gemma3Text", **PERIOD, final_logit_softcapping=30.0),
    "granite": large("Granite", logits_scaling=8.0, residual_multiplier=0.2),
    "deepseek3": transformers.DeepseekV3Config(),
    # as its first files: no text part, no width of a head, positions in sections that only one width of head fits
    "qwen2.5-vl": transformers.Qwen2_5_VLConfig(
        **{name: value for name, value in LARGE.items() if name != "head_dim"},
        rope_scaling={"type": "mrope", "mrope_section": [16, 24, 24]},
    ),
    "qwen3-vl": transformers.Qwen3VLConfig(text_config={**LARGE, "vocab_size": 151_936}),
}


FAST = {"llama", "qwen3-moe", "qwen3.5, linear attention", "olmo3", "gemma3"}
"""One of each kind: plain, experts, linear attention, windows, a soft cap."""
SOME_FAST = [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in LARGE_FAMILIES]


def plainly(card: CheckpointCard, directory: Path) -> Engine:
    model, _ = load_model(card, directory, SCORING, allow_pickle=False)
    return TransformersEngine(model)


def with_fault(fault: Callable[[Any], None]) -> Callable[[CheckpointCard, Path], Engine]:
    def load(card: CheckpointCard, directory: Path) -> Engine:
        model, _ = load_model(card, directory, SCORING, allow_pickle=False)
        with torch.no_grad():
            fault(model)
        return TransformersEngine(model)

    return load


@pytest.mark.parametrize("name", LARGE_FAMILIES)
@pytest.mark.parametrize("n_ranks", [1, 4])
def test_the_shrunk_model_keeps_what_decides_how_weights_are_sharded(name, n_ranks):
    whole, small = LARGE_FAMILIES[name], shrunk_config(LARGE_FAMILIES[name], n_ranks)
    assert type(small) is type(whole)
    whole, small = (config.get_text_config(decoder=True) for config in (whole, small))
    heads, key_heads = small.num_attention_heads, small.num_key_value_heads
    assert heads // key_heads == whole.num_attention_heads // whole.num_key_value_heads
    assert key_heads % n_ranks == 0
    assert small.hidden_size % n_ranks == 0
    assert small.vocab_size % n_ranks == whole.vocab_size % n_ranks
    kinds = getattr(whole, "layer_types", None)
    if kinds:
        assert set(small.layer_types) == set(kinds)
        assert len(small.layer_types) == small.num_hidden_layers == 2
    for kept in ("tie_word_embeddings", "num_experts_per_tok", "final_logit_softcapping", "logits_scaling"):
        assert getattr(small, kept, None) == getattr(whole, kept, None)
    assert small.hidden_size < whole.hidden_size / 4
    assert whole.num_hidden_layers > 2, "the configuration that was given has changed"


def test_heads_that_do_not_divide_among_ranks_do_not_in_the_shrunk_model_either():
    assert shrunk_config(LARGE_FAMILIES["llama"], 3).num_key_value_heads % 3 != 0


@pytest.mark.parametrize("name", SOME_FAST)
def test_a_right_engine_passes(name):
    check = check_shrunk_model(plainly, LARGE_FAMILIES[name], ONE, SCORING)
    assert check.passed, check.detail
    assert check.name == "transformers matches the reference on a shrunk model"
    assert "bound" in check.detail


def scale_a_norm(model: Any) -> None:
    model.model.layers[-1].input_layernorm.weight[:4] *= 1.2


def exchange_heads(model: Any) -> None:
    attention = model.model.layers[0].self_attn
    weight = attention.q_proj.weight
    weight.copy_(weight.unflatten(0, (-1, attention.head_dim)).flip(0).flatten(0, 1))


def exchange_norm_of_heads(model: Any) -> None:
    weight = model.model.layers[1].self_attn.q_norm.weight
    weight.copy_(weight.roll(len(weight) // 2))


def shift_the_head(model: Any) -> None:
    model.lm_head.weight.copy_(model.lm_head.weight.roll(1, 0))


def forget_the_window(model: Any) -> None:
    for layer in model.model.layers:
        layer.self_attn.sliding_window = None
    model.config.sliding_window = model.model.config.sliding_window = 4096


def forget_an_expert(model: Any) -> None:
    model.model.layers[1].mlp.experts.down_proj[3] = 0


def forget_the_cap(model: Any) -> None:
    model.config.final_logit_softcapping = None


def spoil(model: Any) -> None:
    model.model.norm.weight[0] = torch.nan


FAULTS: list[tuple[str, Callable[[Any], None]]] = [
    ("llama", scale_a_norm),
    ("llama", exchange_heads),
    ("llama", shift_the_head),
    ("llama", spoil),
    ("qwen3, tied", exchange_norm_of_heads),
    ("olmo2", exchange_norm_of_heads),
    ("olmo3", forget_the_window),
    ("mistral", forget_the_window),
    ("qwen3-moe", forget_an_expert),
    ("gemma3", forget_the_cap),
    ("granite", exchange_heads),
]


@pytest.mark.parametrize(
    ("name", "fault"),
    [pytest.param(name, fault, marks=[] if name in FAST else [pytest.mark.slow]) for name, fault in FAULTS],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_wrong_engine_does_not_pass(name, fault):
    check = check_shrunk_model(with_fault(fault), LARGE_FAMILIES[name], ONE, SCORING)
    assert not check.passed, check.detail


def test_an_engine_that_cannot_load_does_not_pass_and_says_why():
    def fails(card: CheckpointCard, directory: Path) -> Engine:
        raise CheckpointError(f"{card.id}: 8 heads do not divide among 3 ranks")

    check = check_shrunk_model(fails, LARGE_FAMILIES["llama"], ONE, SCORING)
    assert not check.passed
    assert check.detail == "shrunk llama: 8 heads do not divide among 3 ranks"


def test_a_kind_of_which_no_shrunk_model_can_be_made_does_not_pass_and_says_why():
    check = check_shrunk_model(plainly, transformers.BambaConfig(), ONE, SCORING)
    assert not check.passed
    assert check.detail.startswith("no shrunk model of bamba can be made: ")


def checked_on_ranks(rank: Rank, kinds: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Checks of ZeRO, then of an engine that is wrong on the last rank only; then a checkpoint in the same process."""

    def by_zero(card: CheckpointCard, path: Path) -> Engine:
        return load_zero(card, path, SCORING, rank, allow_pickle=False)[0]

    def by_zero_scaled(card: CheckpointCard, path: Path) -> Engine:
        engine, _ = load_zero(card, path, SCORING, rank, allow_pickle=False)
        for name, weight in engine.module.named_parameters():
            if name.endswith("layers.1.input_layernorm.weight"):
                partition_of(weight).mul_(1.2)
        return engine

    found: dict[str, Any] = {name: check_shrunk_model(by_zero, config, rank, SCORING) for name, config in kinds.items()}
    wrong = with_fault(scale_a_norm) if rank.index == rank.world_size - 1 else plainly
    found["one rank wrong"] = check_shrunk_model(wrong, kinds["llama"], rank, SCORING)
    found["scaled"] = check_shrunk_model(by_zero_scaled, kinds["llama"], rank, SCORING)
    engine, _ = load_zero(CheckpointCard(id="next"), directory, SCORING, rank, allow_pickle=False)
    found["next"] = engine.score(queries())
    return found


@pytest.mark.slow
def test_ranks_return_the_same_check_and_load_the_checkpoint_itself_next(tmp_path):
    model = tiny(*FAMILIES["olmo3"][:1], **WINDOWED)
    model.save_pretrained(tmp_path / "next")
    answers = on_ranks(2, checked_on_ranks, LARGE_FAMILIES, tmp_path / "next")
    checks = [{name: one for name, one in answer.items() if isinstance(one, Check)} for answer in answers]
    assert checks[0] == checks[1]
    failed = {name: check.detail for name, check in checks[0].items() if not check.passed}
    assert failed.keys() == {"one rank wrong", "scaled"}, failed
    assert checks[0]["llama"].name == "deepspeed_zero, 2 ranks matches the reference on a shrunk model"
    expected = WholeModelEngine(model).score(queries())
    assert all(difference(answer["next"], expected) < 1e-4 for answer in answers)
