"""A part: the Parquet file of one unit, serialised in memory and written whole, with a footer of what made it.

Does not import torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from psych_ray.errors import ResultsError
from psych_ray.results.schema import RESPONSES, CheckpointFacts, Footer, ScoringIdentity, Tally
from psych_ray.results.store import ResultsStore
from psych_ray.scoring.scored import ScoredTranscript
from psych_ray.transcripts.conditions import response_spans
from psych_ray.transcripts.status import Status

FOLDER = "responses"
_KEY = "psych_ray"
_COUNTED = {"rows", "rows_by_status", "transcripts", "tallies"}
"""Fields of a footer that are counted in the rows."""
_COUNTED_COLUMNS = ["study", "transcript", "nll", "top1", "status"]
_PATH = re.compile(rf"{FOLDER}/checkpoint=([^/]+)/condition=([^/]+)/([^/]+)\.parquet")


@dataclass(frozen=True, slots=True)
class PartName:
    """The name of a part: hive-partitioned, so that any reader of Parquet finds checkpoint and condition in it."""

    checkpoint: str
    """Slug."""
    condition: str
    unit: str

    def __str__(self) -> str:
        return f"{FOLDER}/checkpoint={self.checkpoint}/condition={self.condition}/{self.unit}.parquet"

    @property
    def task(self) -> tuple[str, str]:
        """Checkpoint (slug) and condition."""
        return self.checkpoint, self.condition


def part_names(store: ResultsStore) -> list[PartName]:
    """Names of all committed parts, sorted; lists the folder once."""
    matches = map(_PATH.fullmatch, store.names(FOLDER))
    return [PartName(*match.groups()) for match in matches if match]


def commit_part(store: ResultsStore, scored: Sequence[ScoredTranscript], footer: Footer) -> Footer:
    """Write the rows of one unit as a part, or nothing at all.

    Returns the footer as written: with what is counted in the rows.
    """
    table = responses_table(scored)
    footer = replace(footer, **_counted(table))
    name = PartName(footer.checkpoint.slug, footer.condition, footer.unit)
    store.write(str(name), to_parquet(table, {_KEY: json.dumps(asdict(footer))}))
    return footer


def responses_table(scored: Iterable[ScoredTranscript]) -> pa.Table:
    """One row per response in the columns of `RESPONSES`, transcript after transcript."""
    return pa.concat_tables([_rows(s) for s in scored] or [RESPONSES.empty_table()]).unify_dictionaries()


def read_footer(store: ResultsStore, name: PartName) -> Footer:
    """Read the footer of a part, from the end of its file.

    What an older version did not write there is counted in the rows. ResultsError for a file that is no part, is
    damaged, contradicts its footer, or was scored with a setting of a newer version.
    """
    path = f"{store.location}/{name}"
    with store.open(str(name)) as file:
        try:
            parquet = pq.ParquetFile(file)
            content = json.loads((parquet.metadata.metadata or {})[_KEY.encode()])
            unknown = content["scoring"].keys() - _names(ScoringIdentity)
            footer = _footer(content)
            if not content.keys() >= _COUNTED:
                footer = replace(footer, **_counted(parquet.read(columns=_COUNTED_COLUMNS)))
        except (OSError, pa.ArrowInvalid, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ResultsError(
                f"{path}: damaged, or no part of a sweep ({error}); remove it and sweep again"
            ) from error
    if unknown:
        # Scores that depend on it must not be mixed with others.
        raise ResultsError(f"{path}: scored with scoring.{min(unknown)}, which needs a newer version of psych_ray")
    stated = {"rows": footer.rows, "checkpoint": footer.checkpoint.slug, "condition": footer.condition}
    found = {"rows": parquet.metadata.num_rows, "checkpoint": name.checkpoint, "condition": name.condition}
    for key, value in stated.items():
        if value != found[key]:
            raise ResultsError(
                f"{path}: its footer has {key}={value}, the file {found[key]}; remove it and sweep again"
            )
    return footer


def _footer(content: dict[str, Any]) -> Footer:
    """Build a footer from its JSON. Unknown fields are ignored: a newer version may have written them."""
    nested = {
        "checkpoint": CheckpointFacts(**_known(CheckpointFacts, content["checkpoint"])),
        "scoring": ScoringIdentity(**_known(ScoringIdentity, content["scoring"])),
        "tallies": {study: Tally(**_known(Tally, tally)) for study, tally in content.get("tallies", {}).items()},
    }
    return Footer(**_known(Footer, content) | nested)


def _known(kind: type, content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name in _names(kind)}


@cache
def _names(kind: type) -> frozenset[str]:
    return frozenset(field.name for field in fields(kind))


def _counted(table: pa.Table) -> dict[str, Any]:
    """The fields of a footer that are counted in the rows of its part."""
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
    with pq.ParquetWriter(sink, table.schema, compression="zstd", write_page_checksum=True) as writer:
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
    }
    return pa.table(columns, schema=RESPONSES)


def _repeated(value: str, n: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), [value])
