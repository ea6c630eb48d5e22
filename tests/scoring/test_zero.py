"""ZeRO on 1, 2 and 4 ranks against one process that holds the whole model and computes all logits."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support_gangs import EXPERTS, FAMILIES, NOT_PACKED, SCORING, batches, difference, queries, tiny
from support_ranks import on_ranks

from psych_ray.config import CheckpointCard
from psych_ray.errors import CheckpointError, UnsupportedError
from psych_ray.scoring.engines.base import Query, TokenScores, WholeModelEngine
from psych_ray.scoring.engines.sharded.process_group import Rank
from psych_ray.scoring.engines.sharded.zero import load_zero, passes
from psych_ray.scoring.engines.sharded.zero_partition import suppress_output


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small are slower with more threads, and much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Saved:
    directory: Path
    expected: list[list[TokenScores]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Saved]:
    root = tmp_path_factory.mktemp("zero")
    found = {}
    for name, (architecture, more) in FAMILIES.items():
        model = tiny(architecture, **more)
        model.save_pretrained(root / name)
        slow = WholeModelEngine(model)
        found[name] = Saved(root / name, [slow.score(batch) for batch in batches()])
    found["tied in config.json only"] = tied_in_config_only(root, found["llama"])
    assert np.concatenate([scores.nll_R for scores in found["llama"].expected[0]]).std() > 0.5
    return found


def tied_in_config_only(root: Path, llama: Saved) -> Saved:
    """Its files have both an embedding and a head, and they differ: transformers keeps them apart, and says so."""
    directory = root / "tied in config.json only"
    directory.mkdir()
    (directory / "model.safetensors").symlink_to(llama.directory / "model.safetensors")
    config = json.loads((llama.directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    return Saved(directory, llama.expected)


def broken(directory: Path, target: Path, change) -> Path:
    target.mkdir()
    (target / "config.json").symlink_to(directory / "config.json")
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def score_all(rank: Rank, saved: dict[str, Saved], refused: dict[str, Path], nvme: Path) -> dict[str, Any]:
    """Of each family: engine's name, packed or not, difference packed and one by one. Of the others: what is said."""
    found: dict[str, Any] = {}
    for name, one in saved.items():
        card = CheckpointCard(id=name, path=str(one.directory))
        seen: list[Any] = []
        for packed in (True, False):
            engine, config = load_zero(card, one.directory, SCORING, rank, allow_pickle=False, packed=packed)
            differences = [
                difference(engine.score(batch), expected)
                for batch, expected in zip(batches(), one.expected, strict=True)
            ]
            seen += [engine.name, engine.is_packed, max(differences)]
            engine.close()
        found[name] = [*seen, config.model_type]
    for name, directory in refused.items():
        try:
            load_zero(CheckpointCard(id=name), directory, SCORING, rank, allow_pickle=False)
        except CheckpointError as error:
            found[name] = str(error)
    found["nvme"] = score_from_files(rank, saved["qwen3"], nvme) if rank.world_size == 1 else None
    found["linear is torch's"] = torch.nn.functional.linear is torch._C._nn.linear
    return found


def score_from_files(rank: Rank, one: Saved, nvme: Path) -> float | str:
    """How far off it is with weights on NVMe, or why they cannot be there; no file may be left."""
    card = CheckpointCard(id="nvme")
    try:
        engine, _ = load_zero(card, one.directory, SCORING, rank, allow_pickle=False, nvme=nvme)
    except UnsupportedError as error:
        return str(error)
    found = difference(engine.score(batches()[0]), one.expected[0])
    engine.close()
    assert not [path for path in nvme.rglob("*") if path.is_file()]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 4])
def test_all_ranks_score_as_one_whole_model_does(size, saved, tmp_path):
    llama = saved["llama"].directory
    lost, grown, shape = "model.layers.2.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.bias", "lm_head.weight"
    refused = {
        "lost": broken(llama, tmp_path / "lost", lambda weights: weights.pop(lost)),
        "grown": broken(llama, tmp_path / "grown", lambda weights: weights.update({grown: torch.ones(32)})),
        "shape": broken(llama, tmp_path / "shape", lambda weights: weights.update({shape: torch.ones(300, 16)})),
    }
    answers = on_ranks(size, score_all, saved, refused, tmp_path / "nvme")
    assert all(answer == answers[0] for answer in answers), "all ranks get the same answers"
    name = f"deepspeed_zero, {size} rank{'s' if size > 1 else ''}"
    for family in saved:
        packed_name, packed, difference_packed, alone_name, alone, difference_alone, _ = answers[0][family]
        assert packed_name == alone_name == name
        assert packed is (family not in NOT_PACKED)
        assert not alone
        assert difference_packed < 1e-4, family
        assert difference_alone < 1e-4, family
    assert re.search(rf"^lost: .*do not hold all weights.*{re.escape(lost)}", answers[0]["lost"])
    assert re.search(rf"^grown: .*no parameter for.*{re.escape(grown)}", answers[0]["grown"])
    assert answers[0]["shape"].startswith("shape: ")
    assert answers[0]["linear is torch's"]
    if isinstance(said := answers[0]["nvme"], str):
        assert re.search(r"cannot be kept on NVMe here: .*libaio", said)
    elif size == 1:
        assert said < 1e-4


