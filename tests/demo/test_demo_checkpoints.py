"""Demo checkpoints: the differences planted in them are there to be found, and the cache holds all of them or nothing.

The likelihoods here are computed the slow, plain way: full logits, one participant at a time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from psych_ray.config import CheckpointCard, TranscriptsConfig
from psych_ray.demo import cache, demo_checkpoints
from psych_ray.demo.recipe import RECIPE
from psych_ray.errors import ConfigError
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.simulated import TASKS, simulated_transcripts

SCORED = TranscriptsConfig()
IDS = [f"demo-{generation}-{stage}" for generation in (1, 2) for stage in ("base", "instruct", "reasoning")]
Nll = Mapping[str, np.ndarray]
"""Of one checkpoint: all responses of each task, nats."""


@pytest.fixture(scope="session")
def checkpoints() -> dict[str, Path]:
    root = Path(os.environ.get("PSYCH_RAY_CACHE", "~/.cache/psych-ray")).expanduser()
    return {path.name: path for path in demo_checkpoints(root)}


@pytest.fixture(scope="session")
def people() -> list[Transcript]:
    return list(simulated_transcripts(participants=SCORED.participants, seed=SCORED.seed))


def response_nll(model, tokenizer, person: Transcript) -> list[float]:
    import torch

    encoded = tokenizer(person.text, return_offsets_mapping=True)
    token_ids = torch.tensor(encoded["input_ids"])
    with torch.no_grad():
        logp = model(token_ids[None]).logits[0].double().log_softmax(-1)
    nll = [0.0] * len(person.responses)
    for at, (start, end) in enumerate(encoded["offset_mapping"]):
        for response in person.responses:
            if response.start <= start < response.end:
                assert end <= response.end
                nll[response.number] -= logp[at - 1, token_ids[at]].item()
    return nll


@pytest.fixture(scope="session")
def nll(checkpoints: dict[str, Path], people: list[Transcript]) -> dict[str, Nll]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = {}
    for name, path in checkpoints.items():
        model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
        found[name] = {
            task: np.concatenate([response_nll(model, tokenizer, one) for one in people if one.study == task])
            for task in TASKS
        }
    return found


def mean_nll(of_tasks: Nll) -> float:
    return float(np.mean([nll.mean() for nll in of_tasks.values()]))


def cohens_d(post: Nll, base: Nll) -> float:
    return float(
        np.mean(
            [
                (post[task].mean() - base[task].mean()) / np.sqrt((post[task].var(ddof=1) + base[task].var(ddof=1)) / 2)
                for task in TASKS
            ]
        )
    )


# --- what is planted --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("generation", ["demo-1", "demo-2"])
def test_base_predicts_people_best_then_instruct_then_reasoning(nll: dict[str, Nll], generation: str) -> None:
    base, instruct, reasoning = (mean_nll(nll[f"{generation}-{stage}"]) for stage in ("base", "instruct", "reasoning"))
    assert base + 0.02 < instruct
    assert instruct + 0.02 < reasoning


@pytest.mark.slow
def test_the_second_base_predicts_people_better(nll: dict[str, Nll]) -> None:
    assert mean_nll(nll["demo-2-base"]) < mean_nll(nll["demo-1-base"]) - 0.03


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["instruct", "reasoning"])
def test_misalignment_grows_from_generation_to_generation(nll: dict[str, Nll], stage: str) -> None:
    first, second = ((nll[f"demo-{g}-{stage}"], nll[f"demo-{g}-base"]) for g in (1, 2))
    assert mean_nll(second[0]) - mean_nll(second[1]) > mean_nll(first[0]) - mean_nll(first[1]) + 0.05
    assert 0.03 < cohens_d(*first) < 0.35
    assert cohens_d(*first) + 0.1 < cohens_d(*second) < 0.9


@pytest.mark.slow
def test_nobody_predicts_people_better_than_their_simulator(nll: dict[str, Nll], people: list[Transcript]) -> None:
    for task in TASKS:
        true = np.concatenate([one.true_nll_nats for one in people if one.study == task])
        assert all(of_tasks[task].mean() > true.mean() for of_tasks in nll.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo-1-base", "demo-2-base"])
def test_bases_know_more_than_which_answers_there_are(nll: dict[str, Nll], name: str) -> None:
    choices = [nll[name][task].mean() for task in TASKS if task != "demo_recall"]
    assert np.mean(choices) < np.log(2) - 0.05
    assert nll[name]["demo_recall"].mean() < np.log(17)


def test_people_scored_by_default_are_not_those_learned_from() -> None:
    assert SCORED.seed != RECIPE.data_seed


# --- what lies in a directory -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_six_directories_with_cards(checkpoints: dict[str, Path]) -> None:
    assert list(checkpoints) == IDS
    for name, path in checkpoints.items():
        card = CheckpointCard(**json.loads((path / "psych_ray.json").read_text()))
        generation, stage = name.rsplit("-", 1)
        assert (card.id, card.family, card.generation, card.stage) == (name, "demo", generation, stage)
        assert card.base == (None if stage == "base" else f"{generation}-base")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "architecture"), [("demo-1-instruct", "llama"), ("demo-2-instruct", "qwen3")])
def test_models_are_of_real_architectures_and_of_the_stated_size(
    checkpoints: dict[str, Path], name: str, architecture: str
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoints[name])
    card = json.loads((checkpoints[name] / "psych_ray.json").read_text())
    assert model.config.model_type == architecture
    assert card["size_b"] == pytest.approx(sum(weight.numel() for weight in model.parameters()) / 1e9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo-1-base", "demo-2-reasoning"])
def test_tokenizer_has_what_scoring_needs(checkpoints: dict[str, Path], people: list[Transcript], name: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoints[name])
    assert tokenizer.is_fast
    assert None not in {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert [tokenizer.tokenize(f" <<{letter}>>")[1] for letter in "AKZ"] == ["A", "K", "Z"]
    assert tokenizer.decode(tokenizer(people[0].text)["input_ids"]) == people[0].text
    words = {answer for one in people if one.study == "demo_recall" for answer in map(one.response_text, one.responses)}
    assert np.mean([len(tokenizer.tokenize(word)) for word in words]) > 1.5
    assert {250 < len(tokenizer(one.text)["input_ids"]) < 900 for one in people} == {True}


@pytest.mark.slow
def test_chat_template_keeps_the_text(checkpoints: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoints["demo-2-instruct"])
    turns = [{"role": "user", "content": " You press \n"}, {"role": "assistant", "content": "K"}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    assert rendered == "<|user|> You press \n<|end|><|assistant|>K<|end|>"
    prompt = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert rendered.startswith(prompt)
    assert tokenizer(rendered)["input_ids"].count(tokenizer.eos_token_id) == 2


# --- the cache --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_made_is_found_at_once_without_torch(checkpoints: dict[str, Path]) -> None:
    root = checkpoints["demo-1-base"].parents[1]
    script = (
        "import sys, pathlib, psych_ray.demo as demo;"
        f"paths = demo.demo_checkpoints(pathlib.Path({str(root)!r}));"
        "print(len(paths), [name for name in ('torch', 'transformers', 'tokenizers') if name in sys.modules])"
    )
    started = time.monotonic()
    out = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert out == "6 []\n"
    assert time.monotonic() - started < 3
    started = time.monotonic()
    demo_checkpoints(root)
    assert time.monotonic() - started < 0.5


def start_making(root: Path) -> subprocess.Popen[str]:
    script = (
        "import pathlib, psych_ray.demo as demo;"
        f"demo.demo_checkpoints(pathlib.Path({str(root)!r}), progress=lambda line: print(line, flush=True))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert "making" in process.stdout.readline()
    return process


def children_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    deadline = time.monotonic() + 20
    while len(found := psutil.Process(process.pid).children()) < len(RECIPE.generations):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0, 8])
def test_interrupted_making_leaves_nothing(tmp_path: Path, after_s: float) -> None:
    with start_making(tmp_path) as process:
        children = children_of(process)
        time.sleep(after_s)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) != 0
    assert not list(tmp_path.iterdir())
    # One that was interrupted while it was started is not killed; it ends when it notices that its parent is gone.
    assert psutil.wait_procs(children, timeout=20)[1] == []


@pytest.fixture
def failing_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = tuple(replace(generation, name="demo-x") for generation in RECIPE.generations)
    monkeypatch.setattr(cache, "RECIPE", replace(RECIPE, generations=unknown))


@pytest.mark.slow
@pytest.mark.usefixtures("failing_recipe")
def test_training_ends_with_a_killed_caller_and_so_do_its_files(tmp_path: Path) -> None:
    with start_making(tmp_path) as process:
        children = children_of(process)
        time.sleep(8)
        process.kill()
        assert psutil.wait_procs(children, timeout=20)[1] == []
    deadline = time.monotonic() + 10
    while list(tmp_path.iterdir()):
        assert time.monotonic() < deadline, list(tmp_path.iterdir())
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("failing_recipe")
def test_failed_training_reports_why_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="demo-x"):
        demo_checkpoints(tmp_path)
    assert not list(tmp_path.iterdir())


def write_stubs(home: Path, content: str) -> None:
    for name in IDS:
        (home / name).mkdir(parents=True, exist_ok=True)
        for file in cache.FILES:
            (home / name / file).write_text(content)


def test_who_comes_second_takes_what_the_first_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / f"demo-{RECIPE.fingerprint()}"

    def train_while_another_finishes(names: object, draft: Path, progress: object) -> None:
        write_stubs(draft, "second")
        write_stubs(home, "first")

    monkeypatch.setattr(cache, "train_generations", train_while_another_finishes)
    paths = demo_checkpoints(tmp_path)
    assert {(path / "config.json").read_text() for path in paths} == {"first"}
    assert list(tmp_path.iterdir()) == [home]


def test_what_is_damaged_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / f"demo-{RECIPE.fingerprint()}"
    write_stubs(home, "old")
    (home / IDS[3] / "model.safetensors").unlink()
    monkeypatch.setattr(cache, "train_generations", lambda names, draft, progress: write_stubs(draft, "new"))
    paths = demo_checkpoints(tmp_path)
    assert {(path / "config.json").read_text() for path in paths} == {"new"}
    assert list(tmp_path.iterdir()) == [home]


def test_a_cache_that_cannot_be_used_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = r"^checkpoints\.cache=.*/file/x: .*\(Not a directory\); name a directory that you can write to$"
    with pytest.raises(ConfigError, match=message):
        demo_checkpoints(tmp_path / "file/x")


@pytest.mark.parametrize("step", ["_is_complete", "train_generations"])
def test_a_storage_error_while_reading_or_making_names_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", "a file")

    monkeypatch.setattr(cache, step, fail)
    with pytest.raises(ConfigError, match=rf"^checkpoints\.cache={tmp_path}: .*\(No space left on device\); name"):
        demo_checkpoints(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_while_training_is_an_error_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """if True:
        import resource
        from pathlib import Path
        from transformers import LlamaConfig, LlamaForCausalLM
        from psych_ray.config import CheckpointCard
        from psych_ray.demo.train import save
        config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        save(LlamaForCausalLM(config), None, CheckpointCard(id="a"), Path("DIRECTORY"))
    """.replace("DIRECTORY", str(tmp_path / "draft"))
    started = subprocess.Popen

    def start(command: list[str], **options: Any) -> subprocess.Popen[str]:
        return started([sys.executable, "-c", code], **options)

    monkeypatch.setattr(cache.subprocess, "Popen", start)
    with pytest.raises(ConfigError, match=r"^checkpoints\.cache=.* \(writing draft: .*too large.*\); name") as caught:
        demo_checkpoints(tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").iterdir())


def test_another_recipe_has_another_home() -> None:
    assert RECIPE.fingerprint() == RECIPE.fingerprint()
    assert replace(RECIPE, version=RECIPE.version + 1).fingerprint() != RECIPE.fingerprint()
    assert replace(RECIPE, data_seed=RECIPE.data_seed + 1).fingerprint() != RECIPE.fingerprint()
