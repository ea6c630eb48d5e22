"""Reads the rows of a results store back, lazily, with polars. Writes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from psych_ray.errors import ResultsError
from psych_ray.results.parts import PartName, part_names
from psych_ray.results.store import ResultsStore


def scan_responses(store: ResultsStore, parts: Sequence[PartName] | None = None) -> pl.LazyFrame:
    """The table of responses, lazily, with `checkpoint` and `condition` as last columns.

    `parts`: names from an earlier listing; None: list the store. ResultsError where there are none.
    """
    parts = part_names(store) if parts is None else parts
    if not parts:
        raise ResultsError(
            f"{store.location}: no responses there yet; run psych-ray sweep results.root={store.location}"
        )
    by_task: dict[tuple[str, str], list[str]] = {}
    for part in parts:
        by_task.setdefault(part.task, []).append(str(part))
    return pl.concat([_scan_task(store.uris(names), *task) for task, names in by_task.items()])


def _scan_task(uris: list[str], checkpoint: str, condition: str) -> pl.LazyFrame:
    # polars would parse hive columns from the directories above the store too, and reject a root below seed=3/.
    return pl.scan_parquet(uris, glob=False, hive_partitioning=False).with_columns(
        pl.lit(checkpoint, pl.String).alias("checkpoint"), pl.lit(condition, pl.String).alias("condition")
    )
