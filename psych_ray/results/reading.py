"""Reads the rows of a results store back, lazily, with polars, once every file is known to be what was written.

Writes nothing to the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa

from psych_ray.errors import ResultsError
from psych_ray.results.log import LoggedPart
from psych_ray.results.parts import checksum
from psych_ray.results.schema import RESPONSES
from psych_ray.results.store import ResultsStore
from psych_ray.temporary import temporary_directory

_THREADS = 8
# RESPONSES.empty_table() would import pandas
_SCHEMA = pl.DataFrame(pa.Table.from_batches([], RESPONSES)).schema


@contextmanager
def open_responses(store: ResultsStore, parts: Sequence[LoggedPart]) -> Iterator[pl.LazyFrame]:
    """The table of responses, lazily, for as long as the block runs; `checkpoint` and `condition` are last columns."""
    with open_tasks(store, parts) as tasks:
        yield pl.concat(tasks.values())


@contextmanager
def open_tasks(store: ResultsStore, parts: Sequence[LoggedPart]) -> Iterator[dict[tuple[str, str], pl.LazyFrame]]:
    """The rows of each checkpoint (slug) and condition, lazily, for as long as the block runs.

    Columns that a part of an earlier version lacks are null there; those that a newer version added are left out.
    Reads every file once to verify its checksum; those of an object store are copied to the temporary folder.
    ResultsError where there are no parts, or one is damaged.
    """
    if not parts:
        raise ResultsError(
            f"{store.location}: no responses there yet; run psych-ray sweep results.root={store.location}"
        )
    with temporary_directory() as directory, ThreadPoolExecutor(_THREADS) as pool:
        by_task: dict[tuple[str, str], list[Path]] = {}
        paths = pool.map(partial(_verified_path, store, directory), parts)
        for part, path in zip(parts, paths, strict=True):
            by_task.setdefault(part.name.task, []).append(path)
        yield {task: _scan_task(paths, *task) for task, paths in by_task.items()}


def _verified_path(store: ResultsStore, directory: Path, part: LoggedPart) -> Path:
    """Path of a part on this machine. ResultsError where it is not what was written."""
    content = store.read(str(part.name))
    if len(content) != part.size or checksum(content) != part.name.checksum:
        raise ResultsError(
            f"{store.location}/{part.name}: damaged, or not what was written there; psych-ray verify repair=true "
            f"results.root={store.location} drops it, and the next sweep scores its transcripts again"
        )
    path = store.local_path(str(part.name))
    if path is None:
        path = directory / f"{part.name.unit}-{part.name.checksum}.parquet"
        path.write_bytes(content)
    return path


def _scan_task(paths: list[Path], checkpoint: str, condition: str) -> pl.LazyFrame:
    # polars would parse hive columns from the directories above the store too, and reject a root below seed=3/.
    return pl.scan_parquet(
        paths,
        glob=False,
        hive_partitioning=False,
        schema=_SCHEMA,
        missing_columns="insert",
        extra_columns="ignore",
    ).with_columns(pl.lit(checkpoint, pl.String).alias("checkpoint"), pl.lit(condition, pl.String).alias("condition"))
