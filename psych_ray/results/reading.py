"""Reads a results store back: the table, what made it, and which transcripts it holds. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from psych_ray.errors import ResultsError
from psych_ray.results.parts import PartName, part_names, read_footer
from psych_ray.results.schema import Footer
from psych_ray.results.store import ResultsStore
from psych_ray.transcripts.status import Status


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
    # polars' own parsing of hive columns reads the directories above the store too, and takes seed=3 for a column.
    return pl.scan_parquet(uris, glob=False, hive_partitioning=False).with_columns(
        pl.lit(checkpoint, pl.String).alias("checkpoint"), pl.lit(condition, pl.String).alias("condition")
    )


def footers(store: ResultsStore, *, one_each: bool = True) -> list[Footer]:
    """Footers of the parts; with `one_each` a single one for each checkpoint and condition."""
    found: dict[object, Footer] = {}
    for part in part_names(store):
        key = part.task if one_each else part
        if key not in found:
            found[key] = read_footer(store, part)
    return list(found.values())


def scored_sums(store: ResultsStore) -> dict[tuple[str, str], dict[str, tuple[int, float, int]]]:
    """By checkpoint and condition, then by study: scored responses, their NLL in nats, and how many were top1."""
    scored = scan_responses(store).filter(pl.col("status").cast(pl.String) == Status.scored.value)
    sums = scored.group_by("checkpoint", "condition", "study").agg(
        pl.len(), pl.col("nll").cast(pl.Float64).sum(), pl.col("top1").sum()
    )
    found: dict[tuple[str, str], dict[str, tuple[int, float, int]]] = {}
    for checkpoint, condition, study, n, nll, top1 in sums.collect(engine="streaming").iter_rows():
        found.setdefault((checkpoint, condition), {})[study] = (n, nll, top1)
    return found


def committed_transcripts(store: ResultsStore) -> dict[tuple[str, str], set[str]]:
    """Ids of the committed transcripts by checkpoint (slug) and condition."""
    committed: dict[tuple[str, str], set[str]] = {}
    for part in part_names(store):
        committed.setdefault(part.task, set()).update(transcripts_in(store, [part]))
    return committed


def transcripts_in(store: ResultsStore, parts: Iterable[PartName]) -> set[str]:
    """Ids of the transcripts that these parts hold."""
    ids: set[str] = set()
    for part in parts:
        with store.open(str(part)) as file:
            try:
                column = pq.read_table(file, columns=["transcript"])["transcript"]
            except (OSError, pa.ArrowInvalid) as error:
                path = f"{store.location}/{part}"
                raise ResultsError(f"{path}: damaged ({error}); remove it and sweep again") from error
        ids.update(column.unique().to_pylist())
    return ids
