"""Seconds and memory from rows of responses to all tables of the study, and how many times faster than a row loop.

    python -m tests.benchmarks.study [--rows 100000000] [--checkpoints 20] [--studies 150] [--loop 0] [--root DIR]

Rows are made up, in parts of the real schema with all columns, 50,000 rows each; every fourth checkpoint is the base
of the next three. `--loop N`: also write the first N rows as CSV and run what the scripts of the study do with theirs,
chunks of CSV and a Python loop over rows, to Cohen's d of each pair and study, and compare both results. Memory is the
largest resident size of the process that makes the tables.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from psych_ray.config import Stage
from psych_ray.results.schema import ADDED_LATER, RESPONSES, CheckpointFacts
from psych_ray.study import findings
from psych_ray.study.comparison import compared, effects_table, planned
from psych_ray.study.rows import TEMPERATURES, Task
from psych_ray.study.tallies import tally

_PART_ROWS = 50_000
_PARTICIPANTS = 100
_STAGES = (Stage.base, Stage.instruct, Stage.reasoning, Stage.vision)


def main() -> None:
    """Make the rows, each step in a process of its own, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--checkpoints", type=int, default=20)
    parser.add_argument("--studies", type=int, default=150)
    parser.add_argument("--loop", type=int, default=0)
    parser.add_argument("--root")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        root = given.root or directory
        for step in (make, tables, *([loop] if given.loop else [])):
            process = multiprocessing.get_context("spawn").Process(target=step, args=(given, root))
            process.start()
            process.join()
            assert process.exitcode == 0


