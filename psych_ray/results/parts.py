"""A part: the Parquet file of one unit, serialised in memory and written whole, with a footer of what made it.

Its name ends with the checksum of its content, so that every reader can tell whether it is what was written. Does not
import torch, and does not know which parts belong to the table: `results.log` does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from psych_ray.errors import ResultsError
from psych_ray.results.schema import RESPONSES, CheckpointFacts, Footer, Part, PartName, ScoringIdentity, Tally
from psych_ray.results.store import ResultsStore
from psych_ray.scoring.calibration import COLUMNS, OPTIONS_HIT
from psych_ray.scoring.scored import ScoredTranscript
from psych_ray.transcripts.conditions import response_spans
from psych_ray.transcripts.options import option_counts
from psych_ray.transcripts.status import Status

_KEY = "psych_ray"
_COUNTED = {"rows", "rows_by_status", "transcripts", "tallies"}
"""Fields of a footer that are counted in the rows."""
_COUNTED_COLUMNS = ["study", "transcript", "nll", "top1", "status"]


@dataclass(frozen=True, slots=True)
class NoPartError(Exception):
    """The content of a file is not the part that its name says; a reason in one line."""

    reason: str

    def __str__(self) -> str:
        return self.reason


def write_table(store: ResultsStore, table: pa.Table, footer: Footer) -> Part:
    """Write the rows of one unit, in the columns of `RESPONSES`, or nothing at all.

    The part belongs to the table once it is committed to its log. Its footer is returned as written: with what is
    counted in the rows.
    """
    footer = replace(footer, **counted_facts(table))
    content = to_parquet(table, {_KEY: json.dumps(asdict(footer))})
    name = PartName(footer.checkpoint.slug, footer.condition, footer.unit, checksum(content))
    store.write(str(name), content)
    return Part(name, len(content), footer)


def checksum(content: bytes) -> str:
    """Hash of a file's content, as the names of files have it."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def read_part(store: ResultsStore, name: PartName) -> Part:
    """Read a part whole, and check it. ResultsError for a file that is not what was written under this name."""
    content = store.read(str(name))
    try:
        return Part(name, len(content), check_part(name, content))
    except NoPartError as error:
        raise ResultsError(
            f"{store.location}/{name}: {error}; psych-ray verify repair=true results.root={store.location} drops it, "
            "and the next sweep scores its transcripts again"
        ) from error


def responses_table(scored: Iterable[ScoredTranscript]) -> pa.Table:
    """One row per response in the columns of `RESPONSES`, transcript after transcript."""
    return pa.concat_tables([_rows(s) for s in scored] or [RESPONSES.empty_table()]).unify_dictionaries()


