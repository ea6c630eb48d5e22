"""`make bench`: scoring against the loop and the bare body on this machine's CPU; ratios of one run, as JSON.

    python -m tests.benchmarks.cpu [--shape 0.6b] [--transcripts 1] [--out FILE]

Every figure is the median over rounds in which all contenders take their turn: a noisy machine slows them alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from psych_ray.scoring.engines.base import Engine, Query
from psych_ray.scoring.loading import candidate_engines
from tests.benchmarks.loop import loop_nll, loop_top1
from tests.benchmarks.preparing import preparing
from tests.benchmarks.shapes import SHARED, like_real, random_model, real_queries


def main() -> None:
    """Run all parts and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="0.6b")
    parser.add_argument("--transcripts", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-of", type=int, default=0, help="only: peak memory at this many tokens")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/cpu.json"))
    given = parser.parse_args()
    if given.memory_of:
        print(json.dumps(memory(given.shape, given.memory_of)))
        return
    result = {"threads": torch.get_num_threads(), "torch": torch.__version__, "shape": given.shape}
    result["speed"] = speed(given.shape, given.transcripts, given.rounds)
    if SHARED.is_dir():
        result["preparing"] = preparing()
    result["memory"] = [_in_a_process_of_its_own(given.shape, tokens) for tokens in (16_000, 40_000)]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


def speed(shape: str, n: int, rounds: int) -> dict[str, object]:
    """Compare scoring with the loop (once for NLL, twice with accuracy) and with the body alone."""
    queries = real_queries(tokens=2048, n=n) if SHARED.is_dir() else like_real(n=n)
    model = random_model(shape, dtype=torch.float32, device="cpu")
    engine = fastest(model)
    contenders: dict[str, Callable[[], object]] = {
        "body": lambda: [body(model, query) for query in queries],
        "scoring": lambda: engine.score(queries),
        "loop": lambda: loop_nll(model, queries),
        "loop_accuracy": lambda: loop_top1(model, queries),
    }
    by_loop, by_engine = loop_nll(model, queries), engine.score(queries)
    differences = [np.abs(np.array(a) - b.nll_R).max() for a, b in zip(by_loop, by_engine, strict=True)]
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    ratios = {
        "loop / scoring": [a / b for a, b in zip(seconds["loop"], seconds["scoring"], strict=True)],
        "loop for NLL and accuracy / scoring": [
            (a + c) / b for a, b, c in zip(seconds["loop"], seconds["scoring"], seconds["loop_accuracy"], strict=True)
        ],
        "scoring / body": [a / b for a, b in zip(seconds["scoring"], seconds["body"], strict=True)],
    }
    return {
        "engine": engine.name,
        "transcripts": [len(query.token_ids_T) for query in queries],
        "responses_tokens": [len(query.at_R) for query in queries],
        "largest_difference_nats": float(max(differences)),
        "seconds": seconds,
        "median_ratio": {name: round(statistics.median(values), 3) for name, values in ratios.items()},
        "ratios": ratios,
    }


def fastest(model: PreTrainedModel) -> Engine:
    """Build the engine that a replica uses on this machine."""
    return next(iter(candidate_engines(model).values()))()


@torch.inference_mode()
def body(model: torch.nn.Module, query: Query) -> torch.Tensor:
    """Run the bare transformer body over one transcript."""
    return model.model(input_ids=torch.from_numpy(query.token_ids_T)[None], use_cache=False).last_hidden_state


def memory(shape: str, tokens: int) -> dict[str, object]:
    """Peak resident memory above the weights while one transcript is scored."""
    rng = np.random.default_rng(0)
    wanted = np.sort(rng.choice(np.arange(1, tokens), tokens // 18, replace=False))
    query = Query(rng.integers(0, 150_000, tokens), wanted)
    model = random_model(shape, dtype=torch.float32, device="cpu")
    engine = fastest(model)
    engine.score([Query(query.token_ids_T[:64], np.arange(1, 64))])
    before, peak, done = _resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    engine.score([query])
    done.set()
    watcher.join()
    return {
        "tokens": tokens,
        "wanted": len(query.at_R),
        "peak_above_weights_gb": round((peak[0] - before) / 1e9, 3),
        "all_logits_would_take_gb": round(tokens * model.config.vocab_size * 4 / 1e9, 1),
        "seconds": round(time.perf_counter() - began, 1),
    }


def _in_a_process_of_its_own(shape: str, tokens: int) -> dict[str, object]:
    arguments = [sys.executable, "-m", "tests.benchmarks.cpu", "--shape", shape, "--memory-of", str(tokens)]
    run = subprocess.run(arguments, capture_output=True, text=True, check=True)
    answer: dict[str, object] = json.loads(run.stdout.splitlines()[-1])
    return answer


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
