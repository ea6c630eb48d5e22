"""`footers/` of the results store: the footers of many parts in few files, so that no command opens every part.

A copy of what is in the parts: whoever commits parts writes one file for them, and what no file holds is read from the
part itself. Names end with the checksum of the content; a file that is not what was written is ignored. Columns, so
that counts of a hundred thousand parts are summed without an object for each; ids of transcripts are numbers in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from threading import Lock
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from psych_ray.errors import ResultsError
from psych_ray.results.log import LoggedPart
from psych_ray.results.parts import checksum, footer_of, read_part, to_parquet
from psych_ray.results.schema import Footer, Part, Tally
from psych_ray.results.store import ResultsStore
from psych_ray.results.transcript_ids import TranscriptIds

FOLDER = "footers"
_THREADS = 8
_FILES_AT_MOST = 64
_MERGED_AT_ONCE = 32
_IDS_PER_FILE = 2_000_000
"""Of transcripts, about, in files that are merged: 8 of them are read at a time."""
_MADE_BY = ("condition", "checkpoint", "scoring", "engine", "versions", "device")
"""Fields of a footer that are the same for many parts."""
_COLUMNS = ("unit", "rows", "transcripts")
"""Fields that are columns of their own, beside counts by status and study."""
_COUNTS = pa.list_(pa.struct([("status", pa.string()), ("rows", pa.int64())]))
_TALLIES = pa.list_(
    pa.struct([("study", pa.string()), ("responses", pa.int64()), ("nll_nats", pa.float64()), ("top1", pa.int64())])
)
_COUNTED = {"tokens": pl.Int64, "seconds": pl.Float64}
_KEYS = {"checkpoint": pl.String, "condition": pl.String}
_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("made_by", pa.string(), nullable=False),
        pa.field("unit", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("transcripts", pa.list_(pa.string()), nullable=False),
        pa.field("rows_by_status", _COUNTS, nullable=False),
        pa.field("tallies", _TALLIES, nullable=False),
        pa.field("more", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Footers:
    """The footers of parts, one row each in the order of the parts."""

    rows: pl.DataFrame
    """Columns of the files, `transcripts` as numbers, then `tokens`, `seconds`, `checkpoint` and `condition`."""
    ids: TranscriptIds


def write_footers(store: ResultsStore, parts: Sequence[Part]) -> str:
    """Write the footers of these parts as one file; its name."""
    return _write(store, _rows(parts))


class FooterFiles:
    """The files of footers that one process writes, merged while it runs: a sweep commits every second, for days."""

    def __init__(self, store: ResultsStore) -> None:
        self._store = store
        self._levels: list[dict[str, int]] = []
        """Names of the files that were merged 0, 1, 2, … times, so that no footer is written again often, and how many
        ids of transcripts each holds."""

    def write(self, parts: Sequence[Part]) -> None:
        """Write the footers of these parts."""
        n_ids = sum(len(part.footer.transcripts) for part in parts)
        self._add(0, write_footers(self._store, parts), n_ids)

    def _add(self, level: int, name: str, n_ids: int) -> None:
        if level == len(self._levels):
            self._levels.append({})
        files = self._levels[level]
        files[name] = n_ids
        if len(files) < _MERGED_AT_ONCE:
            return
        self._levels[level] = {}
        if sum(files.values()) > _IDS_PER_FILE:
            return  # large enough to stay as they are
        tables = [table for one in files if (table := read_file(self._store, one)) is not None]
        merged = _write(self._store, pa.concat_tables([_SCHEMA.empty_table(), *tables]))
        self._store.remove(one for one in files if one != merged)
        self._add(level + 1, merged, sum(files.values()))


def scan_footers(store: ResultsStore, logged: Sequence[LoggedPart]) -> Footers:
    """The footers of these parts.

    ResultsError for a part that is damaged, or has another number of rows than the log says.
    """
    log = pl.DataFrame(
        {
            "name": [str(part.name) for part in logged],
            "size": [part.size for part in logged],
            "logged_rows": [part.rows for part in logged],
            "checkpoint": [part.name.checkpoint for part in logged],
            "condition": [part.name.condition for part in logged],
        },
        schema={"name": pl.String, "size": pl.Int64, "logged_rows": pl.Int64, **_KEYS},
    )
    ids = TranscriptIds()
    known = _frame(_files(store, ids)).unique("name")
    missing = log.with_row_index().join(known, on=["name", "size"], how="anti")["index"].to_list()
    if missing:
        with ThreadPoolExecutor(_THREADS) as pool:
            parts = list(pool.map(partial(read_part, store), (logged[index].name for index in missing)))
        known = pl.concat([known, _frame([_encoded(_rows(parts), ids)])])
    found = log.join(known, on=["name", "size"], how="left", maintain_order="left")
    for name, rows, logged_rows in found.filter(
        pl.col("rows").ne_missing(pl.col("logged_rows"))
    ).select("name", "rows", "logged_rows").iter_rows():  # fmt: skip
        held = "another size" if rows is None else f"{rows:,} rows"
        raise ResultsError(
            f"{store.location}/{name}: {held}, its log has {logged_rows:,} rows; "
            f"psych-ray verify repair=true results.root={store.location} repairs the log"
        )
    counts = (
        pl.col("more").str.json_path_match(f"$.{name}").cast(kind, strict=False).fill_null(0).alias(name)
        for name, kind in _COUNTED.items()
    )
    return Footers(found.select(*_SCHEMA.names, *counts, *_KEYS), ids)


def read_footers(store: ResultsStore, logged: Sequence[LoggedPart]) -> list[Part]:
    """The same as objects, in the same order; for a few parts."""
    footers = scan_footers(store, logged)
    rows = _decoded(footers).to_pylist()
    return [Part(part.name, part.size, _footer(row)) for part, row in zip(logged, rows, strict=True)]


def merge_footers(store: ResultsStore, footers: Footers) -> None:
    """Write the footers of all parts of the table as few files, and remove the others, where there are many.

    Only for the process that alone commits.
    """
    names = _names(store)
    n_ids = footers.rows["transcripts"].list.len().cast(pl.Int64)
    if len(names) > _FILES_AT_MOST + 2 * (n_ids.sum() or 0) // _IDS_PER_FILE:
        runs = footers.rows.with_columns(((n_ids.cum_sum() - 1) // _IDS_PER_FILE).alias("file"))
        parts = runs.partition_by("file", maintain_order=True, include_key=False)
        written = {_write(store, _decoded(Footers(rows, footers.ids))) for rows in parts}
        store.remove(name for name in names if name not in written)


@lru_cache(1024)
def made_by(content: str) -> Footer:
    """What is in a row's `made_by`, as a footer without counts."""
    return footer_of({**json.loads(content), "unit": ""})