def score_here(rank: Rank, directory: Path, asked: list[Query]) -> list[TokenScores]:
    engine, _ = load_zero(CheckpointCard(id="real"), directory, SCORING, rank, allow_pickle=False)
    return engine.score(asked)


@pytest.mark.slow
def test_real_transcripts_with_their_real_tokenizer(shared, tiny_checkpoint):
    from psych_ray.config import TranscriptsConfig, TranscriptSource
    from psych_ray.scoring.scorer import token_indices
    from psych_ray.scoring.tokens.alignment import align
    from psych_ray.transcripts.conditions import condition_named
    from psych_ray.transcripts.sources import read_transcripts

    directory = tiny_checkpoint("Qwen3", shared / "tokenizers/qwen3")
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    config = TranscriptsConfig(source=TranscriptSource.files, path=str(shared / "data/psych-201"), limit=1)
    asked = []
    for transcript in list(read_transcripts(config))[:9]:
        alignment = align(condition_named("plain").render(transcript, None), tokenizer, 700)
        asked.append(Query(alignment.token_ids_T, token_indices(alignment)))
    assert sum(len(query.at_R) for query in asked) > 100
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    expected = WholeModelEngine(model).score(asked)
    for found in on_ranks(2, score_here, directory, asked):
        assert difference(found, expected) < 1e-4


def tokens_at_a_time(rank: Rank, directory: Path) -> tuple[int, int]:
    from psych_ray.checkpoints.find import find_checkpoints
    from psych_ray.config import CheckpointsConfig, CheckpointSource
    from psych_ray.scoring.loading import load_scorers

    found = find_checkpoints(CheckpointsConfig(source=CheckpointSource.local, paths=[str(directory)]))
    scoring = replace(SCORING, engine="deepspeed_zero")
    made = [load_scorers(found, scoring, rank=rank, pass_share=share)[found[0].slug].engine for share in (1, 0.25)]
    return made[0].pass_tokens, made[1].pass_tokens


def layers_counted(rank: Rank, directory: Path, engine: str) -> int:
    from psych_ray.checkpoints.find import find_checkpoints
    from psych_ray.config import CheckpointsConfig, CheckpointSource
    from psych_ray.scoring.loading import load_scorers
    from psych_ray.scoring.work import Work

    (found,) = find_checkpoints(CheckpointsConfig(source=CheckpointSource.local, paths=[str(directory)]))
    work = Work()
    scorer = load_scorers([found], replace(SCORING, engine=engine), rank=rank, work=work)[found.slug]
    before = work.done
    scorer.engine.score([Query(np.arange(90), np.arange(50, 90))])
    return work.done - before


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["deepspeed_zero", "deepspeed_tp"])
def test_every_layer_that_a_rank_runs_counts_as_progress(tiny_checkpoint, byte_tokenizer_directory, engine):
    directory = tiny_checkpoint("Llama", byte_tokenizer_directory)
    assert on_ranks(1, layers_counted, directory, engine) == [2]


@pytest.mark.slow
def test_a_gang_may_run_a_fraction_of_the_tokens_per_pass(tiny_checkpoint, byte_tokenizer_directory):
    (found,) = on_ranks(1, tokens_at_a_time, tiny_checkpoint("Llama", byte_tokenizer_directory))
    assert found == (2048, 512)


def anonymous_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) / 1024


