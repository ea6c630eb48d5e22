"""`footers/` of the results store: the footers of many parts in few files, so that no command opens every part.

A copy of what is in the parts: whoever commits parts writes one file for them, and what no file holds is read from the
part itself. Names end with the checksum of the content; a file that is not what was written is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from psych_ray.errors import ResultsError
from psych_ray.results.log import LoggedPart
from psych_ray.results.parts import checksum, footer_of, read_part, to_parquet
from psych_ray.results.schema import Part
from psych_ray.results.store import ResultsStore

FOLDER = "footers"
_THREADS = 8
_FILES_AT_MOST = 64
_MADE_BY = ("condition", "checkpoint", "scoring", "engine", "versions")
"""Fields of a footer that are the same for many parts."""
_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("made_by", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("counts", pa.string(), nullable=False),
        pa.field("transcripts", pa.list_(pa.string()), nullable=False),
    ]
)


def write_footers(store: ResultsStore, parts: Sequence[Part]) -> None:
    """Write the footers of these parts as one file."""
    rows = []
    for part in parts:
        fields = asdict(part.footer)
        made_by = {name: fields.pop(name) for name in _MADE_BY}
        transcripts = fields.pop("transcripts")
        rows.append(
            {
                "name": str(part.name),
                "size": part.size,
                "made_by": json.dumps(made_by),
                "counts": json.dumps(fields),
                "transcripts": transcripts,
            }
        )
    content = to_parquet(pa.Table.from_pylist(rows, schema=_SCHEMA))
    store.write(f"{FOLDER}/{checksum(content)}.parquet", content)


def read_footers(store: ResultsStore, logged: Sequence[LoggedPart]) -> list[Part]:
    """Read the footers of these parts, in their order. ResultsError for a part that is damaged, or not as logged."""
    tables = [table for _, table in _files(store) if table is not None]
    wanted = {str(part.name): part for part in logged}
    found: dict[str, Part] = {}
    for table in tables:
        found |= _parts(table, wanted)
    missing = [part.name for key, part in wanted.items() if key not in found]
    with ThreadPoolExecutor(_THREADS) as pool:
        found |= {str(part.name): part for part in pool.map(partial(read_part, store), missing)}
    for key, part in wanted.items():
        if found[key].footer.rows != part.rows:
            raise ResultsError(
                f"{store.location}/{key}: {found[key].footer.rows:,} rows, its log has {part.rows:,}; "
                f"psych-ray verify repair=true results.root={store.location} mends the log"
            )
    return [found[key] for key in wanted]


def merge_footers(store: ResultsStore, parts: Sequence[Part]) -> None:
    """Write the footers of all parts of the table as one file, and remove the others, where there are many.

    Only for the process that alone commits.
    """
    files = _files(store)
    if len(files) > _FILES_AT_MOST or any(table is None for _, table in files):
        write_footers(store, parts)
        store.remove(name for name, _ in files)


def _files(store: ResultsStore) -> list[tuple[str, pa.Table | None]]:
    names = [file.name for file in store.files(FOLDER) if file.name.endswith(".parquet")]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(zip(names, pool.map(partial(_read, store), names), strict=True))


def _read(store: ResultsStore, name: str) -> pa.Table | None:
    """The rows of a file; None where it is not what was written."""
    content = store.read(name)
    if name != f"{FOLDER}/{checksum(content)}.parquet":
        return None
    return pq.read_table(pa.BufferReader(content), schema=_SCHEMA)


def _parts(table: pa.Table, wanted: Mapping[str, LoggedPart]) -> Iterable[tuple[str, Part]]:
    columns = (table[name].to_pylist() for name in _SCHEMA.names)
    for key, size, made_by, counts, transcripts in zip(*columns, strict=True):
        part = wanted.get(key)
        if part is not None and part.size == size:
            footer = footer_of({**_made_by(made_by), **json.loads(counts), "transcripts": transcripts})
            yield key, Part(part.name, size, footer)


@lru_cache(1024)
def _made_by(content: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(content)
    return fields
