"""Scoring against the loop on one GPU, random weights in bfloat16; needs torch and transformers only.

    python -m tests.benchmarks.gpu [--shape 0.6b 8b] [--zero 8b] [--transcripts 64] [--out FILE]

`--zero` also scores with ZeRO stage 3, parameters in the machine's memory, and needs DeepSpeed.

Times are CUDA events, medians of the rounds. Model FLOPs: 2 a parameter of the body and token, plus the attention's
4 a layer, token, width and token attended to, plus the head where it is wanted; of the H100's 989 TFLOP/s in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from psych_ray.scoring.engines.base import Query, TransformersEngine
from psych_ray.scoring.engines.packed import PackedEngine
from tests.benchmarks.loop import loop_nll
from tests.benchmarks.shapes import VOCABULARY, like_real, random_model

PEAK_FLOPS = 989e12


def main() -> None:
    """Run all shapes and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", nargs="+", default=["0.6b", "8b"])
    parser.add_argument("--zero", nargs="*", default=[])
    parser.add_argument("--transcripts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, default=16_384)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/gpu.json"))
    given = parser.parse_args()
    result: dict[str, object] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    for shape in given.shape:
        result[shape] = measure(shape, given.transcripts, given.rounds, given.batch_tokens)
        torch.cuda.empty_cache()
    for shape in given.zero:
        result[f"{shape}, deepspeed_zero"] = measure_zero(shape, given.transcripts)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


def measure(shape: str, n: int, rounds: int, batch_tokens: int) -> dict[str, object]:
    """Time the loop, one sequence at a time, and packs."""
    model = random_model(shape, dtype=torch.bfloat16, device="cuda")
    queries = like_real(n=n)
    few = queries[: max(4, n // 8)]
    alone, packed = TransformersEngine(model), PackedEngine(model, batch_tokens=batch_tokens)
    expected, found = alone.score(few), packed.score(few)
    spread = np.concatenate([np.abs(a.nll_R - b.nll_R) for a, b in zip(found, expected, strict=True)])
    torch.cuda.reset_peak_memory_stats()
    seconds = {
        "packed": milliseconds(lambda: packed.score(queries), rounds) / 1e3,
        "alone": milliseconds(lambda: alone.score(queries), rounds) / 1e3,
    }
    peak = torch.cuda.max_memory_allocated()
    # the loop is slow: a part of the queries, and the packed engine on the same part
    seconds["loop, part"] = milliseconds(lambda: loop_nll(model, few), rounds) / 1e3
    seconds["packed, part"] = milliseconds(lambda: packed.score(few), rounds) / 1e3
    tokens = sum(query.length for query in queries)
    return {
        "seconds": seconds,
        "tokens_per_s": round(tokens / seconds["packed"]),
        "model_flops_utilisation": round(flops(model, queries) / seconds["packed"] / PEAK_FLOPS, 3),
        "loop / packed": round(seconds["loop, part"] / seconds["packed, part"], 2),
        "alone / packed": round(seconds["alone"] / seconds["packed"], 2),
        "batch_tokens": packed.batch_tokens,
        "peak_memory_gb": round(peak / 1e9, 1),
        "bfloat16_spread_nats": {"mean": float(spread.mean()), "largest": float(spread.max())},
    }


def measure_zero(shape: str, n: int) -> dict[str, object]:
    """Load a random checkpoint of this shape over one rank by ZeRO, and score with it once."""
    from psych_ray.config import CheckpointCard, Dtype, ScoringConfig
    from psych_ray.scoring.engines.sharded.process_group import Rendezvous
    from psych_ray.scoring.engines.sharded.zero import load_zero

    queries = like_real(n=n)
    with tempfile.TemporaryDirectory() as directory:
        random_model(shape, dtype=torch.bfloat16, device="cuda").save_pretrained(directory)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        rank = Rendezvous("127.0.0.1", 1, timeout_s=600).join(1, device="cuda")
        card, scoring = CheckpointCard(id=shape, path=directory), ScoringConfig(dtype=Dtype.bfloat16)
        engine, _ = load_zero(card, Path(directory), scoring, rank, allow_pickle=False)
        seconds = milliseconds(lambda: engine.score(queries), 1) / 1e3
        engine.close()
    return {
        "seconds": seconds,
        "tokens_per_s": round(sum(query.length for query in queries) / seconds),
        "pass_tokens": engine.pass_tokens,
        "peak_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 1),
    }


def flops(model: torch.nn.Module, queries: list[Query]) -> float:
    """Operations that scoring needs, whoever does it."""
    config = model.config
    embeddings = VOCABULARY * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    body = sum(parameter.numel() for parameter in model.parameters()) - embeddings
    width = config.num_attention_heads * config.head_dim
    total = 0.0
    for query in queries:
        total += 2.0 * body * query.length + 2.0 * config.num_hidden_layers * width * query.length**2
        total += 2.0 * config.hidden_size * VOCABULARY * len(query.at_R)
    return total


def milliseconds(run: Callable[[], object], rounds: int) -> float:
    """Median time between two CUDA events around a run, one run before that for warming up."""
    run()
    times = []
    for _ in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


if __name__ == "__main__":
    main()
