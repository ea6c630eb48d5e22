"""`sources/` of the results store: every transcript of the plan once, with its text and metadata.

The driver writes it, and replicas read their texts from it on any node. Files never change, and their names end with
the checksum of their content; a sweep that is resumed, or whose plan is widened, only adds transcripts that are new.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from psych_ray.config import Normalise
from psych_ray.errors import ResultsError, first_line
from psych_ray.results.parts import checksum, to_parquet
from psych_ray.results.schema import TranscriptRef
from psych_ray.results.store import ResultsStore
from psych_ray.transcripts.record import ID_RULE, Transcript

FOLDER = "sources"
_FILE_CHARACTERS = 4_000_000
_INDEX = ["transcript", "study", "n_characters", "n_responses"]
_THREADS = 8
_ID_RULE, _NORMALISE = b"psych_ray.id_rule", b"psych_ray.normalise"
"""In the metadata of a file's schema."""

SOURCES = pa.schema(
    [
        pa.field("transcript", pa.string(), nullable=False),
        pa.field("study", pa.string(), nullable=False),
        pa.field("experiment", pa.string(), nullable=False),
        pa.field("participant", pa.string(), nullable=False),
        pa.field("copy", pa.int32(), nullable=False),
        pa.field("metadata", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("n_characters", pa.int32(), nullable=False),
        pa.field("n_responses", pa.int32(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("reaction_times_ms", pa.list_(pa.float64())),
        pa.field("true_nll_nats", pa.list_(pa.float64())),
        pa.field("is_psych101", pa.bool_()),
    ]
)
"""One row per transcript. Files of earlier versions end before `is_psych101`."""
_EARLIER = pa.schema(list(SOURCES)[:-1])


def require_same_form(store: ResultsStore, normalise: Normalise) -> bool:
    """Whether `sources/` holds any transcripts. ResultsError where under other ids, so that all would be scored twice.

    Files of earlier versions do, and those that were read with another `transcripts.normalise`.
    """
    names = [file.name for file in store.files(FOLDER) if file.name.endswith(".parquet")]
    if not names:
        return False
    rule, form = _form(_read_index(store, names[0]))
    if rule != ID_RULE:
        raise ResultsError(
            f"{store.location}: was made by an earlier version, which gave transcripts other ids, so that all of "
            "them would be scored twice: name another results.root (report, status and verify still read this one)"
        )
    if form != normalise.value:
        raise ResultsError(
            f"{store.location}: was made with transcripts.normalise={form}: repeat that, or name another results.root"
        )
    return True


def catalogue(
    store: ResultsStore, transcripts: Iterable[Transcript], *, normalise: Normalise = Normalise.psych201
) -> list[TranscriptRef]:
    """Write the transcripts that `sources/` lacks, and return where each of them is, in their order.

    `normalise`: how they were read. Reads the index of `sources/` once. Holds the text of one file's transcripts at a
    time.
    """
    catalogued = {ref.id: ref for ref in catalogue_index(store)}
    refs: list[TranscriptRef | None] = []
    unwritten: dict[int, Transcript] = {}
    n_characters = 0
    for transcript in transcripts:
        ref = catalogued.get(transcript.id)
        if ref is None:
            unwritten[len(refs)] = transcript
            n_characters += len(transcript.text)
        refs.append(ref)
        if n_characters >= _FILE_CHARACTERS:
            _write(store, unwritten, refs, normalise)
            n_characters = 0
    _write(store, unwritten, refs, normalise)
    return [ref for ref in refs if ref is not None]


def read_catalogued(store: ResultsStore, refs: Sequence[TranscriptRef]) -> Iterator[Transcript]:
    """Yield transcripts, file by file. ResultsError where `sources/` does not hold one of them."""
    by_file: dict[str, list[TranscriptRef]] = defaultdict(list)
    for ref in refs:
        by_file[ref.file].append(ref)
    for file, wanted in by_file.items():
        table = _read(store, file)
        rows = [ref.row for ref in wanted]
        if max(rows) >= len(table) or table["transcript"].take(rows).to_pylist() != [ref.id for ref in wanted]:
            raise ResultsError(f"{store.location}/{file}: was changed since it was written; remove it and sweep again")
        id_rule, _ = _form(table)
        yield from (_transcript(row, id_rule) for row in table.take(rows).to_pylist())


def catalogue_index(store: ResultsStore) -> list[TranscriptRef]:
    """Where all transcripts of `sources/` are, without their texts."""
    names = [file.name for file in store.files(FOLDER) if file.name.endswith(".parquet")]
    with ThreadPoolExecutor(_THREADS) as pool:
        tables = pool.map(partial(_read_index, store), names)
        return [
            TranscriptRef(row["transcript"], row["study"], name, number, row["n_characters"], row["n_responses"])
            for name, table in zip(names, tables, strict=True)
            for number, row in enumerate(table.to_pylist())
        ]


def no_sources(store: ResultsStore) -> str:
    """One line for the user, where `sources/` has no file."""
    return f"{store.location}/{FOLDER}: has no transcripts; the next sweep writes them again"


def read_file(store: ResultsStore, name: str) -> list[Transcript]:
    """All transcripts of a file, everything in it checked. ResultsError, or MarkerError, where it is damaged."""
    table = _read(store, name)
    if table.schema.remove_metadata() not in (SOURCES, _EARLIER):
        raise ResultsError(damaged(store, name, "it has other columns"))
    transcripts = []
    id_rule, _ = _form(table)
    for row in table.to_pylist():
        transcript = _transcript(row, id_rule)
        facts = (transcript.id, len(transcript.text), len(transcript.responses))
        if (row["transcript"], row["n_characters"], row["n_responses"]) != facts:
            raise ResultsError(damaged(store, name, f"{row['transcript']} is not the id, or the counts, of its text"))
        transcripts.append(transcript)
    if name.removeprefix(f"{FOLDER}/").removesuffix(".parquet").partition("-")[0] != _hash(transcripts):
        raise ResultsError(damaged(store, name, "it holds other transcripts than its name says"))
    return transcripts


def _read(store: ResultsStore, name: str) -> pa.Table:
    """All rows of a file whose checksum is that of its name; names of earlier versions have none."""
    content = store.read(name)
    _, dash, expected = name.removesuffix(".parquet").partition("-")
    if dash and checksum(content) != expected:
        raise ResultsError(damaged(store, name, f"{len(content):,} bytes whose checksum is not that of its name"))
    return rows_of(store, name, pa.BufferReader(content))


def _read_index(store: ResultsStore, name: str) -> pa.Table:
    with store.open(name) as file:
        return rows_of(store, name, file, _INDEX)


def rows_of(
    store: ResultsStore, name: str, file: Any, columns: Sequence[str] | None = None, *, or_null: str | None = None
) -> pa.Table:
    """Rows of an open file, all columns or some. ResultsError where it cannot be read, or lacks one of `columns`.

    `or_null`: the one of them that is null where it is not there.
    """
    try:
        if or_null is None or or_null in pq.read_schema(file).names:
            return pq.read_table(file, columns=columns, page_checksum_verification=True)
        present = [column for column in columns or () if column != or_null]
        rows = pq.read_table(file, columns=present, page_checksum_verification=True)
        field = SOURCES.field(or_null)
        return rows.append_column(field, pa.nulls(len(rows), field.type))
    except (OSError, pa.ArrowException, ValueError) as error:
        raise ResultsError(damaged(store, name, first_line(error))) from error


def damaged(store: ResultsStore, name: str, reason: str) -> str:
    """Message of an error about a file of `sources/`."""
    return f"{store.location}/{name}: damaged ({reason}); remove it and sweep again: no score is lost"


def _form(table: pa.Table) -> tuple[int, str]:
    """How a file's ids were made, and how its transcripts were normalised; earlier versions did not write it."""
    metadata = table.schema.metadata or {}
    rule, form = (metadata.get(name, b"").decode(errors="replace") for name in (_ID_RULE, _NORMALISE))
    return int(rule) if rule.isdecimal() else 1, form


def _write(
    store: ResultsStore, unwritten: dict[int, Transcript], refs: list[TranscriptRef | None], normalise: Normalise
) -> None:
    """Write these transcripts as one file, set `refs` at their indices, and empty `unwritten`."""
    if not unwritten:
        return
    schema = SOURCES.with_metadata({_ID_RULE: str(ID_RULE), _NORMALISE: normalise.value})
    content = to_parquet(pa.Table.from_pylist([_row(t) for t in unwritten.values()], schema=schema))
    name = f"{FOLDER}/{_hash(unwritten.values())}-{checksum(content)}.parquet"
    store.write(name, content)
    for row, (index, t) in enumerate(unwritten.items()):
        refs[index] = TranscriptRef(t.id, t.study, name, row, len(t.text), len(t.responses))
    unwritten.clear()


def _hash(transcripts: Iterable[Transcript]) -> str:
    ids = json.dumps([transcript.id for transcript in transcripts])
    return hashlib.blake2b(ids.encode(), digest_size=12).hexdigest()


def _row(transcript: Transcript) -> dict[str, object]:
    return {
        "transcript": transcript.id,
        "study": transcript.study,
        "experiment": transcript.experiment,
        "participant": transcript.participant,
        "copy": transcript.copy,
        "metadata": list(transcript.metadata.items()),
        "n_characters": len(transcript.text),
        "n_responses": len(transcript.responses),
        "text": transcript.text,
        "reaction_times_ms": transcript.reaction_times_ms,
        "true_nll_nats": transcript.true_nll_nats,
        "is_psych101": transcript.is_psych101,
    }


def _transcript(row: dict[str, object], id_rule: int) -> Transcript:
    fields = {name: row[name] for name in ("study", "experiment", "participant", "copy", "text")}
    times, nll = row["reaction_times_ms"], row["true_nll_nats"]
    return Transcript(
        **fields,  # type: ignore[arg-type]
        metadata=dict(row["metadata"]),  # type: ignore[call-overload]
        reaction_times_ms=None if times is None else tuple(times),  # type: ignore[arg-type]
        true_nll_nats=None if nll is None else tuple(nll),  # type: ignore[arg-type]
        is_psych101=row.get("is_psych101"),  # type: ignore[arg-type]
        id_rule=id_rule,
    )
