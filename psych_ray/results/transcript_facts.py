"""What `sources/` of the results store says of every transcript besides its text, as a table for statistics.

Reads only the columns that it needs, so that it holds no text.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from psych_ray.errors import ResultsError
from psych_ray.results.catalogue import FOLDER, SOURCES, damaged, rows_of
from psych_ray.results.store import ResultsStore

SCHEMA: Final = pl.Schema(
    {
        "transcript": pl.String(),
        "n_characters": pl.Int32(),
        "is_psych101": pl.Boolean(),
        "age": pl.Float64(),
        "gender": pl.String(),
        "diagnosis": pl.String(),
        "reaction_times_ms": pl.List(pl.Float64),
    }
)
_FIELDS = {"age": ("age",), "gender": ("gender",), "diagnosis": ("clinical diagnosis", "diagnosis")}
"""Names of the metadata of each column, the hub's first."""
_COLUMNS = ["transcript", "n_characters", "metadata", "reaction_times_ms", "is_psych101"]
_THREADS = 8


def transcript_facts(store: ResultsStore) -> pl.DataFrame:
    """The table `SCHEMA`, a row of each transcript. ResultsError where a file is damaged.

    age in years, null where it is not a number; gender and diagnosis as in the source. reaction_times_ms has an entry
    of each response, null where not recorded; is_psych101 is null in files of earlier versions too.
    """
    names = [file.name for file in store.files(FOLDER) if file.name.endswith(".parquet")]
    with ThreadPoolExecutor(_THREADS) as pool:
        return pl.concat([pl.DataFrame(schema=SCHEMA), *pool.map(partial(_facts, store), names)])


def _facts(store: ResultsStore, name: str) -> pl.DataFrame:
    with store.open(name) as file:
        rows = rows_of(store, name, file, _COLUMNS, or_null="is_psych101")
    if any(rows[column].type != SOURCES.field(column).type for column in _COLUMNS):
        raise ResultsError(damaged(store, name, "it has other columns"))
    metadata = rows["metadata"].combine_chunks()
    known = {
        column: pc.coalesce(*(pc.map_lookup(metadata, field, "first") for field in fields))
        for column, fields in _FIELDS.items()
    }
    own = rows.select([column for column in _COLUMNS if column != "metadata"])
    facts = pl.DataFrame(pa.table({**{column: own[column] for column in own.column_names}, **known}))
    age = pl.col("age").cast(pl.Float64, strict=False)
    return facts.with_columns(pl.when(age.is_finite()).then(age).alias("age")).select(*SCHEMA).cast(SCHEMA)
