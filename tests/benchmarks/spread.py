"""How far bfloat16 moves scores: the demo's checkpoints in bfloat16 against float32, and packed against alone.

    python -m tests.benchmarks.spread [--participants 6] [--out FILE]

Differences are per response, in nats: their mean (a bias would move the study's figures), their standard deviation
and the largest.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from psych_ray.checkpoints.find import find_checkpoints
from psych_ray.config import CheckpointsConfig, CheckpointSource, Dtype, ScoringConfig
from psych_ray.demo import demo_checkpoints
from psych_ray.scoring.engines.base import Engine
from psych_ray.scoring.engines.packed import PackedEngine
from psych_ray.scoring.loading import load_scorer
from psych_ray.scoring.scorer import LanguageModelScorer, Truncation
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.simulated import simulated_transcripts


def main() -> None:
    """Measure every demo checkpoint and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--participants", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/spread.json"))
    given = parser.parse_args()
    transcripts = list(simulated_transcripts(participants=given.participants, seed=1))
    directories = demo_checkpoints(Path("~/.cache/psych-ray").expanduser())
    config = CheckpointsConfig(source=CheckpointSource.local, paths=[str(path) for path in directories])
    result = {}
    for checkpoint in find_checkpoints(config):
        exact = scores(load_scorer(checkpoint, ScoringConfig(device="cpu")), transcripts)
        half = load_scorer(checkpoint, ScoringConfig(device="cpu", dtype=Dtype.bfloat16))
        alone = scores(half, transcripts)
        half = LanguageModelScorer(packed(half.engine), half.tokenizer, Truncation())
        together = scores(half, transcripts)
        result[checkpoint.slug] = {
            "nll": round(float(exact.mean()), 4),
            "bfloat16 - float32": spread(alone - exact),
            "packed - alone, both bfloat16": spread(together - alone),
        }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


def scores(scorer: LanguageModelScorer, transcripts: list[Transcript]) -> NDArray[np.float32]:
    """NLL of every scored response."""
    nll = np.concatenate([scored.nll_R for scored in scorer.score(transcripts, condition_named("plain"))])
    return nll[np.isfinite(nll)]


def packed(engine: Any) -> Engine:
    """Pack sixteen thousand tokens per pass, on a CPU with one attention per sequence."""
    return PackedEngine(engine.model, batch_tokens=16_384, attend=one_by_one)


def one_by_one(query, key, value, cu_seqlens, _, max_seqlen, __, *, scale, window_size, enable_gqa):
    """As `varlen_attn`, for attention without a window."""
    assert window_size[0] < 0
    output = []
    for states in zip(*(x.split(cu_seqlens.diff().tolist()) for x in (query, key, value)), strict=True):
        q, k, v = (x.transpose(0, 1)[None] for x in states)
        attended = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scale, enable_gqa=enable_gqa
        )
        output.append(attended[0].transpose(0, 1))
    return torch.cat(output)


def spread(differences: NDArray[np.float32]) -> dict[str, float]:
    """Mean, standard deviation and largest of differences, nats."""
    figures = {"mean": differences.mean(), "sd": differences.std(), "largest": np.abs(differences).max()}
    return {name: float(f"{value:.2g}") for name, value in figures.items()}


if __name__ == "__main__":
    main()
