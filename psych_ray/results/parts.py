"""A part: the Parquet file of one unit. Serialised in memory, then written whole; its footer records what made it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from psych_ray.errors import ResultsError
from psych_ray.results.schema import RESPONSES, CheckpointFacts, Footer, ScoringIdentity
from psych_ray.results.store import ResultsStore
from psych_ray.scoring.scored import ScoredTranscript
from psych_ray.transcripts.conditions import response_spans
from psych_ray.transcripts.status import Status

FOLDER = "responses"
_KEY = "psych_ray"
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


def commit_part(store: ResultsStore, scored: Sequence[ScoredTranscript], footer: Footer) -> None:
    """Write the rows of one unit as a part, or nothing at all."""
    table = responses_table(scored)
    counts = table["status"].combine_chunks().dictionary_decode().value_counts().to_pylist()
    footer = replace(footer, rows_by_status={count["values"]: count["counts"] for count in counts})
    name = PartName(footer.checkpoint.slug, footer.condition, footer.unit)
    store.write(str(name), to_parquet(table, {_KEY: json.dumps(asdict(footer))}))


def responses_table(scored: Iterable[ScoredTranscript]) -> pa.Table:
    """One row per response in the columns of `RESPONSES`, transcript after transcript."""
    return pa.concat_tables([_rows(s) for s in scored] or [RESPONSES.empty_table()]).unify_dictionaries()


def read_footer(store: ResultsStore, name: PartName) -> Footer:
    """Read what made a part, from the end of its file. ResultsError for a file that is no part, or is damaged."""
    with store.open(str(name)) as file:
        try:
            metadata = pq.read_metadata(file).metadata or {}
            content: dict[str, Any] = json.loads(metadata[_KEY.encode()])
            content["checkpoint"] = CheckpointFacts(**content["checkpoint"])
            content["scoring"] = ScoringIdentity(**content["scoring"])
            return Footer(**content)
        except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
            path = f"{store.location}/{name}"
            raise ResultsError(
                f"{path}: damaged, or no part of a sweep ({error}); remove it and sweep again"
            ) from error


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