def _footer(row: dict[str, Any]) -> Footer:
    tallies = {one.pop("study"): Tally(**one) for one in row["tallies"]}
    by_status = {one["status"]: one["rows"] for one in row["rows_by_status"]}
    own = {name: row[name] for name in _COLUMNS}
    return replace(made_by(row["made_by"]), **json.loads(row["more"]), **own, tallies=tallies, rows_by_status=by_status)


def _rows(parts: Iterable[Part]) -> pa.Table:
    rows = []
    for part in parts:
        fields = asdict(part.footer)
        row = {name: fields.pop(name) for name in _COLUMNS}
        row["name"], row["size"] = str(part.name), part.size
        row["made_by"] = json.dumps({name: fields.pop(name) for name in _MADE_BY})
        row["rows_by_status"] = [{"status": status, "rows": n} for status, n in fields.pop("rows_by_status").items()]
        row["tallies"] = [{"study": study} | tally for study, tally in fields.pop("tallies").items()]
        row["more"] = json.dumps(fields)
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _encoded(table: pa.Table, ids: TranscriptIds) -> pa.Table:
    """The rows of a file with numbers in place of ids of transcripts."""
    return table.set_column(_SCHEMA.get_field_index("transcripts"), "transcripts", ids.encode(table["transcripts"]))


def _decoded(footers: Footers) -> pa.Table:
    """The rows of footers as files hold them."""
    rows = footers.rows.select(_SCHEMA.names).to_arrow()
    index = _SCHEMA.get_field_index("transcripts")
    lists = rows["transcripts"].cast(pa.list_(pa.int32())).combine_chunks()
    lists = lists if isinstance(lists, pa.Array) else pa.concat_arrays(lists.chunks)
    return rows.set_column(index, "transcripts", footers.ids.decode(lists)).cast(_SCHEMA)


def _frame(tables: Sequence[pa.Table]) -> pl.DataFrame:
    empty = _encoded(_SCHEMA.empty_table(), TranscriptIds())
    frame = pl.from_arrow(pa.concat_tables([empty, *(table.cast(empty.schema) for table in tables)]))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _write(store: ResultsStore, rows: pa.Table) -> str:
    content = to_parquet(rows)
    name = f"{FOLDER}/{checksum(content)}.parquet"
    store.write(name, content)
    return name


def _names(store: ResultsStore) -> list[str]:
    return [file.name for file in store.files(FOLDER) if file.name.endswith(".parquet")]


def _files(store: ResultsStore, ids: TranscriptIds) -> list[pa.Table]:
    """The rows of all files that are what was written; the ids in them are added to `ids`."""
    one_at_a_time = Lock()

    def read(name: str) -> pa.Table | None:
        table = read_file(store, name)
        with one_at_a_time:
            return None if table is None else _encoded(table, ids)

    with ThreadPoolExecutor(_THREADS) as pool:
        return [table for table in pool.map(read, _names(store)) if table is not None]


def read_file(store: ResultsStore, name: str) -> pa.Table | None:
    """The rows of a file; None where it is not what was written, or was merged with others since it was listed."""
    try:
        content = store.read(name)
    except ResultsError:
        if store.exists(name):
            raise
        return None
    if name != f"{FOLDER}/{checksum(content)}.parquet":
        return None
    try:
        table = pq.read_table(pa.BufferReader(content), schema=_SCHEMA)
        for makers in table["made_by"].unique().to_pylist():
            made_by(makers)
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return table