def checkpoints(n: int) -> list[CheckpointFacts]:
    """Every fourth is a base."""
    return [
        CheckpointFacts(
            slug=f"c{at:03}",
            id=f"lab/c{at:03}",
            fingerprint="f",
            family=f"f{at // 8}",
            generation=f"f{at // 8}.{at // 4 % 2}",
            size_b=float(1 + at // 4),
            stage=_STAGES[at % 4].value,
            base=None if at % 4 == 0 else f"c{at // 4 * 4:03}",
        )
        for at in range(n)
    ]


def make(given: argparse.Namespace, root: str) -> None:
    """Write the parts of all checkpoints."""
    n = given.rows // given.checkpoints
    transcripts = given.studies * _PARTICIPANTS
    bounds = np.linspace(0, n, transcripts + 1).astype(np.int64)
    for at, facts in enumerate(checkpoints(given.checkpoints)):
        folder = task_folder(root, facts.slug)
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            continue
        rng = np.random.default_rng(at)
        for part, first in enumerate(range(0, transcripts, per_part := max(1, _PART_ROWS * transcripts // n))):
            table = part_of(rng, bounds, first, min(first + per_part, transcripts), at)
            pq.write_table(table, folder / f"{part:05}.parquet", compression="zstd")


def part_of(rng: np.random.Generator, bounds: NDArray[np.int64], first: int, last: int, at: int) -> pa.Table:
    """Rows of these transcripts; worse for later checkpoints, the same people hard to predict for all of them."""
    lengths = np.diff(bounds[first : last + 1])
    index = np.repeat(np.arange(last - first), lengths)
    n = len(index)
    numbers = np.arange(first, last)
    hardness = np.random.default_rng(7).gamma(4, 0.25, bounds.size)[first:last]
    nll = (rng.gamma(1.5, 0.6, n) * hardness[index] + 0.02 * (at % 4)).astype(np.float32)
    letter = np.arange(n) % 4 != 0
    none = np.zeros(n, bool)

    def named(values: list[str]) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(index.astype(np.int32), values)

    names = {
        "study": named([f"study{k // _PARTICIPANTS:03}" for k in numbers]),
        "experiment": named([f"experiment{k % 2}" for k in numbers]),
        "participant": named([f"participant{k % _PARTICIPANTS}" for k in numbers]),
        "transcript": named([f"{k:032x}" for k in numbers]),
        "status": pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), ["scored"]),
    }
    response = np.arange(n) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    top = np.clip(rng.beta(4, 2, n), 0.5, 1).astype(np.float32)
    values = {
        "response": response.astype(np.int32),
        "char_start": (response * 40).astype(np.int32),
        "char_end": (response * 40 + 1).astype(np.int32),
        "n_tokens": np.ones(n, np.int32),
        "nll": pa.array(nll, mask=none),
        "top1": pa.array(nll < 0.7, mask=none),
        "n_options": pa.array(np.full(n, 2, np.int16), mask=~letter),
        **{name: (nll / t + np.log(t) ** 2 / 2).astype(np.float32) for name, t in TEMPERATURES.items()},
        "options_nll": pa.array((nll * rng.random(n, np.float32) / 4), mask=~letter),
        "options_brier": pa.array((2 * (1 - top) ** 2).astype(np.float32), mask=~letter),
        "options_top": pa.array(top, mask=~letter),
        "options_hit": pa.array(rng.random(n) < top, mask=~letter),
    }
    return pa.table({name: (names | values)[name] for name in RESPONSES.names}, schema=RESPONSES)


def task_folder(root: str, slug: str) -> Path:
    """Folder of a checkpoint's parts."""
    return Path(root) / f"responses/checkpoint={slug}/condition=plain"


def tables(given: argparse.Namespace, root: str) -> None:
    """From the parts to all tables."""
    known = checkpoints(given.checkpoints)
    frames = {
        (facts.slug, "plain"): pl.scan_parquet(task_folder(root, facts.slug), hive_partitioning=False)
        for facts in known
    }
    began, used = time.perf_counter(), time.process_time()
    found = findings(frames, known)
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    rows = int(found.coverage["responses"].sum())
    print(f"{rows:,} rows, {len(known)} checkpoints: {seconds:.1f} s ({cpu:.1f} CPU s), {memory:.2f} GB", flush=True)
    for name, frame in found.tables().items():
        print(f"  {name}: {frame.height:,}", flush=True)


def loop(given: argparse.Namespace, root: str) -> None:
    """The row loop of scripts on the first rows, against the same rows here."""
    known = checkpoints(given.checkpoints)
    n = given.loop // len(known)
    path = Path(root) / "rows.csv"
    frames = {}
    for facts in known:
        own = pl.scan_parquet(task_folder(root, facts.slug), hive_partitioning=False).head(n)
        kept = Path(root) / f"{facts.slug}.parquet"
        own.sink_parquet(kept)
        frames[facts.slug, "plain"] = pl.scan_parquet(kept)
    columns = [
        frame.select(pl.lit(slug).alias("checkpoint"), pl.col("study").cast(pl.String), "nll")
        for (slug, _), frame in frames.items()
    ]
    pl.concat(columns).sink_csv(path)
    began = time.perf_counter()
    slow = looped(path, known)
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    quick = same_table(frames, known)
    same = time.perf_counter() - began
    began = time.perf_counter()
    findings(frames, known)
    every = time.perf_counter() - began
    assert quick.keys() == slow.keys()
    difference = max(abs(quick[key] - d) for key, d in slow.items())
    print(
        f"{n * len(known):,} rows: row loop {seconds:.1f} s, the same table {same:.2f} s (ratio {seconds / same:.1f}), "
        f"all tables with 1,000 draws {every:.1f} s (ratio {seconds / every:.1f}); largest difference in d "
        f"{difference:.1e}",
        flush=True,
    )


def same_table(
    frames: Mapping[tuple[str, str], pl.LazyFrame], known: list[CheckpointFacts]
) -> dict[tuple[str, str], float]:
    """Cohen's d of each pair and study, without the other tables and their columns."""
    names = [name for name in RESPONSES.names if name not in ADDED_LATER]
    pairs = [(facts.slug, facts.base) for facts in known if facts.base is not None]
    tasks = {Task(*task): frame.select(names) for task, frame in frames.items()}
    comparisons = planned(list(tasks), pairs)["pairs"]
    tallies = tally(tasks, comparisons)
    rows = effects_table(tallies, compared(tallies, comparisons))
    return {(row["first"], row["study"]): row["d"] for row in rows.iter_rows(named=True)}


def looped(path: Path, known: list[CheckpointFacts]) -> dict[tuple[str, str], float]:
    """Cohen's d of each pair and study, as the study's scripts compute it: chunks of CSV, named tuples, running sums.

    Their sd divides by n; the one that divides by n - 1 is returned, as ours does.
    """
    sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0, 0])
    for chunk in pd.read_csv(path, chunksize=500_000):
        for row in chunk.itertuples(index=False):
            own = sums[row.checkpoint, row.study]
            own[0] += row.nll
            own[1] += row.nll * row.nll
            own[2] += 1
    moments = {
        key: (total / n, (squares / n - (total / n) ** 2) * n / (n - 1)) for key, (total, squares, n) in sums.items()
    }
    result = {}
    for facts in known:
        for study in {study for _, study in moments} if facts.base else ():
            (post, var_post), (base, var_base) = moments[facts.slug, study], moments[facts.base or "", study]
            result[facts.slug, study] = (post - base) / ((var_post + var_base) / 2) ** 0.5
    return result


if __name__ == "__main__":
    main()
