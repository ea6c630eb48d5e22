"""The log of the table of responses: which parts belong to it, in Delta Lake's format, by the library deltalake.

What the table holds is what its log lists, so a file that is copied into the folder changes nothing. One driver at a
time commits: each driver takes over with a number of its own, an application transaction, and deltalake refuses a
commit that another driver has overtaken. Does not read parts.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import TypeVar
from urllib.parse import unquote

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from psych_ray.errors import ResultsError
from psych_ray.results.schema import ADDED_LATER, FOLDER, RESPONSES, Part, PartName
from psych_ray.results.store import ResultsStore

T = TypeVar("T")

_APPLICATION = "psych_ray"
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_PARTITIONS = ["checkpoint", "condition"]
_COMMITS_PER_CHECKPOINT = "100"
"""Delta Lake then writes a list of all parts, so that readers need not read all commits."""


class TakenOverError(ResultsError):
    """Another process has taken over the table, so this one can commit nothing any more."""


@dataclass(frozen=True, slots=True)
class LoggedPart:
    """A part as the log lists it."""

    name: PartName
    size: int
    """Bytes."""
    rows: int


class ResponsesLog:
    """The log as it was when it was opened, read again by `parts`."""

    def __init__(self, store: ResultsStore) -> None:
        self._store = store
        self._uri = f"{store.location}/{FOLDER}"
        self._table: DeltaTable | None = None
        self._id = uuid.uuid4().hex
        self._number = 0
        self._is_overtaken = False
        self._is_unsure = False
        """Whether the last commit got no answer, so that it may have been carried out."""

    def parts(self) -> list[LoggedPart]:
        """All parts of the table at this moment, sorted by name; [] where there is no log."""
        with self._errors():
            return self._repeat(self._parts)

    def exists(self) -> bool:
        """Whether there is a log that can be read."""
        with self._errors():
            return self._repeat(self._open) is not None

    def replaced(self, hours: int = 0) -> set[str]:
        """Names of the files that left the table at least so many hours ago, and that the log still mentions."""
        with self._errors():
            table = self._table or self._repeat(self._open)
            if table is None:
                return set()
            paths = self._repeat(
                partial(table.vacuum, retention_hours=hours, dry_run=True, enforce_retention_duration=False)
            )
        names = (f"{FOLDER}/{unquote(path)}" for path in paths)
        # They are removed: a log that was changed may name any file of this machine.
        return {name for name in names if PartName.parse(name) is not None}

    def take_over(self) -> None:
        """Make this process the only one that can commit: whoever did before is refused from now on.

        Creates the log where there is none, and adds the columns that an earlier version did not have.
        TakenOverError where another process does the same at this moment.
        """
        with self._errors():
            self._repeat(self._take_over)

    def commit(self, added: Sequence[Part], removed: Sequence[LoggedPart] = ()) -> None:
        """Add parts to the table and remove others, in one step.

        TakenOverError where another process has taken over since `take_over`; nothing is committed then.
        """
        assert self._table is not None, "take_over first"
        if self._is_overtaken:
            raise self._taken_over()
        with self._errors():
            self._repeat(partial(self._commit, self._table, added, removed))

    def _parts(self) -> list[LoggedPart]:
        if self._table is not None:
            self._advance(self._table)
            return _parts_of(self._table, self._uri)
        table = self._open()
        return [] if table is None else _parts_of(table, self._uri)

    def _take_over(self) -> None:
        self._table = table = self._open_or_create()
        # Where only the answer was lost, this overtakes what this process has just written.
        self._number = (table.transaction_version(_APPLICATION) or 0) + 1
        try:
            self._write(table, [])
        except CommitFailedError:
            table.update_incremental()
            if not self._wrote_last(table):
                raise
        self._advance(table)
        known = {column.name for column in table.schema().fields}
        if missing := [column for column in Schema.from_arrow(_schema()).fields if column.name in ADDED_LATER - known]:
            table.alter.add_columns(missing, commit_properties=self._transaction())

    def _commit(self, table: DeltaTable, added: Sequence[Part], removed: Sequence[LoggedPart]) -> None:
        if self._is_unsure:
            self._advance(table)
            if self._shows(table, added, removed):
                self._is_unsure = False
                return
        self._is_unsure = True
        try:
            self._write(table, [*map(_add, added), *map(_remove, removed)])
        except CommitFailedError:
            self._advance(table)
            if not self._shows(table, added, removed):
                raise
        else:
            self._advance(table)
        self._is_unsure = False

    def _wrote_last(self, table: DeltaTable) -> bool:
        """Whether the latest commit is of this process: the library does not know its own after a lost answer."""
        # By the store: `history` would keep all threads of this process from running until the store answers.
        return self._id.encode() in self._store.read(f"{FOLDER}/_delta_log/{table.version():020}.json")

    def _shows(self, table: DeltaTable, added: Sequence[Part], removed: Sequence[LoggedPart]) -> bool:
        listed = {part.name for part in _parts_of(table, self._uri)}
        return listed >= {part.name for part in added} and not listed & {part.name for part in removed}

    def _repeat(self, operation: Callable[[], T]) -> T:
        """Carry out until an object store answers, fails for good, or the time for that is over.

        deltalake repeats what was answered with a server's error, but not all that was not answered.
        """
        started = time.monotonic()
        for attempt in itertools.count():
            try:
                return operation()
            except (DeltaError, OSError) as error:
                if time.monotonic() - started > self._store.retry_s or not self._is_transient(error):
                    raise
                time.sleep(min(10.0, 0.1 * 2.0**attempt))
        raise AssertionError("the deadline ends this earlier")

    def _is_transient(self, error: Exception) -> bool:
        """Whether the same operation may succeed later; not where another process was faster with this commit."""
        if "://" not in self._uri or isinstance(error, CommitFailedError):
            return False
        from psych_ray.results import object_errors

        return object_errors.is_transient(error)

    def _write(self, table: DeltaTable, actions: list[AddAction | RemoveAction]) -> None:
        table.create_write_transaction(actions, "append", _schema(), _PARTITIONS, commit_properties=self._transaction())

    def _transaction(self) -> CommitProperties:
        """What has deltalake refuse a commit of this process after another one has taken over."""
        return CommitProperties(
            custom_metadata={_APPLICATION: self._id}, app_transactions=[Transaction(_APPLICATION, self._number)]
        )

    def _advance(self, table: DeltaTable) -> None:
        """Read what was committed; deltalake refuses the next commit if another process commits after this."""
        table.update_incremental()
        if table.transaction_version(_APPLICATION) != self._number:
            self._is_overtaken = True  # deltalake would accept the next commit
            raise self._taken_over()

    def _open(self) -> DeltaTable | None:
        self._require_files()
        try:
            return DeltaTable(self._uri, storage_options=self._store.delta_options)
        except TableNotFoundError:
            return None

    def _open_or_create(self) -> DeltaTable:
        self._require_files()
        options = self._store.delta_options
        try:  # is_deltatable would keep all threads of this process from running until the store answers
            return DeltaTable(self._uri, storage_options=options)
        except TableNotFoundError:
            DeltaTable.create(
                self._uri,
                _schema(),
                mode="ignore",
                partition_by=_PARTITIONS,
                configuration={"delta.checkpointInterval": _COMMITS_PER_CHECKPOINT},
                storage_options=options,
            )
        return DeltaTable(self._uri, storage_options=options)

    def _require_files(self) -> None:
        """Raise ResultsError for an entry that is no regular file: deltalake reads the log as if it was not there."""
        folder = self._store.local_path(f"{FOLDER}/_delta_log")
        if folder is None or not folder.is_dir():
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith((".json", ".parquet")) and not entry.is_file():
                    raise ResultsError(f"{entry.path}: is not a regular file; remove it and repeat the command")

    def _taken_over(self) -> TakenOverError:
        return TakenOverError(
            f"{self._store.location}: another psych-ray took over this results root while this one did not answer; "
            "what it committed stays, the rest is left to the other"
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise what deltalake reports as ResultsError; UnreachableError where an object store does not answer."""
        try:
            yield
        except CommitFailedError as error:
            if "Concurrent transaction" in str(error):
                raise self._taken_over() from error
            raise ResultsError(f"{self._uri}: cannot be committed to: {_reason(error)}") from error
        except (DeltaError, OSError, ValueError) as error:
            if "://" in self._uri:
                from psych_ray.results import object_errors

                if object_errors.is_of_request(error):
                    raise object_errors.explain(error, f"{self._uri}/_delta_log", "read or written") from error
            raise ResultsError(
                f"{self._uri}/_delta_log: cannot be read or written ({_reason(error)}); where it is damaged, "
                f"{_repair(self._uri)}"
            ) from error


