"""`make bench`: scoring against the loop and the bare body on this machine's CPU; ratios of one run, as JSON.

    python -m tests.benchmarks.cpu [--shape 0.6b] [--transcripts 1] [--before REVISION] [--out FILE]

Every figure is the median over rounds in which all contenders take their turn: a noisy machine slows them alike. With
`--before`, the psych_ray of an earlier commit is one of them. Other libraries are, where `tests.benchmarks.others`
finds them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from psych_ray.scoring.engines.base import Query
from tests.benchmarks import contender, others
from tests.benchmarks.preparing import preparing
from tests.benchmarks.shapes import SHARED, VOCABULARY, like_real, real_queries

REPOSITORY = Path(__file__).resolve().parents[2]
LENGTHS = (16_000, 40_000)
"""Tokens of the transcripts of which memory is measured."""


def main() -> None:
    """Run all parts and print the result; each is written as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="0.6b")
    parser.add_argument("--transcripts", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", help="a commit whose psych_ray is measured in the same rounds")
    parser.add_argument("--memory-layers", type=int, default=2, help="layers in the measurement of memory; 0: all")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/cpu.json"))
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__, "shape": given.shape}
    with tempfile.TemporaryDirectory() as directory:
        versions = {"now": REPOSITORY}
        if given.before:
            versions["before"] = exported(given.before, Path(directory) / "before")
            result["before"] = given.before
        for part in given.parts:
            result[part] = PARTS[part](given, versions)
            given.out.write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


def exported(revision: str, directory: Path) -> Path:
    """Write the package of a commit to a directory."""
    directory.mkdir()
    archive = ["git", "-C", str(REPOSITORY), "archive", revision, "psych_ray"]
    packed = subprocess.run(archive, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(directory)], check=True, input=packed)
    return directory


class Process:
    """A contender in a process of its own."""

    def __init__(self, version: Path, shape: str, layers: int, queries: Path) -> None:
        path = os.pathsep.join(map(str, (version, REPOSITORY)))
        command = [sys.executable, contender.__file__, shape, str(layers), str(queries)]
        environment = os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, what: str) -> dict[str, Any]:
        """Let it run one of its methods, and wait for the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def end(self) -> None:
        """End it, if it has not ended."""
        self.process.kill()
        self.process.wait()


@contextmanager
def started(versions: dict[str, Path], shape: str, layers: int, queries: list[Query]) -> Iterator[dict[str, Process]]:
    """A process for each version, with these queries."""
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        path = Path(directory) / "queries.npz"
        contender.save_queries(path, queries)
        processes = {}
        for name, version in versions.items():
            processes[name] = Process(version, shape, layers, path)
            stack.callback(processes[name].end)
        yield processes


def speed(given: argparse.Namespace, versions: dict[str, Path]) -> dict[str, Any]:
    """Compare scoring with the loop (once for NLL, twice with accuracy), the body alone and the rate of products."""
    n = given.transcripts
    queries = real_queries(tokens=2048, n=n) if SHARED.is_dir() else like_real(n=n)
    with started(versions, given.shape, 0, queries) as processes:
        found = {name: process.run("nll") for name, process in processes.items()}
        by_loop = processes["now"].run("loop")["nll"]
        turns = [("now", what) for what in ("product", "body", "scoring", "loop", "loop_accuracy")]
        turns += [("before", "scoring")] * ("before" in processes)
        seconds: dict[str, list[float]] = {}
        for _ in range(given.rounds):
            for version, what in turns:
                name = what if version == "now" else f"{what}, {version}"
                seconds.setdefault(name, []).append(processes[version].run(what)["seconds"])
        product_flops = processes["now"].run("product")["flops"]
    flops = found["now"]["flops"]
    rate = product_flops / statistics.median(seconds["product"])
    ratios = {name: _ratios(seconds, *parts) for name, parts in RATIOS.items() if set(sum(parts, ())) <= set(seconds)}
    return {
        "engine": found["now"]["engine"],
        "transcripts": [len(query.token_ids_T) for query in queries],
        "responses_tokens": [len(query.at_R) for query in queries],
        "largest_difference_nats": {name: _largest(by_loop, of_one["nll"]) for name, of_one in found.items()},
        "seconds": seconds,
        "product_gflops": round(rate / 1e9),
        "share_of_product_rate": {
            name: round(flops / statistics.median(seconds[name]) / rate, 3)
            for name in ("scoring", "scoring, before")
            if name in seconds
        },
        "median_ratio": {name: round(statistics.median(values), 3) for name, values in ratios.items()},
        "ratios": ratios,
    }


RATIOS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "loop / scoring": (("loop",), ("scoring",)),
    "loop for NLL and accuracy / scoring": (("loop", "loop_accuracy"), ("scoring",)),
    "scoring / body": (("scoring",), ("body",)),
    "scoring / before": (("scoring",), ("scoring, before",)),
}


def _ratios(seconds: dict[str, list[float]], above: tuple[str, ...], below: tuple[str, ...]) -> list[float]:
    sums = [[sum(one) for one in zip(*(seconds[name] for name in names), strict=True)] for names in (above, below)]
    return [a / b for a, b in zip(*sums, strict=True)]


def _largest(expected: list[list[float]], found: list[list[float]]) -> float:
    differences = [np.abs(np.subtract(a, b)).max() for a, b in zip(expected, found, strict=True)]
    return float(f"{max(differences):.2g}")


def memory(given: argparse.Namespace, versions: dict[str, Path]) -> list[dict[str, Any]]:
    """Peak memory above the weights for long transcripts, by version, in turn."""
    rng = np.random.default_rng(0)
    rows = []
    for tokens in LENGTHS:
        wanted = np.sort(rng.choice(np.arange(1, tokens), tokens // 18, replace=False))
        query = Query(rng.integers(0, VOCABULARY - 300, tokens), wanted)
        row: dict[str, Any] = {"tokens": tokens, "wanted": len(wanted), "layers": given.memory_layers or "all"}
        row["all_logits_would_take_gb"] = round(tokens * VOCABULARY * 4 / 1e9, 1)
        for name, version in versions.items():
            with started({name: version}, given.shape, given.memory_layers, [query]) as processes:
                answer = processes[name].run("memory")
                row[name] = answer | {"seconds": round(answer["seconds"], 1)}
        rows.append(row)
    return rows


def _preparing(given: argparse.Namespace, versions: dict[str, Path]) -> dict[str, Any] | str:
    del given, versions
    return preparing() if SHARED.is_dir() else "no real transcripts"


def _others(given: argparse.Namespace, versions: dict[str, Path]) -> dict[str, Any]:
    del versions
    return others.compare(given.shape, given.rounds)


PARTS = {"speed": speed, "others": _others, "preparing": _preparing, "memory": memory}


if __name__ == "__main__":
    main()
