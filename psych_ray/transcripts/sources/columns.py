"""The hub's schema, one row per participant: from Parquet files, or streamed from the hub.

Transcripts are long, so rows are read in small batches and only the columns that are used are decoded. Values are
returned as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from psych_ray.errors import UnreachableError
from psych_ray.transcripts.sources.errors import (
    BadRecordError,
    Skipped,
    detail,
    file_error,
    file_errors,
    one_line,
    quoted,
)
from psych_ray.transcripts.sources.origin import Raw, Records

HUB_COLUMNS = ("text", "study", "experiment", "participant")
PSYCH101_COLUMNS = ("text", "experiment", "participant")
_BATCH_ROWS = 32
_BUFFER_BYTES = 2**20
# HTTP statuses of a hub that may answer later, and the libraries whose exceptions are those of a connection.
_BUSY = frozenset({408, 425, 429})
_CLIENTS = ("httpx", "httpcore", "aiohttp", "requests", "urllib3")
_LISTS = frozenset({"RTs", "true_nll_nats"})


def read_parquet(path: Path, *, needed: Collection[str] = HUB_COLUMNS) -> Records:
    """The rows of a Parquet file in order. TranscriptError where the file lacks a column of `needed`."""
    row = 0
    for batch in _batches(path, needed):
        for index in range(batch.num_rows):
            row += 1
            where = one_line(f"{path} row {row}")
            try:
                yield Raw(where, {name: _value(batch, name, index) for name in batch.schema.names})
            except BadRecordError as error:
                yield Skipped(where, one_line(str(error)))


def read_hub(dataset: str, *, needed: Collection[str] = HUB_COLUMNS) -> Records:
    """The rows of the only split of a hub data set, in order, fetched while they are iterated."""
    for row, fields in enumerate(_hub_rows(dataset), start=1):
        if row == 1:
            _check_columns(fields, needed, dataset)
        yield Raw(f"{dataset} row {row}", fields)


def _value(batch: pa.RecordBatch, name: str, index: int) -> object:
    """One cell. BadRecordError where Python has no such value: a date after the year 9999, an unknown time zone."""
    try:
        return batch.column(name)[index].as_py()
    except UnicodeDecodeError as error:
        raise BadRecordError(f"not UTF-8 at byte {error.start}") from error
    except (ArithmeticError, ValueError, pa.ArrowException) as error:
        raise BadRecordError(f"`{name}` has a value that cannot be read: {detail(error)}") from error


def _batches(path: Path, needed: Collection[str]) -> Iterator[pa.RecordBatch]:
    with file_errors(path):
        source = pa.OSFile(str(path))
    try:
        with source, pq.ParquetFile(source, buffer_size=_BUFFER_BYTES) as file:
            schema = file.schema_arrow
            _check_columns(schema.names, needed, path)
            columns = [x.name for x in schema if x.name in _LISTS or not pa.types.is_nested(x.type)]
            batches = file.iter_batches(batch_size=_BATCH_ROWS, columns=columns)
            yield from batches
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a name of a column that is not UTF-8
        raise file_error(
            path, f"is not a Parquet file that can be read ({detail(error)}); fetch or create it again"
        ) from error


def _check_columns(names: Collection[str], needed: Collection[str], where: Path | str) -> None:
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise file_error(where, f"has more than one column {', '.join(twice)}; keep one")
    missing = [name for name in needed if name not in names]
    if missing == ["study"]:
        raise file_error(where, "has no column study; transcripts=psych101 takes the study from experiment")
    if missing:
        raise file_error(where, f"has no column {', '.join(missing)}; needed are {', '.join(needed)}")


def _hub_rows(dataset: str) -> Iterator[dict[str, object]]:
    """Stream the rows. An error of psych_ray for every exception: those of the hub's libraries have no common base."""
    import datasets

    try:
        splits = datasets.load_dataset(dataset, streaming=True)
        if len(splits) == 1:
            yield from next(iter(splits.values()))
            return
    except Exception as error:
        if _is_unreachable(error):
            problem = f"the hub cannot be reached ({detail(error)}); try again later, or name a copy"
            raise UnreachableError(one_line(f"{dataset}: {problem} with transcripts.path=PATH")) from error
        problem = f"the hub cannot be read ({detail(error)}); transcripts.path=PATH reads a local copy"
        raise file_error(dataset, problem) from error
    names = ", ".join(quoted(str(name)) for name in splits) or "none"
    raise file_error(dataset, f"has not one split ({names}); save the one to score, and name it with transcripts.path")


def _is_unreachable(error: BaseException | None) -> bool:
    """Whether an exception, or one that caused it, is of the connection or says that the hub has no time."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status >= 500 or status in _BUSY
        if isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith(_CLIENTS):
            return True
        error = error.__cause__ or error.__context__
    return False