def _reason(error: Exception) -> str:
    """What deltalake says, and what it gives as causes in further lines, at most 300 characters."""
    first, *more = _ESCAPES.sub("", str(error)).splitlines() or [type(error).__name__]
    causes = [line.strip().removeprefix("↳").strip() for line in more if line.strip().startswith("↳")]
    return ": ".join([first.strip(), *causes])[:300]


def _schema() -> pa.Schema:
    """Columns of the table in types that Delta Lake has: strings, where parts have dictionaries of them."""
    columns = [
        pa.field(column.name, pa.string() if pa.types.is_dictionary(column.type) else column.type, column.nullable)
        for column in RESPONSES
    ]
    return pa.schema([*columns, *(pa.field(name, pa.string()) for name in _PARTITIONS)])


def _parts_of(table: DeltaTable, uri: str) -> list[LoggedPart]:
    _require_schema(table, uri)
    # pa.table() would import pandas
    actions = pa.RecordBatchReader.from_stream(table.get_add_actions()).read_all()
    actions = actions.select(["path", "size_bytes", "num_records", "partition"])
    rows = zip(*(column.to_pylist() for column in actions.columns), strict=True)
    parts = []
    for path, size, n_rows, partition in sorted(((unquote(path), *more) for path, *more in rows), key=itemgetter(0)):
        name = PartName.parse(f"{FOLDER}/{path}")
        # Other readers take checkpoint and condition from the log.
        if name is None or n_rows is None or partition != _partition(name):
            raise ResultsError(f"{uri}: its log lists {path}, which psych_ray did not commit so; {_repair(uri)}")
        parts.append(LoggedPart(name, size, n_rows))
    return parts