def check_part(name: PartName, content: bytes) -> Footer:
    """Footer of a part with this name and content, everything in it checked; NoPartError where they do not agree.

    What an older version did not write to the footer is counted in the rows.
    """
    if name.checksum and checksum(content) != name.checksum:
        raise NoPartError(f"damaged: {len(content):,} bytes whose checksum is not that of its name")
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        written = json.loads((file.metadata.metadata or {})[_KEY.encode()])
        unknown = written["scoring"].keys() - _names(ScoringIdentity)
        footer = footer_of(written)
        counted = counted_facts(file.read(columns=_COUNTED_COLUMNS))
    except (OSError, pa.ArrowException, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise NoPartError(f"damaged, or no part of a sweep ({' '.join(str(error).split())})") from error
    if unknown:
        # Scores that depend on it must not be mixed with others.
        raise NoPartError(f"scored with scoring.{min(unknown)}, which needs a newer version of psych_ray")
    stated = {"checkpoint": footer.checkpoint.slug, "condition": footer.condition, "unit": footer.unit}
    for key, value in stated.items():
        if value != getattr(name, key):
            raise NoPartError(f"its footer has {key}={value}, its name {getattr(name, key)}")
    if written.keys() >= _COUNTED and (footer.rows, footer.transcripts) != (counted["rows"], counted["transcripts"]):
        raise NoPartError(f"its footer has {footer.rows:,} rows, the file {counted['rows']:,}, or other transcripts")
    return footer if written.keys() >= _COUNTED else replace(footer, **counted)


def footer_of(content: dict[str, Any]) -> Footer:
    """Build a footer from its JSON. Unknown fields are ignored: a newer version may have written them."""
    nested = {
        "checkpoint": CheckpointFacts(**_known(CheckpointFacts, content["checkpoint"])),
        "scoring": ScoringIdentity(**_known(ScoringIdentity, content["scoring"])),
        "tallies": {study: Tally(**_known(Tally, tally)) for study, tally in content.get("tallies", {}).items()},
    }
    return Footer(**_known(Footer, content) | nested)


def _known(kind: type, content: dict[str, Any]) -> dict[str, Any]:
    names = _names(kind)
    return {name: value for name, value in content.items() if name in names}


@cache
def _names(kind: type) -> frozenset[str]:
    return frozenset(field.name for field in fields(kind))


def counted_facts(table: pa.Table) -> dict[str, Any]:
    """The fields of a footer that are counted in the rows of its part; sums of floats in the order of the rows."""
    plain = table.select(_COUNTED_COLUMNS).set_column(
        _COUNTED_COLUMNS.index("nll"), "nll", table["nll"].cast(pa.float64())
    )
    for name in ("study", "transcript", "status"):
        plain = plain.set_column(_COUNTED_COLUMNS.index(name), name, plain[name].cast(pa.string()))
    # One thread: a sum of floats depends on its order. NLLs are null unless scored.
    by_study = plain.group_by("study", use_threads=False).aggregate([("nll", "count"), ("nll", "sum"), ("top1", "sum")])
    return {
        "rows": len(table),
        "rows_by_status": {row["values"]: row["counts"] for row in plain["status"].value_counts().to_pylist()},
        "transcripts": plain["transcript"].unique().to_pylist(),
        "tallies": {
            row["study"]: Tally(row["nll_count"], row["nll_sum"] or 0.0, row["top1_sum"] or 0)
            for row in by_study.to_pylist()
        },
    }


def to_parquet(table: pa.Table, metadata: dict[str, str] | None = None) -> bytes:
    """Serialise a table in memory, with one checksum per page and `metadata` at the end of the file."""
    sink = pa.BufferOutputStream()
    floats = {column.name for column in table.schema if pa.types.is_floating(column.type)}
    # nearly all of their values differ, so that a dictionary of them takes more than they do
    encoded: Any = [name for name in table.column_names if name not in floats] if floats else True
    with pq.ParquetWriter(
        sink, table.schema, compression="zstd", write_page_checksum=True, use_dictionary=encoded
    ) as writer:
        writer.write_table(table)
        # Metadata of the schema instead would be stored twice.
        writer.add_key_value_metadata(metadata or {})
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _rows(scored: ScoredTranscript) -> pa.Table:
    transcript = scored.transcript
    starts, ends = response_spans(transcript)
    n = len(starts)
    unscored = scored.status_R != Status.scored.code
    top1 = scored.top1_R if scored.top1_R is not None else np.zeros(n, np.bool_)
    no_top1 = unscored if scored.top1_R is not None else np.ones(n, np.bool_)
    columns = {
        "study": _repeated(transcript.study, n),
        "experiment": _repeated(transcript.experiment, n),
        "participant": _repeated(transcript.participant, n),
        "transcript": _repeated(transcript.id, n),
        "response": np.arange(n, dtype=np.int32),
        "char_start": starts.astype(np.int32),
        "char_end": ends.astype(np.int32),
        "n_tokens": scored.n_tokens_R,
        "nll": pa.array(scored.nll_R, mask=unscored),
        "top1": pa.array(top1, mask=no_top1),
        "status": pa.DictionaryArray.from_arrays(scored.status_R.astype(np.int32), [s.value for s in Status]),
        "n_options": _null_where_zero(option_counts(transcript)),
        **_calibration(scored),
    }
    return pa.table(columns, schema=RESPONSES)


def _calibration(scored: ScoredTranscript) -> dict[str, pa.Array]:
    if scored.calibration_RC is None:
        return {name: pa.nulls(len(scored.status_R), RESPONSES.field(name).type) for name in COLUMNS}
    columns = {name: (values, np.isnan(values)) for name, values in zip(COLUMNS, scored.calibration_RC.T, strict=True)}
    hit, no_hit = columns[OPTIONS_HIT]
    columns[OPTIONS_HIT] = (hit == 1, no_hit)
    return {name: pa.array(values, mask=is_null) for name, (values, is_null) in columns.items()}


def _null_where_zero(values: NDArray[np.int16]) -> pa.Array:
    return pa.array(values, mask=values == 0)


def _repeated(value: str, n: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), [value])
