"""Every architecture that people sweep, tiny and random: scored as its own class would, from files as the hub has them.

The slow reference builds the class named here, vision tower and all, takes all logits of the whole text, and sums
float64 log probabilities in a loop.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from psych_ray.checkpoints.find import Checkpoint, find_checkpoints
from psych_ray.config import CheckpointsConfig, CheckpointSource, ScoringConfig
from psych_ray.errors import CheckpointError
from psych_ray.scoring.loading import load_scorer
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.simulated import simulated_transcripts
from psych_ray.transcripts.status import Status

CONTEXT, WINDOW = 4096, 64
# Its delta rule amplifies round-off: with these weights its own class in float32 is 1e-3 away from itself in float64.
BOUND = {"qwen3.5": 5e-3}
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": None,
}
WINDOWED = TEXT | {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"] * 2}
HYBRID = TEXT | {
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
EXPERTS = TEXT | {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "decoder_sparse_step": 1,
    "norm_topk_prob": True,
}
QWEN_TOWER = {"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
TOWER = {"hidden_size": 32, "intermediate_size": 32, "image_size": 28, "patch_size": 14, "num_hidden_layers": 2}


def rope(sections: list[int]) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": sections}}


@dataclass(frozen=True)
class Architecture:
    config: str
    model: str
    text: dict[str, Any]
    vision: dict[str, Any] | None = None
    more: dict[str, Any] | None = None

    def build(self, vocabulary: int) -> transformers.PreTrainedModel:
        text = self.text | {"vocab_size": vocabulary}
        if self.vision is None:
            settings = text
        else:
            settings = {"text_config": text, "vision_config": self.vision, "tie_word_embeddings": False}
        config = getattr(transformers, self.config)(**settings, **(self.more or {}))
        # Random weights of the usual size give nearly uniform logits, which would hide a shifted position.
        torch.manual_seed(201)
        model = getattr(transformers, self.model)(config)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
            elif "norm" in name or "gate" in name:  # they start at 0 or 1, which would hide what they do
                torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.2)
        return model


ARCHITECTURES = {
    "llama": Architecture("LlamaConfig", "LlamaForCausalLM", TEXT),
    "mistral": Architecture("MistralConfig", "MistralForCausalLM", TEXT | {"sliding_window": WINDOW}),
    "qwen2": Architecture("Qwen2Config", "Qwen2ForCausalLM", TEXT),
    "qwen3": Architecture("Qwen3Config", "Qwen3ForCausalLM", TEXT | {"tie_word_embeddings": True}),
    "qwen3-moe": Architecture("Qwen3MoeConfig", "Qwen3MoeForCausalLM", EXPERTS),
    "qwen3.5-text": Architecture("Qwen3_5TextConfig", "Qwen3_5ForCausalLM", HYBRID),
    "olmo2": Architecture("Olmo2Config", "Olmo2ForCausalLM", TEXT),
    "olmo3": Architecture("Olmo3Config", "Olmo3ForCausalLM", WINDOWED),
    "gemma3-text": Architecture("Gemma3TextConfig", "Gemma3ForCausalLM", WINDOWED | {"final_logit_softcapping": 30.0}),
    "gemma3": Architecture(
        "Gemma3Config",
        "Gemma3ForConditionalGeneration",
        WINDOWED,
        TOWER | {"num_attention_heads": 2},
        {"mm_tokens_per_image": 4},
    ),
    "qwen2.5-vl": Architecture(
        "Qwen2_5_VLConfig", "Qwen2_5_VLForConditionalGeneration", TEXT | rope([1, 1, 2]), QWEN_TOWER
    ),
    "qwen3-vl": Architecture(
        "Qwen3VLConfig",
        "Qwen3VLForConditionalGeneration",
        TEXT | rope([2, 1, 1]),
        QWEN_TOWER | {"deepstack_visual_indexes": [0], "num_position_embeddings": 16},
    ),
    "qwen3.5": Architecture(
        "Qwen3_5Config",
        "Qwen3_5ForConditionalGeneration",
        HYBRID,
        QWEN_TOWER | {"num_position_embeddings": 16},
    ),
    "llama3.2-vision": Architecture(
        "MllamaConfig",
        "MllamaForConditionalGeneration",
        TEXT | {"cross_attention_layers": [1], "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}},
        TOWER
        | {
            "num_global_layers": 1,
            "attention_heads": 2,
            "vision_output_dim": 64,
            "intermediate_layers_indices": [0],
            "max_num_tiles": 2,
            "supported_aspect_ratios": [[1, 1], [1, 2]],
        },
    ),
}
VISION = [name for name, architecture in ARCHITECTURES.items() if architecture.vision]
FAST = {"llama", "qwen3-moe", "qwen3.5-text", "gemma3"}
"""Those whose bfloat16 and adapters are in the fast set: plain, experts, linear attention, and a vision tower."""


def some_fast(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in names]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small are slower with more threads, and much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def directory_of(tmp_path_factory) -> Callable[[str, Path], Path]:
    """Save an architecture with a tokenizer as the hub would have it; once."""
    saved: dict[tuple[str, Path], Path] = {}

    def save(name: str, tokenizer_directory: Path) -> Path:
        key = (name, tokenizer_directory)
        if key not in saved:
            tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
            saved[key] = tmp_path_factory.mktemp("architectures") / f"{name}-{tokenizer_directory.name}"
            ARCHITECTURES[name].build(len(tokenizer) + 8).save_pretrained(saved[key])
            tokenizer.save_pretrained(saved[key])
        return saved[key]

    return save


@pytest.fixture(scope="module")
def transcripts() -> list[Transcript]:
    return list(simulated_transcripts(participants=1, seed=7))


def found_all(*directories: Path) -> list[Checkpoint]:
    paths = [str(directory) for directory in directories]
    return find_checkpoints(CheckpointsConfig(source=CheckpointSource.local, paths=paths))


def found(directory: Path) -> Checkpoint:
    (checkpoint,) = found_all(directory)
    return checkpoint


def reference(directory: Path, model_name: str, transcripts: list[Transcript]) -> list[list[float]]:
    model = getattr(transformers, model_name).from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    answers = []
    for transcript in transcripts:
        encoded = tokenizer(transcript.text, return_offsets_mapping=True)
        ids = encoded["input_ids"]
        with torch.no_grad():
            log_p = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)
        answers.append([])
        for match in re.finditer(r"<<(.*?)>>", transcript.text, re.DOTALL):
            nll = 0.0
            for t, (start, end) in enumerate(encoded["offset_mapping"]):
                if start < match.end(1) and end > match.start(1):
                    nll -= log_p[t - 1, ids[t]].item()
            answers[-1].append(nll)
    return answers


def largest_difference(directory: Path, model_name: str, transcripts: list[Transcript]) -> float:
    scored = list(load_scorer(found(directory)).score(transcripts, condition_named("plain")))
    expected = np.concatenate(reference(directory, model_name, transcripts))
    assert expected.std() > 0.1
    assert all((one.status_R == Status.scored.code).all() for one in scored)
    return float(np.abs(np.concatenate([one.nll_R for one in scored]) - expected).max())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equals_its_own_class_with_all_logits(name, directory_of, byte_tokenizer_directory, transcripts):
    directory = directory_of(name, byte_tokenizer_directory)
    assert largest_difference(directory, ARCHITECTURES[name].model, transcripts) < BOUND.get(name, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tokenizer"),
    [("qwen3.5", "qwen3"), ("qwen3-vl", "qwen3"), ("olmo3", "olmo3")],
)
def test_equals_its_own_class_with_a_real_tokenizer(name, tokenizer, shared, directory_of, transcripts):
    directory = directory_of(name, shared / "tokenizers" / tokenizer)
    assert largest_difference(directory, ARCHITECTURES[name].model, transcripts) < BOUND.get(name, 1e-4)


@pytest.mark.parametrize("name", some_fast(ARCHITECTURES))
def test_bfloat16_is_finite_and_near(name, directory_of, byte_tokenizer_directory, transcripts):
    checkpoint = found(directory_of(name, byte_tokenizer_directory))
    exact, rough = (
        np.concatenate(
            [
                s.nll_R
                for s in load_scorer(checkpoint, ScoringConfig(dtype=dtype)).score(
                    transcripts, condition_named("plain")
                )
            ]
        )
        for dtype in ("float32", "bfloat16")
    )
    assert np.isfinite(rough).all()
    assert np.abs(rough - exact).mean() < 0.25 * exact.mean()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_transcripts_end_at_the_context_of_the_text_side(name, directory_of, byte_tokenizer_directory):
    directory = directory_of(name, byte_tokenizer_directory)
    assert load_scorer(found(directory)).truncation.tokens == CONTEXT


@pytest.mark.parametrize("name", ["mistral", "olmo3", "gemma3-text"])
def test_the_window_matters_in_these_transcripts(name, directory_of, byte_tokenizer_directory, transcripts, tmp_path):
    directory = directory_of(name, byte_tokenizer_directory)
    wide = tmp_path / name
    wide.mkdir()
    for file in directory.iterdir():
        (wide / file.name).symlink_to(file)
    config = json.loads((directory / "config.json").read_text())
    (wide / "config.json").unlink()
    (wide / "config.json").write_text(json.dumps(config | {"sliding_window": CONTEXT}))
    narrow, other = (
        next(iter(load_scorer(found(d)).score(transcripts[:1], condition_named("plain")))).nll_R
        for d in (directory, wide)
    )
    assert np.abs(narrow - other).max() > 0.01


@pytest.mark.parametrize("name", VISION)
def test_towers_are_neither_loaded_nor_kept(model_of, name, directory_of, byte_tokenizer_directory, caplog):
    directory = directory_of(name, byte_tokenizer_directory)
    checkpoint = found(directory)
    with safe_open(directory / "model.safetensors", "pt") as file:
        names = list(file.keys())
        stored = sum(int(np.prod(file.get_slice(key).get_shape())) for key in names)
    assert checkpoint.n_parameters == stored
    model = model_of(load_scorer(checkpoint))
    kept = [key for key, _ in model.named_parameters()]
    assert not [key for key in kept if re.search("vision|visual|cross_attn", key)]
    assert [key for key in names if re.search("vision|visual", key)]
    assert sum(parameter.numel() for parameter in model.parameters()) < stored
    assert "UNEXPECTED" not in caplog.text


@pytest.mark.parametrize("name", VISION)
def test_a_weight_that_the_text_side_lacks_is_told(name, directory_of, byte_tokenizer_directory, tmp_path):
    directory = directory_of(name, byte_tokenizer_directory)
    broken = tmp_path / name
    broken.mkdir()
    for file in directory.iterdir():
        if file.name != "model.safetensors":
            (broken / file.name).symlink_to(file)
    weights = load_file(directory / "model.safetensors")
    (lost,) = [
        key for key in weights if re.search(r"(?<!block)\blayers\.2\.mlp\.up_proj\.weight", key) and "vis" not in key
    ]
    del weights[lost]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"do not hold all weights.*layers\.2\.mlp\.up_proj"):
        load_scorer(found(broken))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", some_fast(["qwen3-moe", *VISION]))
def test_adapters_made_on_the_whole_model_are_put_on_its_text_side(
    name, directory_of, byte_tokenizer_directory, transcripts, tmp_path
):
    directory = directory_of(name, byte_tokenizer_directory)
    model = getattr(transformers, ARCHITECTURES[name].model).from_pretrained(directory, dtype=torch.float32)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    for parameter_name, parameter in adapted.named_parameters():
        if "lora_" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(directory).save_pretrained(tmp_path / "merged")
    base, adapter, merged = (
        np.concatenate([s.nll_R for s in load_scorer(checkpoint).score(transcripts, condition_named("plain"))])
        for checkpoint in found_all(directory, tmp_path / "adapter", tmp_path / "merged")
    )
    assert np.abs(adapter - merged).max() < 1e-4
    assert np.abs(adapter - base).max() > 0.05


def test_an_architecture_that_predicts_no_next_token_is_told_in_one_line(byte_tokenizer_directory, tmp_path):
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16, image_size=8, patch_size=4
    )
    transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    AutoTokenizer.from_pretrained(byte_tokenizer_directory).save_pretrained(tmp_path / "vit")
    with pytest.raises(CheckpointError, match=r"^vit: .* architecture ViTModel: .* predicts the next token") as caught:
        load_scorer(found(tmp_path / "vit"))
    assert "\n" not in str(caught.value)
