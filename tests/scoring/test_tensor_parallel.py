"""Checkpoints over several ranks: each family tiny and random, sharded by DeepSpeed, scored as one process scores it.

Each gang runs once for all tests that use it, as starting its processes takes longer than what they score. A gang of
two ranks with one family of each kind is fast; the other families, four ranks, and memory are slow.
"""

from __future__ import annotations

import ctypes
import gc
import json
import re
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support_packing import slow_attention
from support_ranks import on_ranks
from transformers import AutoTokenizer

from psych_ray.compat.transformers import text_decoder
from psych_ray.config import CheckpointCard, Dtype, ScoringConfig, TranscriptsConfig, TranscriptSource
from psych_ray.errors import CheckpointError
from psych_ray.scoring.engines.base import Query, WholeModelEngine
from psych_ray.scoring.engines.sharded.head import ShardedHead
from psych_ray.scoring.engines.sharded.modules import ShardedRMSNorm
from psych_ray.scoring.engines.sharded.process_group import Rank
from psych_ray.scoring.engines.sharded.tensor_parallel import TensorParallelEngine, load_tensor_parallel
from psych_ray.scoring.likelihood import Head
from psych_ray.scoring.models.load import load_model
from psych_ray.scoring.scorer import token_indices
from psych_ray.scoring.tokens.alignment import align
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.sources import read_transcripts

VOCABULARY = 61
"""Divides by none of the sizes."""
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": None,
}
WINDOW = {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}
TIED = {"tie_word_embeddings": True}
QWEN_TOWER = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}


@dataclass(frozen=True)
class Family:
    model: str
    text: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] | None = None
    stored: str = "float32"

    def save(self, directory: Path) -> None:
        settings = TEXT | self.text
        if self.vision is not None:
            more = {"mm_tokens_per_image": 4} if self.model.startswith("Gemma3") else {}
            settings = {"text_config": settings, "vision_config": self.vision, "tie_word_embeddings": False} | more
        architecture = re.sub("For.*", "", self.model) + ("Text" if self.model == "Gemma3ForCausalLM" else "")
        model = getattr(transformers, self.model)(getattr(transformers, f"{architecture}Config")(**settings))
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # norms start at 0 or 1 and biases at 0, which would hide what they do
                start = 0.0 if "bias" in name else float(parameter.detach().mean())
                torch.nn.init.normal_(parameter, mean=start, std=0.3)
            else:  # the usual size gives nearly uniform logits
                torch.nn.init.normal_(parameter, std=0.3)
        model.to(getattr(torch, self.stored)).save_pretrained(directory)


def sections(*widths: int) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": list(widths)}}


MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
GEMMA = {**WINDOW, "hidden_size": 80, "final_logit_softcapping": 20.0}
"""Its embeddings are scaled by the root of the width, which is to be no number that bfloat16 holds."""
GEMMA_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "image_size": 28,
    "patch_size": 14,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
