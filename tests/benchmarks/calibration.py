"""What `scoring.calibration` costs: time of scoring on this machine's CPU, size of a part, with it against without.

    python -m tests.benchmarks.calibration [--shape 0.6b] [--tokens 1024] [--rounds 5] [--threads 1] [--out FILE]

Both take turns on the same queries, so that a noisy machine slows them alike; ratios are medians over the rounds. With
one thread the time that the processor worked is also right where other processes take most of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from psych_ray.demo import demo_checkpoints
from psych_ray.results.parts import responses_table, to_parquet
from psych_ray.scoring.engines.base import Query
from psych_ray.scoring.loading import load_scorer
from psych_ray.scoring.scored import ScoredTranscript
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.simulated import simulated_transcripts
from tests.benchmarks.contender import fastest
from tests.benchmarks.shapes import SHARED, like_real, random_model, real_queries


def main() -> None:
    """Run both parts and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="0.6b")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--transcripts", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/calibration.json"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    result = {
        "threads": torch.get_num_threads(),
        "shape": given.shape,
        "time": cost(given.shape, given.tokens, given.transcripts, given.rounds),
        "part": size_of_part(),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


def cost(shape: str, tokens: int, n: int, rounds: int) -> dict[str, object]:
    """Compare the seconds of `score` with eight options of the participant and without calibration."""
    plain = real_queries(tokens=tokens, n=n) if SHARED.is_dir() else like_real(n=n)
    queries = {"without": plain, "with": [replace(query, options_K=options_of(query)) for query in plain]}
    engine = fastest(random_model(shape, dtype=torch.float32, device="cpu"))
    engine.score(queries["with"])
    clocks = {"elapsed": time.perf_counter, "worked": time.process_time}
    seconds: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in queries} for clock in clocks}
    for number in range(rounds):
        for name in sorted(queries, reverse=bool(number % 2)):
            began = {clock: read() for clock, read in clocks.items()}
            engine.score(queries[name])
            for clock, read in clocks.items():
                seconds[clock][name].append(read() - began[clock])
    return {
        "engine": engine.name,
        "tokens": [len(query.token_ids_T) for query in plain],
        "scored_tokens": [len(query.at_R) for query in plain],
        "seconds": seconds,
        "median_ratio": {
            clock: round(statistics.median(a / b for a, b in zip(of["with"], of["without"], strict=True)), 4)
            for clock, of in seconds.items()
        },
    }


def options_of(query: Query) -> np.ndarray:
    """Eight tokens of the query: what they are does not change the cost."""
    return np.unique(query.token_ids_T)[:8]


def size_of_part(participants: int = 40) -> dict[str, object]:
    """Compare the bytes of a part of simulated participants scored by a demo checkpoint."""
    directory = demo_checkpoints(Path("~/.cache/psych-ray").expanduser())[1]
    transcripts = list(simulated_transcripts(participants=participants, seed=1))
    scored = list(load_scorer(directory).score(transcripts, condition_named("plain")))
    rows = sum(len(one.status_R) for one in scored)
    sizes = {"with": bytes_of(scored), "without": bytes_of([replace(one, calibration_RC=None) for one in scored])}
    return {"rows": rows, "bytes_per_row": {name: round(size / rows, 2) for name, size in sizes.items()}}


def bytes_of(scored: list[ScoredTranscript]) -> int:
    """Size of the Parquet file of these responses, without its footer's facts."""
    return len(to_parquet(responses_table(scored)))


if __name__ == "__main__":
    main()
