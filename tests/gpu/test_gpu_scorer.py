"""Checkpoints loaded and scored on a GPU as a replica does it, and a whole sweep there, against the CPU in float32."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from psych_ray.config import Dtype, ScoringConfig
from psych_ray.scoring import load_scorer
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.simulated import simulated_transcripts

_PSYCH_RAY = "from psych_ray.cli.main import run_and_exit; run_and_exit()"
ARCHITECTURES = ["Llama", "Qwen2", "Qwen3", "Olmo2", "Olmo3", "Gemma3Text"]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint, byte_tokenizer_directory):
    def make(architecture: str) -> Path:
        return tiny_checkpoint(architecture, byte_tokenizer_directory)

    return make


def scores(directory: Path, **settings) -> tuple[str, np.ndarray]:
    scorer = load_scorer(directory, ScoringConfig(**settings))
    found = list(scorer.score(simulated_transcripts(participants=3, seed=1), condition_named("plain")))
    return scorer.engine_name, np.concatenate([one.nll_R / one.n_tokens_R.clip(1) for one in found])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_is_packed_and_near_float32(architecture, checkpoint):
    directory = checkpoint(architecture)
    _, expected = scores(directory, device="cpu")
    engine, found = scores(directory, dtype=Dtype.bfloat16)
    assert engine == "transformers, packed"
    assert np.isfinite(found).all()
    assert np.abs(found - expected).mean() < 0.1


def test_float32_is_the_same_as_on_a_cpu(checkpoint):
    directory = checkpoint("Qwen3")
    (_, expected), (_, found) = scores(directory, device="cpu"), scores(directory)
    assert np.abs(found - expected).max() < 2e-4


@pytest.mark.ray
@pytest.mark.parametrize("engine", ["auto", "deepspeed_zero"])
def test_a_whole_sweep(engine, checkpoint, tmp_path):
    for library in ["ray", "polars", "deltalake", *(["deepspeed"] if engine != "auto" else [])]:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    import polars as pl

    from psych_ray.results.footers import read_footers
    from psych_ray.results.log import ResponsesLog
    from psych_ray.results.store import open_store

    def sweep(root: str, *settings: str) -> pl.DataFrame:
        of_root = [f"checkpoints.paths=[{directory}]", "transcripts.participants=3", f"results.root={tmp_path / root}"]
        command = [sys.executable, "-c", _PSYCH_RAY, "sweep", "checkpoints=local", *of_root, *settings]
        found = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
        assert found.returncode == 0, found.stdout + found.stderr
        return pl.read_delta(str(tmp_path / root / "responses")).sort("study", "participant", "response")

    directory = checkpoint("Qwen3")
    found = sweep("gpu", f"scoring.engine={engine}", "scoring.dtype=bfloat16")
    expected = sweep("cpu", "scoring.device=cpu")
    assert found.select("transcript", "response", "status").equals(expected.select("transcript", "response", "status"))
    difference = (found["nll"] / found["n_tokens"] - expected["nll"] / expected["n_tokens"]).abs().mean()
    assert difference is not None
    assert difference < 0.1
    store = open_store(str(tmp_path / "gpu"))
    footers = [part.footer for part in read_footers(store, ResponsesLog(store).parts())]
    assert {footer.device for footer in footers} == {"GPU"}