FAMILIES = {
    "llama": Family("LlamaForCausalLM"),
    "llama-biased": Family("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
    "mistral": Family("MistralForCausalLM", {"sliding_window": 64}),
    "qwen2": Family("Qwen2ForCausalLM"),
    "qwen2-tied": Family("Qwen2ForCausalLM", TIED),
    "qwen3": Family("Qwen3ForCausalLM", TIED),
    "qwen3-moe": Family("Qwen3MoeForCausalLM", MOE),
    "qwen3-moe-mixed": Family("Qwen3MoeForCausalLM", {**MOE, "mlp_only_layers": [0]}, stored="bfloat16"),
    "olmo2": Family("Olmo2ForCausalLM"),
    "olmo2-float16": Family("Olmo2ForCausalLM", stored="float16"),  # which DeepSpeed takes on a GPU only
    "olmo3": Family("Olmo3ForCausalLM", WINDOW),
    "olmo3-bfloat16": Family("Olmo3ForCausalLM", WINDOW, stored="bfloat16"),
    "gemma3-text": Family("Gemma3ForCausalLM", {**GEMMA, **TIED}),
    "gemma3-text-bfloat16": Family("Gemma3ForCausalLM", {**GEMMA, **TIED}, stored="bfloat16"),
    "gemma3-text-untied": Family("Gemma3ForCausalLM", GEMMA),
    "gemma3": Family("Gemma3ForConditionalGeneration", WINDOW, GEMMA_TOWER),
    "qwen2.5-vl": Family("Qwen2_5_VLForConditionalGeneration", sections(1, 1, 2), QWEN_TOWER),
    "qwen3-vl": Family(
        "Qwen3VLForConditionalGeneration",
        sections(2, 1, 1),
        QWEN_TOWER | {"deepstack_visual_indexes": [0], "num_position_embeddings": 16},
    ),
}
BROKEN = {"olmo2": "norms", "olmo3": "norms", "qwen3-moe": "experts"}
PACKED = ["llama", "qwen3-moe", "olmo2", "olmo3", "gemma3-text", "qwen2.5-vl", "qwen3-vl"]
IN_BFLOAT16 = ["llama", "olmo3", "gemma3-text", "gemma3-text-bfloat16"]
CALIBRATED = ["llama", "gemma3-text"]
FEW = ["llama", "qwen3-moe", "olmo3", "gemma3-text"]
"""One family of each kind: plain, experts, norms over all ranks, scaled and tied embeddings."""
GANGS = {
    "2 ranks, few families": (2, FEW),
    "2 ranks, other families": (2, [name for name in FAMILIES if name not in FEW]),
    "4 ranks": (4, list(FAMILIES)),
}
Answers = list[tuple[np.ndarray, np.ndarray]]


def each_gang(names: Iterable[str]) -> pytest.MarkDecorator:
    """Parametrize a test by each gang and those of the families `names` that it scores."""
    cases = [
        pytest.param(gang, name, marks=[] if families == FEW else [pytest.mark.slow], id=f"{gang}-{name}")
        for gang, (_, families) in GANGS.items()
        for name in names
        if name in families
    ]
    return pytest.mark.parametrize(("gang", "name"), cases)


def card_of(directory: Path, **more: Any) -> CheckpointCard:
    return CheckpointCard(id=directory.name, path=str(directory), **more)


def scoring_in(dtype: str = "float32") -> ScoringConfig:
    return ScoringConfig(device="cpu", dtype=Dtype(dtype))


def scored_by(engine: Any, queries: list[Query]) -> Answers:
    return [(answer.nll_R, answer.top1_R) for answer in engine.score(queries)]


def by_one_process(directory: Path, queries: list[Query], dtype: str = "float32") -> Answers:
    model, _ = load_model(card_of(directory), directory, scoring_in(dtype), allow_pickle=False)
    return scored_by(WholeModelEngine(model), queries)


def on_rank(rank: Rank, directory: Path, queries: list[Query], dtype: str = "float32", wrong: str = "") -> Answers:
    engine, _ = load_tensor_parallel(card_of(directory), directory, scoring_in(dtype), rank, allow_pickle=False)
    for module in engine.body.modules():
        if wrong == "norms" and isinstance(module, ShardedRMSNorm):
            module.width = len(module.weight)
        if wrong == "experts":
            module._forward_hooks.clear()
    return scored_by(engine, queries)


def packed(rank: Rank, directory: Path, queries: list[Query]) -> Answers:
    engine, _ = load_tensor_parallel(card_of(directory), directory, scoring_in(), rank, allow_pickle=False)
    return scored_by(
        TensorParallelEngine(engine.body, engine.head, rank, attend=slow_attention, pass_tokens=500), queries
    )


def buffers_of(body: torch.nn.Module) -> dict[str, tuple[str, list[float]]]:
    return {
        name.replace(".rows.", "."): (str(buffer.dtype), buffer.double().flatten().tolist())
        for name, buffer in body.named_buffers()
    }


def in_bfloat16(rank: Rank, directory: Path, queries: list[Query]) -> tuple[Answers, Any]:
    engine, _ = load_tensor_parallel(card_of(directory), directory, scoring_in("bfloat16"), rank, allow_pickle=False)
    return scored_by(engine, queries), buffers_of(engine.body)


def heads() -> dict[str, tuple[Head, torch.Tensor, torch.Tensor]]:
    """Heads to cut, hidden states, and targets: arg maxes, ties of two ranks among them, and others."""
    generator = torch.Generator().manual_seed(3)
    weight_VD, hidden_RD = (torch.randn(n, 16, generator=generator) for n in (VOCABULARY, 200))
    bias_V = torch.randn(VOCABULARY, generator=generator)
    weight_VD[50] = weight_VD[7]
    bias_V[50] = bias_V[7]
    made = {}
    for name, head in {
        "plain": Head(weight_VD),
        "bias": Head(weight_VD, bias_V),
        "scaled": Head(weight_VD, scale=0.25),
        "soft cap": Head(weight_VD, bias_V, soft_cap=5.0),
    }.items():
        targets_R = torch.randint(VOCABULARY, (200,), generator=generator)
        best_R = head.logits(hidden_RD).argmax(-1)
        assert (best_R == 7).any()
        targets_R[::2] = best_R[::2]
        targets_R[(best_R == 7).nonzero()[:1]] = 50  # as large, but not the first
        made[name] = head, hidden_RD, targets_R
    return made


def options_of(targets_R: torch.Tensor) -> torch.Tensor:
    """Options of all ranks, the tie of two of them and the target among them; fewer of some tokens, none of others."""
    options_RK = torch.stack([torch.full_like(targets_R, 7), torch.full_like(targets_R, 50), targets_R], dim=-1)
    options_RK[::3, 2] = -1
    options_RK[::7, 1:] = -1
    return options_RK


def by_sharded_heads(rank: Rank) -> dict[str, list[np.ndarray]]:
    return {
        name: [
            answer.numpy()
            for answer in ShardedHead.of(head, rank).token_nll(hidden_RD, targets_R, options_of(targets_R))
        ]
        for name, (head, hidden_RD, targets_R) in heads().items()
    }


def calibration_by(engine: Any, queries: list[Query]) -> list[np.ndarray]:
    """Calibration with some options of each query, which change no score."""
    asked = [replace(query, options_K=np.unique(query.token_ids_T[query.at_R])[:5]) for query in queries]
    answers = engine.score(asked)
    for answer, (nll_R, top1_R) in zip(answers, scored_by(engine, queries), strict=True):
        assert np.array_equal(answer.nll_R, nll_R)
        assert np.array_equal(answer.top1_R, top1_R)
    return [answer.calibration_RC for answer in answers if answer.calibration_RC is not None]


def calibration_on_rank(rank: Rank, directory: Path, queries: list[Query]) -> list[np.ndarray]:
    engine, _ = load_tensor_parallel(card_of(directory), directory, scoring_in(), rank, allow_pickle=False)
    together = TensorParallelEngine(engine.body, engine.head, rank, attend=slow_attention, pass_tokens=500)
    return calibration_by(together, queries)


def anonymous_mib() -> float:
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def peak_mib(rank: Rank, directory: Path) -> float:
    """How much memory of its own a rank takes while it loads a checkpoint, at most."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else it would grow into what earlier checkpoints have left
    before, seen, done = anonymous_mib(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            seen.append(anonymous_mib() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    loaded = load_tensor_parallel(card_of(directory), directory, scoring_in("bfloat16"), rank, allow_pickle=False)
    done.set()
    watcher.join()
    del loaded
    return max(seen)


def everything(rank: Rank, directories: dict[str, Path], queries: dict[str, list[Query]], big: dict[str, Path]) -> Any:
    """Peaks are measured last, so that they do not count what libraries allocate once."""
    torch.set_grad_enabled(False)
    names = list(directories)
    return {
        "scores": {name: on_rank(rank, directories[name], queries[name]) for name in names},
        "packed": {name: packed(rank, directories[name], queries[name]) for name in names if name in PACKED},
        "broken": {
            name: on_rank(rank, directories[name], queries[name], wrong=BROKEN[name])
            for name in names
            if name in BROKEN
        },
        "bfloat16": {
            name: in_bfloat16(rank, directories[name], queries[name]) for name in names if name in IN_BFLOAT16
        },
        "calibration": {
            name: calibration_on_rank(rank, directories[name], queries[name]) for name in names if name in CALIBRATED
        },
        "heads": by_sharded_heads(rank),
        "peaks": {name: peak_mib(rank, directory) for name, directory in big.items()},
    }


@pytest.fixture(scope="module")
def directory_of(tmp_path_factory) -> Callable[[str], Path]:
    """Save the checkpoint of a family, once."""

    @cache
    def save(name: str) -> Path:
        directory = tmp_path_factory.mktemp("families") / name
        torch.manual_seed(0)
        FAMILIES[name].save(directory)
        return directory

    return save


@pytest.fixture(scope="module")
def big(tmp_path_factory) -> dict[str, Path]:
    """Checkpoints of some 130 MiB."""
    wide = {
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "vocab_size": 4096,
    }
    made = {}
    for name, family in {
        "llama": Family(
            "LlamaForCausalLM", wide | {"intermediate_size": 4096, "num_hidden_layers": 4}, None, "bfloat16"
        ),
        "qwen3-moe": Family(
            "Qwen3MoeForCausalLM",
            wide | MOE | {"num_experts": 16, "moe_intermediate_size": 128, "num_hidden_layers": 8},
            None,
            "bfloat16",
        ),
    }.items():
        made[name] = tmp_path_factory.mktemp("big") / name
        family.save(made[name])
    return made


@pytest.fixture(scope="module")
def queries_of(directory_of) -> Callable[[str], list[Query]]:
    """Random tokens, longer than the window, and sequences that end in the arg max of a family's checkpoint."""

    @cache
    def make(name: str) -> list[Query]:
        rng = np.random.default_rng(0)
        sequences = [rng.integers(0, VOCABULARY, length) for length in (400, 90, 9)]
        at = [np.sort(rng.choice(np.arange(1, len(ids)), len(ids) // 3, replace=False)) for ids in sequences]
        queries = [Query(ids, indices) for ids, indices in zip(sequences, at, strict=True)]
        queries.append(Query(sequences[0], np.empty(0, np.int64)))
        directory = directory_of(name)
        model, _ = load_model(card_of(directory), directory, scoring_in(), allow_pickle=False)
        with torch.inference_mode():
            best_T = model(input_ids=torch.from_numpy(sequences[0])[None]).logits[0].argmax(-1).numpy()
        return queries + [Query(np.append(sequences[0][:t], best_T[t - 1]), np.array([t])) for t in (20, 100, 300)]

    return make


@pytest.fixture(scope="module")
def expected_of(directory_of, queries_of) -> Callable[[str], Answers]:
    """Scores of a family's checkpoint by one process."""

    @cache
    def score(name: str) -> Answers:
        return by_one_process(directory_of(name), queries_of(name))

    return score


@pytest.fixture(scope="module")
def ranks_of(request, directory_of, queries_of) -> Callable[[str], list[Any]]:
    """What the ranks of a gang return; each gang runs once."""

    @cache
    def run(gang: str) -> list[Any]:
        size, names = GANGS[gang]
        directories, queries = {name: directory_of(name) for name in names}, {name: queries_of(name) for name in names}
        measured = {} if names == FEW or sys.platform != "linux" else request.getfixturevalue("big")
        return on_ranks(size, everything, directories, queries, measured)

    return run


def difference(found: Answers, expected: Answers) -> float:
    return max(float(np.abs(a - b).max(initial=0)) for (a, _), (b, _) in zip(found, expected, strict=True))


@each_gang(FAMILIES)
def test_scores_as_one_process_does(name, gang, ranks_of, expected_of):
    expected = expected_of(name)
    for rank in ranks_of(gang):
        found = rank["scores"][name]
        assert difference(found, expected) < 1e-4
        assert all((a == b).all() for (_, a), (_, b) in zip(found, expected, strict=True))
    assert np.concatenate([nll for nll, _ in expected]).std() > 0.5
    assert sum(int(top1.sum()) for _, top1 in expected) >= 3


@each_gang(FAMILIES)
def test_all_ranks_give_the_same_answers(name, gang, ranks_of):
    first, *others = ranks_of(gang)
    for rank in others:
        for (nll, top1), (first_nll, first_top1) in zip(rank["scores"][name], first["scores"][name], strict=True):
            assert np.array_equal(nll, first_nll)
            assert np.array_equal(top1, first_top1)


@each_gang(PACKED)
def test_packed_sequences_score_as_alone(name, gang, ranks_of, expected_of):
    assert difference(ranks_of(gang)[-1]["packed"][name], expected_of(name)) < 1e-4


@each_gang(BROKEN)
def test_without_what_autotp_lacks_the_scores_are_others(name, gang, ranks_of, expected_of):
    assert difference(ranks_of(gang)[0]["broken"][name], expected_of(name)) > 1e-2


@each_gang(IN_BFLOAT16)
def test_bfloat16_rounds_weights_and_nothing_else(name, gang, ranks_of, directory_of, queries_of):
    found, buffers = ranks_of(gang)[0]["bfloat16"][name]
    directory = directory_of(name)
    model, _ = load_model(card_of(directory), directory, scoring_in("bfloat16"), allow_pickle=False)
    exact = scored_by(WholeModelEngine(model), queries_of(name))
    assert np.abs(found[0][0] - exact[0][0]).mean() < 0.05
    expected: Any = buffers_of(text_decoder(model))
    assert {key: values for key, (_, values) in buffers.items()} == {
        key: values for key, (_, values) in expected.items()
    }
    assert {dtype for key, (dtype, _) in buffers.items() if "inv_freq" in key} == {"torch.float32"}


@pytest.mark.parametrize("head_name", heads())
@pytest.mark.parametrize("gang", ["2 ranks, few families", pytest.param("4 ranks", marks=pytest.mark.slow)])
def test_sharded_head_is_the_head(head_name, gang, ranks_of):
    head, hidden_RD, targets_R = heads()[head_name]
    nll_R, top1_R, calibration_RC = head.token_nll(hidden_RD, targets_R, options_of(targets_R))
    assert 50 < int(top1_R.sum()) < 120
    for rank in ranks_of(gang):
        assert np.allclose(rank["heads"][head_name][0], nll_R.numpy(), atol=1e-5)
        assert np.array_equal(rank["heads"][head_name][1], top1_R.numpy())
        np.testing.assert_allclose(rank["heads"][head_name][2], calibration_RC.numpy(), atol=1e-5)


@each_gang(CALIBRATED)
def test_calibration_is_that_of_one_process(name, gang, ranks_of, directory_of, queries_of):
    directory = directory_of(name)
    model, _ = load_model(card_of(directory), directory, scoring_in(), allow_pickle=False)
    expected = calibration_by(WholeModelEngine(model), queries_of(name))
    for rank in ranks_of(gang):
        found = rank["calibration"][name]
        assert len(found) == len(expected) > 3
        for columns_RC, expected_RC in zip(found, expected, strict=True):
            np.testing.assert_allclose(columns_RC, expected_RC, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("gang", ["2 ranks, other families", "4 ranks"])
@pytest.mark.parametrize(("name", "layers_mib"), [("llama", 0), ("qwen3-moe", 26)])
def test_a_rank_allocates_no_more_than_its_shards_while_it_loads(name, layers_mib, gang, ranks_of, big):
    """And, where experts are joined, two layers of them."""
    files_mib = sum(file.stat().st_size for file in big[name].glob("*.safetensors")) / 2**20
    ranks = ranks_of(gang)
    assert all(rank["peaks"][name] < files_mib / len(ranks) + layers_mib + 4 for rank in ranks)


def real_queries(shared: Path, tokenizer_name: str) -> list[Query]:
    tokenizer = AutoTokenizer.from_pretrained(shared / "tokenizers" / tokenizer_name)
    config = TranscriptsConfig(source=TranscriptSource.files, path=str(shared / "data/psych-201"), limit=1)
    found = []
    for transcript in list(read_transcripts(config))[:9]:
        alignment = align(condition_named("plain").render(transcript, None), tokenizer, 300)
        found.append(Query(alignment.token_ids_T, token_indices(alignment)))
    return found


REAL = {"qwen3": FAMILIES["qwen3"], "olmo3": FAMILIES["olmo3"]}


def on_rank_all(rank: Rank, directories: dict[str, Path], queries: dict[str, list[Query]]) -> dict[str, Answers]:
    return {name: on_rank(rank, directories[name], queries[name]) for name in directories}


@pytest.mark.slow
def test_real_transcripts_with_real_tokenizers(shared, tmp_path):
    for name, family in REAL.items():
        tokenizer = AutoTokenizer.from_pretrained(shared / "tokenizers" / name)
        replace(family, text={**family.text, "vocab_size": len(tokenizer) + 9}).save(tmp_path / name)
    made = {name: tmp_path / name for name in REAL}
    queries = {name: real_queries(shared, name) for name in REAL}
    gang = on_ranks(2, on_rank_all, made, queries)
    for name, directory in made.items():
        exact = by_one_process(directory, queries[name])
        assert sum(len(nll) for nll, _ in exact) > 100
        for rank in gang:
            assert difference(rank[name], exact) < 1e-4
            assert all((a == b).all() for (_, a), (_, b) in zip(rank[name], exact, strict=True))


def test_a_norm_of_another_kind_is_not_sharded(directory_of):
    directory = directory_of("gemma3-text")
    model, _ = load_model(card_of(directory), directory, scoring_in(), allow_pickle=False)
    with pytest.raises(ValueError, match="Gemma3RMSNorm spans all heads"):
        ShardedRMSNorm.of(text_decoder(model).norm, Rank(0, 2))


@pytest.mark.parametrize(
    ("name", "world_size", "more", "message"),
    [
        ("llama", 3, {}, "8 attention heads do not divide over 3 ranks"),
        ("gemma3", 8, {}, "4 key and value heads do not divide over 8 ranks"),
        ("llama", 2, {"quantization": "bnb-4bit"}, "its weights are quantized"),
    ],
)
def test_what_cannot_be_sharded_raises_an_error_before_it_is_loaded(name, world_size, more, message, directory_of):
    card = card_of(directory_of(name), **more)
    with pytest.raises(CheckpointError, match=message):
        load_tensor_parallel(card, directory_of(name), scoring_in(), Rank(0, world_size), allow_pickle=False)


def test_code_of_its_own_raises_an_error(directory_of, tmp_path):
    config = json.loads((directory_of("llama") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "own.Own"}}))
    card = card_of(tmp_path, trust_remote_code=True)
    with pytest.raises(CheckpointError, match="modelling code of its own"):
        load_tensor_parallel(card, tmp_path, scoring_in(), Rank(0, 2), allow_pickle=False)