def measured(rank: Rank, *directories: Path) -> list[dict[str, float]]:
    """Anonymous memory that loading takes, at most and in the end, and that is left after closing; MiB."""
    import deepspeed  # noqa: F401  what its modules take is not the question

    answers = []
    for directory in directories:
        before, seen, loaded = anonymous_mib(), [0.0], threading.Event()
        watcher = threading.Thread(target=watch, args=(before, seen, loaded))
        watcher.start()
        scoring = replace(SCORING, dtype="bfloat16")
        engine, _ = load_zero(CheckpointCard(id="large"), directory, scoring, rank, allow_pickle=False)
        loaded.set()
        watcher.join()
        held = anonymous_mib() - before
        engine.score(queries((90, 120)))
        engine.close()
        answers.append({"peak": max(seen), "held": held, "left": anonymous_mib() - before})
    return answers


def watch(before: float, seen: list[float], done: threading.Event) -> None:
    while not done.is_set():
        seen.append(anonymous_mib() - before)
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_rank_never_holds_more_than_its_share_and_a_weight_or_two(tmp_path, monkeypatch):
    # Without these, what is given back stays with the process, in parts too small to use.
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    sizes = []
    for architecture, more in (("Llama", {}), ("Qwen3Moe", EXPERTS | {"num_experts": 8, "moe_intermediate_size": 512})):
        model = tiny(
            architecture, vocab_size=32_000, hidden_size=1024, intermediate_size=4096, num_hidden_layers=6,
            head_dim=64, num_attention_heads=16, num_key_value_heads=8, **more,
        ).to(torch.bfloat16)  # fmt: skip
        model.save_pretrained(tmp_path / architecture)
        sizes.append([weight.numel() * 2 / 2**20 for weight in model.parameters()])
    for answers in on_ranks(2, measured, tmp_path / "Llama", tmp_path / "Qwen3Moe"):
        for found, of_weights in zip(answers, sizes, strict=True):
            share = sum(of_weights) / 2
            assert found["held"] < share + 48, found
            # experts are put together from a list of them, so two copies stand for a moment
            assert found["peak"] < share + 2 * max(of_weights) + 16, found
            assert found["left"] < 64, found


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("n_ranks", [1, 2, 4, 7])
def test_passes_hold_every_query_once_and_load_ranks_evenly(seed, n_ranks):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 300, rng.integers(1, 40)).tolist()
    dealt = passes(lengths, n_ranks, 400)
    assert all(len(by_rank) == n_ranks for by_rank in dealt)
    groups = [group for by_rank in dealt for group in by_rank]
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    loads = [sum(lengths[index] for index in group) for group in groups]
    assert all(load <= 400 for group, load in zip(groups, loads, strict=True) if len(group) > 1)
    assert loads == sorted(loads, reverse=True), "the ranks of a pass have similar loads"
    assert len(dealt) <= 2 * -(-sum(lengths) // (400 * n_ranks))
    alone = passes(lengths, n_ranks, None)
    assert len(alone) == -(-len(lengths) // n_ranks)
    assert all(len(group) <= 1 for by_rank in alone for group in by_rank)
    assert passes([], n_ranks, 400) == []


def test_a_query_beyond_the_limit_is_read_alone():
    assert passes([1000, 10, 10], 1, 100) == [[[0]], [[1, 2]]]


@pytest.mark.parametrize("level", [logging.NOTSET, logging.DEBUG])
def test_output_is_suppressed_and_everything_then_as_before(level, capsys):
    logger, filters, stdout = logging.getLogger("DeepSpeed"), list(warnings.filters), sys.stdout
    before, logger.level = logger.level, level
    try:
        with pytest.raises(KeyError, match=rf"6, {logging.WARNING}"), suppress_output(), suppress_output():
            raise KeyError(sys.stdout.write("hidden"), logger.level)
        assert (logger.level, warnings.filters, sys.stdout) == (level, filters, stdout)
    finally:
        logger.setLevel(before)
    assert capsys.readouterr().out == ""


def config_with(directory: Path, **more: Any) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"} | more))
    return directory


def test_what_it_cannot_do_is_refused_in_one_line(tmp_path):
    one = Rank(0, 1)
    stored = config_with(tmp_path / "stored", quantization_config={"quant_method": "bitsandbytes"})
    plain = config_with(tmp_path / "plain")
    for card, directory in (
        (CheckpointCard(id="a"), stored),
        (CheckpointCard(id="a", quantization="bnb-4bit"), plain),
    ):
        with pytest.raises(CheckpointError, match=r"^a: its weights are quantized.*deepspeed_zero") as caught:
            load_zero(card, directory, SCORING, one, allow_pickle=False)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match=r"^a: it runs modelling code of its own"):
        load_zero(CheckpointCard(id="a", trust_remote_code=True), plain, SCORING, one, allow_pickle=False)
