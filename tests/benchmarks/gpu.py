"""`make gpu`: scoring against the loop on one GPU, random weights in bfloat16, as one table.

    python -m tests.benchmarks.gpu [--shape 0.6b 8b] [--zero 8b] [--transcripts 64] [--out FILE]

Needs torch and transformers only; `--zero` also scores with ZeRO stage 3, parameters in the machine's memory, and needs
DeepSpeed. Times are CUDA events, medians of rounds in which all contenders take their turn. Model FLOPs: 2 a parameter
of the body and token, plus the attention's 4 a layer, token, width and token attended to, plus the head where it is
wanted; as a share of what a product of 8192 x 8192 matrices reaches in the same run.

`--device cpu --shape tiny` runs all of it in float32 without a GPU: for tests of this program, not for its numbers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from psych_ray.scoring.engines.base import TransformersEngine
from psych_ray.scoring.engines.packed import PackedEngine
from psych_ray.scoring.engines.packs import PASS_TOKENS
from psych_ray.scoring.loading import candidate_engines
from psych_ray.scoring.scorer import LanguageModelScorer, Truncation
from psych_ray.transcripts.conditions import condition_named
from tests.benchmarks.gpu_profile import shares_of_time
from tests.benchmarks.loop import loop_nll
from tests.benchmarks.shapes import (
    SHARED,
    flops,
    like_real,
    random_model,
    real_tokenizer,
    real_transcripts,
)

NO_GPU = "no GPU of NVIDIA: PyTorch sees none here, so nothing was measured"


def main() -> None:
    """Run all shapes and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", nargs="+", default=["0.6b", "8b"])
    parser.add_argument("--zero", nargs="*", default=[])
    parser.add_argument("--transcripts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--longest", type=int, default=30_000)
    parser.add_argument("--batch-tokens", type=int, default=PASS_TOKENS)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/gpu.json"))
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print(NO_GPU)
        return
    bench = Benchmark(torch.device(given.device), given.transcripts, given.rounds, given.batch_tokens, given.longest)
    name = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    result: dict[str, Any] = {"device": name, "torch": torch.__version__}
    result["product_tflops"] = round(bench.product_rate() / 1e12, 2)
    shapes: dict[str, dict[str, Any]] = {}
    for shape in given.shape:
        shapes[shape] = bench.measure(shape)
    for shape in given.zero:
        shapes[f"{shape}, deepspeed_zero"] = bench.measure_zero(shape)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result | {"shapes": shapes}, indent=1))
    print(f"{name}, torch {torch.__version__}, a large product: {result['product_tflops']} TFLOP/s")
    print(table(shapes))


