"""Reading a results root back: the table, what made it, and which transcripts it holds. Writes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from psych_ray.errors import ResultsError
from psych_ray.results.parts import part_folder, read_footer
from psych_ray.results.root import ResultsRoot
from psych_ray.results.schema import Footer
from psych_ray.transcripts.status import Status

_PART = re.compile(
    r"^responses/checkpoint=(?P<checkpoint>[^/]+)/condition=(?P<condition>[^/]+)/(?P<unit>[^/]+)\.parquet$"
)


# Named, so that a checkpoint called 2024 stays a name.
_HIVE = {"checkpoint": pl.String, "condition": pl.String}


@dataclass(frozen=True, slots=True)
class PartPlace:
    """A committed part, as its path tells it."""

    name: str
    checkpoint: str
    condition: str
    unit: str


def parts(root: ResultsRoot) -> list[PartPlace]:
    """All committed parts, by their paths alone."""
    matches = (_PART.match(name) for name in root.names("responses"))
    return [PartPlace(m.string, m["checkpoint"], m["condition"], m["unit"]) for m in matches if m]


def scan_responses(root: ResultsRoot) -> pl.LazyFrame:
    """The table of responses, lazily, with `checkpoint` and `condition`. ResultsError where there is none yet."""
    if not root.names("responses"):
        raise ResultsError(f"{root.path}: no responses there yet; run psych-ray sweep results.root={root.root}")
    return pl.scan_parquet(root.path / "responses" / "**" / "*.parquet", hive_schema=_HIVE)


def footers(root: ResultsRoot, *, one_each: bool = True) -> list[Footer]:
    """Footers of the parts; with `one_each` a single one for each checkpoint and condition."""
    found: dict[object, Footer] = {}
    for part in parts(root):
        key = (part.checkpoint, part.condition) if one_each else part
        if key not in found:
            found[key] = read_footer(root.local(part.name))
    return list(found.values())


def scored_sums(root: ResultsRoot) -> dict[tuple[str, str], dict[str, tuple[int, float, int]]]:
    """By checkpoint and condition, then by study: scored responses, their NLL in nats, and how many were top1."""
    scored = scan_responses(root).filter(pl.col("status").cast(pl.String) == Status.scored.value)
    sums = scored.group_by("checkpoint", "condition", "study").agg(
        pl.len(), pl.col("nll").cast(pl.Float64).sum(), pl.col("top1").sum()
    )
    found: dict[tuple[str, str], dict[str, tuple[int, float, int]]] = {}
    for checkpoint, condition, study, n, nll, top1 in sums.collect(engine="streaming").iter_rows():
        found.setdefault((checkpoint, condition), {})[study] = (n, nll, top1)
    return found


def committed_transcripts(root: ResultsRoot) -> dict[tuple[str, str], set[str]]:
    """Ids of the committed transcripts by checkpoint (slug) and condition."""
    committed: dict[tuple[str, str], set[str]] = {}
    for part in parts(root):
        ids = transcripts_in(root, part.checkpoint, part.condition, [part.unit])
        committed.setdefault((part.checkpoint, part.condition), set()).update(ids)
    return committed


def transcripts_in(root: ResultsRoot, checkpoint: str, condition: str, units: Iterable[str]) -> set[str]:
    """Ids of the transcripts that the parts of these units hold."""
    ids: set[str] = set()
    for unit in units:
        path = root.local(f"{part_folder(checkpoint, condition)}/{unit}.parquet")
        try:
            column = pq.read_table(path, columns=["transcript"])["transcript"]
        except (OSError, pa.ArrowInvalid) as error:
            raise ResultsError(f"{path}: damaged ({error}); remove it and sweep again") from error
        ids.update(column.unique().to_pylist())
    return ids