def _require_schema(table: DeltaTable, uri: str) -> None:
    """Raise ResultsError where the log lacks a column, or has it with another type: other readers go by the log.

    Columns that were added later may be missing: `take_over` adds them.
    """
    found = {column.name: column for column in pa.schema(table.schema().to_arrow())}
    expected = [column for column in _schema() if column.name in found or column.name not in ADDED_LATER]
    about = table.metadata()
    if about.partition_columns != _PARTITIONS or any(c.name not in found or found[c.name] != c for c in expected):
        raise ResultsError(f"{uri}: its log describes other columns than those of responses; {_repair(uri)}")
    if about.configuration.get("delta.appendOnly", "false") != "false":
        raise ResultsError(f"{uri}: its log forbids to remove parts that are damaged; {_repair(uri)}")


def _repair(uri: str) -> str:
    root = uri.removesuffix(f"/{FOLDER}")
    return f"psych-ray verify repair=true results.root={root} makes it anew from the parts"


def _add(part: Part) -> AddAction:
    return AddAction(
        path=_path(part.name),
        size=part.size,
        partition_values=_partition(part.name),
        modification_time=int(time.time() * 1000),
        data_change=True,
        stats=json.dumps({"numRecords": part.footer.rows}),
    )


def _remove(part: LoggedPart) -> RemoveAction:
    return RemoveAction(_path(part.name), True, int(time.time() * 1000), part.size, _partition(part.name))


def _path(name: PartName) -> str:
    return str(name).removeprefix(f"{FOLDER}/")


def _partition(name: PartName) -> dict[str, str | None]:
    return {"checkpoint": name.checkpoint, "condition": name.condition}