class Benchmark:
    """Measures shapes on one device, with the same queries."""

    def __init__(self, device: torch.device, transcripts: int, rounds: int, batch_tokens: int, longest: int) -> None:
        self.device = device
        self.is_cuda = device.type == "cuda"
        self.dtype = torch.bfloat16 if self.is_cuda else torch.float32
        self.queries = like_real(n=transcripts, longest=longest)
        self.rounds = rounds
        self.batch_tokens = batch_tokens
        self._product_rate = 0.0

    def product_rate(self) -> float:
        """Operations a second of a large product."""
        n = 8192 if self.is_cuda else 1024
        a, b = (torch.randn(n, n, device=self.device, dtype=self.dtype) for _ in range(2))
        self._product_rate = 2 * n**3 / self.seconds(lambda: [a @ b for _ in range(10)], 5) * 10
        return self._product_rate

    def measure(self, shape: str) -> dict[str, Any]:
        """Time the loop, one sequence at a time, packs, packs with compiled modules, and the whole scorer."""
        model = random_model(shape, dtype=self.dtype, device=self.device.type)
        few = self.queries[: max(4, len(self.queries) // 8)]
        alone, packed = TransformersEngine(model), self.packed(model)
        spread = np.concatenate(
            [np.abs(a.nll_R - b.nll_R) for a, b in zip(packed.score(few), alone.score(few), strict=True)]
        )
        self.reset_peak()
        held = self.allocated()
        packed.score(self.queries)
        peak = self.peak() - held
        # the loop is slow: a part of the queries, and the packed engine on the same part
        seconds = self.in_turn(
            {
                "loop, part": lambda: loop_nll(model, few),
                "packed, part": lambda: packed.score(few),
                "alone": lambda: alone.score(self.queries),
                "packed": lambda: packed.score(self.queries),
            }
        )
        tokens = sum(query.length for query in self.queries)
        rate = flops(model, self.queries) / seconds["packed"]
        return {
            "tokens/s": round(tokens / seconds["packed"]),
            "loop / packed": round(seconds["loop, part"] / seconds["packed, part"], 2),
            "alone / packed": round(seconds["alone"] / seconds["packed"], 2),
            "share of the product's rate": round(rate / self._product_rate, 3),
            "TFLOP/s": round(rate / 1e12, 1),
            "peak above weights, GB": round(peak / 1e9, 2),
            "batch tokens": packed.batch_tokens,
            "packed - alone, mean nats": float(f"{spread.mean():.1e}"),
            "packed - alone, most nats": float(f"{spread.max():.1e}"),
            **self.whole_scorer(model),
            **shares_of_time(lambda: packed.score(self.queries), self.device),
            "alone / packed, compiled": self.is_cuda and round(seconds["alone"] / self.compiled_seconds(model), 2),
            "seconds": seconds,
        }

    def packed(self, model: PreTrainedModel) -> Any:
        """The engine that a replica uses, where it is a packed one."""
        if self.is_cuda:
            return PackedEngine(model, batch_tokens=self.batch_tokens)
        return next(iter(candidate_engines(model).values()))()

    def whole_scorer(self, model: PreTrainedModel) -> dict[str, Any]:
        """Tokens a second from texts to scores, on real transcripts, and the share of time that waited for tokens."""
        if not SHARED.is_dir():
            return {"whole scorer, tokens/s": "no real transcripts", "whole scorer, waited": None}
        transcripts = real_transcripts(2 if self.is_cuda else 1)
        if not self.is_cuda:
            transcripts = sorted(transcripts, key=lambda one: len(one.text))[:4]
        scorer = LanguageModelScorer(self.packed(model), real_tokenizer(), Truncation(32_768))
        began = time.perf_counter()
        read = sum(scored.tokens_read for scored in scorer.score(transcripts, condition_named("plain")))
        seconds = time.perf_counter() - began
        return {
            "whole scorer, tokens/s": round(read / seconds),
            "whole scorer, waited": round(scorer.idle_seconds / seconds, 3),
        }

    def compiled_seconds(self, model: PreTrainedModel) -> float:
        """Seconds of packs with norms and gated units compiled, shapes dynamic."""
        for module in model.modules():
            if type(module).__name__.endswith(("RMSNorm", "MLP")):
                module.compile(dynamic=True)
        engine = self.packed(model)
        return self.seconds(lambda: engine.score(self.queries), self.rounds)

    def measure_zero(self, shape: str) -> dict[str, Any]:
        """Load a random checkpoint of this shape over one rank by ZeRO, and score with it once."""
        from psych_ray.config import CheckpointCard, Dtype, ScoringConfig
        from psych_ray.scoring.engines.sharded.process_group import Rendezvous
        from psych_ray.scoring.engines.sharded.zero import load_zero

        with tempfile.TemporaryDirectory() as directory:
            random_model(shape, dtype=self.dtype, device=self.device.type).save_pretrained(directory)
            self.reset_peak()
            rank = Rendezvous("127.0.0.1", 1, timeout_s=600).join(1, device=self.device.type)
            card, scoring = CheckpointCard(id=shape, path=directory), ScoringConfig(dtype=Dtype.bfloat16)
            engine, _ = load_zero(card, Path(directory), scoring, rank, allow_pickle=False)
            seconds = self.seconds(lambda: engine.score(self.queries), 1)
            engine.close()
        return {
            "tokens/s": round(sum(query.length for query in self.queries) / seconds),
            "batch tokens": engine.pass_tokens,
            "peak above weights, GB": round(self.peak() / 1e9, 2),
        }

    def in_turn(self, contenders: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """Median seconds of each contender; one round before that for warming up."""
        rounds = [{name: self._timed(run) for name, run in contenders.items()} for _ in range(self.rounds + 1)]
        return {name: statistics.median(one[name] for one in rounds[1:]) for name in contenders}

    def seconds(self, run: Callable[[], object], rounds: int) -> float:
        """Median seconds; one run before that for warming up."""
        return statistics.median([self._timed(run) for _ in range(rounds + 1)][1:])

    def _timed(self, run: Callable[[], object]) -> float:
        if not self.is_cuda:
            began = time.perf_counter()
            run()
            return time.perf_counter() - began
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def reset_peak(self) -> None:
        """Count the peak of memory from here on."""
        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def allocated(self) -> int:
        """Bytes of tensors on the GPU."""
        return torch.cuda.memory_allocated() if self.is_cuda else 0

    def peak(self) -> int:
        """Most bytes of tensors on the GPU since `reset_peak`."""
        return torch.cuda.max_memory_allocated() if self.is_cuda else 0


def table(shapes: Mapping[str, Mapping[str, Any]]) -> str:
    """Rows of numbers, a column for each shape."""
    rows = list(dict.fromkeys(name for found in shapes.values() for name in found if name != "seconds"))
    lines = [["", *shapes], *([row, *(str(found.get(row, "")) for found in shapes.values())] for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(shapes) + 1)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


if __name__ == "__main__":
    main()
