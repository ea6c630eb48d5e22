"""A part: the Parquet file of one unit. Serialised in memory, then committed whole; its footer says what made it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from psych_ray.errors import ResultsError
from psych_ray.results.root import ResultsRoot
from psych_ray.results.schema import RESPONSES, CheckpointFacts, Footer, ScoringIdentity
from psych_ray.scoring.scored import ScoredTranscript
from psych_ray.transcripts.conditions import response_spans
from psych_ray.transcripts.status import Status

_KEY = b"psych_ray"


def part_name(checkpoint: str, condition: str, unit: str) -> str:
    """Place of a part below the results root, hive-partitioned."""
    return f"{part_folder(checkpoint, condition)}/{unit}.parquet"


def part_folder(checkpoint: str, condition: str) -> str:
    """Folder of all parts of a checkpoint under a condition."""
    return f"responses/checkpoint={checkpoint}/condition={condition}"


def commit_part(root: ResultsRoot, scored: Sequence[ScoredTranscript], footer: Footer) -> pa.Table:
    """Write the rows of one unit and return them; afterwards they are there, or nothing is."""
    table = responses_table(scored)
    counts = table["status"].combine_chunks().dictionary_decode().value_counts().to_pylist()
    footer = replace(footer, rows_by_status={count["values"]: count["counts"] for count in counts})
    content = to_parquet(table, {_KEY: json.dumps(asdict(footer)).encode()})
    root.commit(part_name(footer.checkpoint.slug, footer.condition, footer.unit), content)
    return table


def responses_table(scored: Iterable[ScoredTranscript]) -> pa.Table:
    """One row a response in the columns of `RESPONSES`, transcript after transcript."""
    return pa.concat_tables([_rows(s) for s in scored] or [RESPONSES.empty_table()]).unify_dictionaries()


def read_footer(path: Path) -> Footer:
    """Read what made a part. ResultsError for a file that is no part of ours, or is damaged."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        content: dict[str, Any] = json.loads(metadata[_KEY])
        content["checkpoint"] = CheckpointFacts(**content["checkpoint"])
        content["scoring"] = ScoringIdentity(**content["scoring"])
        return Footer(**content)
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise ResultsError(f"{path}: damaged, or no part of a sweep ({error}); remove it and sweep again") from error


def to_parquet(table: pa.Table, metadata: dict[bytes, bytes] | None = None) -> bytes:
    """Serialise a table in memory, with a checksum a page."""
    if metadata:
        table = table.replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
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
