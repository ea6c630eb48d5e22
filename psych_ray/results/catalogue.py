"""`sources/` of the results root: every transcript of the plan once, with its text and metadata.

The driver streams the sources into it; replicas read their texts from it, wherever they run. Files are named by what
they hold and never change, so a sweep that goes on, or that widens its plan, adds to it only what is new.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from psych_ray.errors import ResultsError
from psych_ray.results.parts import to_parquet
from psych_ray.results.root import ResultsRoot
from psych_ray.results.schema import TranscriptRef
from psych_ray.transcripts.record import Transcript

FOLDER = "sources"
_FILE_CHARACTERS = 4_000_000
_INDEX = ["transcript", "study", "n_characters", "n_responses"]

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
    ]
)
"""One row a transcript."""


def catalogue(root: ResultsRoot, transcripts: Iterable[Transcript]) -> list[TranscriptRef]:
    """Make sure that all transcripts stand in `sources/` and return where, in their order. Streams: holds no text."""
    known = {ref.id: ref for ref in _index(root)}
    refs: list[TranscriptRef | None] = []
    waiting: dict[int, Transcript] = {}
    n_characters = 0
    for transcript in transcripts:
        ref = known.get(transcript.id)
        if ref is None:
            waiting[len(refs)] = transcript
            n_characters += len(transcript.text)
        refs.append(ref)
        if n_characters >= _FILE_CHARACTERS:
            _write(root, waiting, refs)
            n_characters = 0
    _write(root, waiting, refs)
    return [ref for ref in refs if ref is not None]


def read_catalogued(root: ResultsRoot, refs: Sequence[TranscriptRef]) -> Iterator[Transcript]:
    """Read transcripts back, file by file. ResultsError where `sources/` no longer holds one."""
    rows: dict[str, list[TranscriptRef]] = defaultdict(list)
    for ref in refs:
        rows[ref.file].append(ref)
    for file, wanted in rows.items():
        table = _read(root, file)
        at = [ref.row for ref in wanted]
        if max(at) >= len(table) or table["transcript"].take(at).to_pylist() != [ref.id for ref in wanted]:
            raise ResultsError(f"{root.local(file)}: was changed since it was written; remove it and sweep again")
        yield from map(_transcript, table.take(at).to_pylist())


def catalogue_index(root: ResultsRoot) -> list[TranscriptRef]:
    """All transcripts that stand in `sources/`, without their texts."""
    return list(_index(root))


def _index(root: ResultsRoot) -> Iterator[TranscriptRef]:
    for name in root.names(FOLDER):
        for number, row in enumerate(_read(root, name, _INDEX).to_pylist()):
            yield TranscriptRef(row["transcript"], row["study"], name, number, row["n_characters"], row["n_responses"])


def _read(root: ResultsRoot, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(root.local(name), columns=columns, page_checksum_verification=True)
    except (OSError, pa.ArrowInvalid) as error:
        raise ResultsError(f"{root.local(name)}: cannot be read ({error}); remove it and sweep again") from error


def _write(root: ResultsRoot, waiting: dict[int, Transcript], refs: list[TranscriptRef | None]) -> None:
    """Commit the waiting transcripts as one file, put their refs in place, and empty `waiting`."""
    if not waiting:
        return
    ids = json.dumps([t.id for t in waiting.values()])
    name = f"{FOLDER}/{hashlib.blake2b(ids.encode(), digest_size=12).hexdigest()}.parquet"
    root.commit(name, to_parquet(pa.Table.from_pylist([_row(t) for t in waiting.values()], schema=SOURCES)))
    for number, (place, t) in enumerate(waiting.items()):
        refs[place] = TranscriptRef(t.id, t.study, name, number, len(t.text), len(t.responses))
    waiting.clear()


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
    }


def _transcript(row: dict[str, object]) -> Transcript:
    fields = {name: row[name] for name in ("study", "experiment", "participant", "copy", "text")}
    times, nll = row["reaction_times_ms"], row["true_nll_nats"]
    return Transcript(
        **fields,  # type: ignore[arg-type]
        metadata=dict(row["metadata"]),  # type: ignore[call-overload]
        reaction_times_ms=None if times is None else tuple(times),  # type: ignore[arg-type]
        true_nll_nats=None if nll is None else tuple(nll),  # type: ignore[arg-type]
    )
