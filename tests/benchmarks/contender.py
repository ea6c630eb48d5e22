"""A process that runs one version of psych_ray, or what it is compared with, on the same queries when it is told to.

Two versions cannot be imported into one process, and each needs a turn in each round. Reads a line of JSON for each
run, and answers with one. The version is the one that PYTHONPATH names first.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from psych_ray.scoring.engines.base import Engine, Query
from psych_ray.scoring.loading import candidate_engines
from tests.benchmarks.loop import loop_nll, loop_top1
from tests.benchmarks.shapes import SHAPES, flops, random_model

_PRODUCT = 4096
"""Rows, columns and depth of the product whose rate others are compared with."""


class Contender:
    """Runs one thing at a time with one random checkpoint."""

    def __init__(self, shape: str, layers: int | None, queries: list[Query]) -> None:
        if layers is not None:
            SHAPES[shape]["num_hidden_layers"] = layers
        self.model = random_model(shape, dtype=torch.float32, device="cpu")
        self.engine = fastest(self.model)
        self.queries = queries
        self._square = torch.randn(_PRODUCT, _PRODUCT)

    def run(self, what: str) -> dict[str, Any]:
        """Run and time one of the methods below."""
        method: Callable[[], dict[str, Any] | None] = getattr(self, what)
        began = time.perf_counter()
        answer = method() or {}
        return {"seconds": time.perf_counter() - began} | answer

    def scoring(self) -> None:
        """Score all queries."""
        self.engine.score(self.queries)

    def nll(self) -> dict[str, Any]:
        """Score all queries; what was found, and what this version calls its engine."""
        scores = self.engine.score(self.queries)
        return {
            "engine": self.engine.name,
            "flops": flops(self.model, self.queries),
            "nll": [one.nll_R.tolist() for one in scores],
        }

    def loop(self) -> dict[str, Any]:
        """Score with the loop."""
        return {"nll": loop_nll(self.model, self.queries)}

    def loop_accuracy(self) -> None:
        """Run the loop for accuracy."""
        loop_top1(self.model, self.queries)

    @torch.inference_mode()
    def body(self) -> None:
        """Run the bare transformer body over each transcript."""
        for query in self.queries:
            ids_1T = torch.from_numpy(query.token_ids_T)[None]
            self.model.model(input_ids=ids_1T, use_cache=False)

    def product(self) -> dict[str, Any]:
        """Multiply two large matrices with oneDNN."""
        from psych_ray.scoring.engines.onednn import linear

        linear(self._square, self._square)
        return {"flops": 2.0 * _PRODUCT**3}

    def memory(self) -> dict[str, Any]:
        """Peak resident memory above the weights while the queries are scored."""
        self.engine.score([Query(self.queries[0].token_ids_T[:64], np.arange(1, 64))])
        before, peak, done = _resident(), [0], threading.Event()

        def watch() -> None:
            while not done.wait(0.01):
                peak[0] = max(peak[0], _resident())

        watcher = threading.Thread(target=watch)
        watcher.start()
        self.engine.score(self.queries)
        done.set()
        watcher.join()
        return {"peak_above_weights_gb": round((peak[0] - before) / 1e9, 3)}


def fastest(model: PreTrainedModel) -> Engine:
    """Build the engine that a replica uses on this machine."""
    return next(iter(candidate_engines(model).values()))()


def save_queries(path: Path, queries: list[Query]) -> None:
    """Write queries for a contender."""
    arrays = [array for query in queries for array in (query.token_ids_T, query.at_R)]
    np.savez(path, *arrays)


def _load_queries(path: Path) -> list[Query]:
    with np.load(path) as stored:
        arrays = [stored[f"arr_{k}"] for k in range(len(stored.files))]
    return [Query(ids, at) for ids, at in zip(arrays[::2], arrays[1::2], strict=True)]


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Serve runs until standard input ends."""
    shape, layers, path = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is no answer
    contender = Contender(shape, int(layers) or None, _load_queries(Path(path)))
    for line in sys.stdin:
        print(json.dumps(contender.run(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
