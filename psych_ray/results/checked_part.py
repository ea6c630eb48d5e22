"""One part, read whole and checked by itself; what checks across parts need of it afterwards. Reads only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from psych_ray.errors import ResultsError, first_line
from psych_ray.results.check_rows import rows_fault
from psych_ray.results.check_sources import SourceTranscript
from psych_ray.results.parts import NoPartError, check_part
from psych_ray.results.schema import CheckpointFacts, Footer, Part, PartName, ScoringIdentity
from psych_ray.results.store import ResultsStore


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundPart:
    """A part with which nothing is wrong by itself."""

    name: PartName
    size: int
    """Bytes."""
    rows: int
    scoring: ScoringIdentity
    checkpoint: CheckpointFacts
    numbers: NDArray[np.int32]
    """Of its transcripts in `sources/`."""
    unknown: tuple[str, ...]
    """Ids of its transcripts that are not in `sources/`."""
    footer_hash: bytes


def check_stored_part(
    store: ResultsStore, known: Mapping[str, SourceTranscript], listed: Collection[PartName], name: PartName
) -> SoundPart | str:
    """Read and check the part of this name; a reason in one line where something is wrong with it.

    `listed`: the parts of the log. Others may be of an earlier version, whose names have no checksum.
    """
    try:
        part, table = read_checked(store, name, needs_checksum=name in listed)
        fault = rows_fault(table, part.footer, known)
    except NoPartError as error:
        return str(error)
    except ResultsError as error:
        return "is missing" if not store.exists(str(name)) else first_line(error).removeprefix(f"{store.location}/")
    if fault:
        return fault
    footer = part.footer
    return SoundPart(
        name=name,
        size=part.size,
        rows=footer.rows,
        scoring=footer.scoring,
        checkpoint=footer.checkpoint,
        numbers=np.array([known[one].number for one in footer.transcripts if one in known], np.int32),
        unknown=tuple(one for one in footer.transcripts if one not in known),
        footer_hash=hash_of(footer),
    )


def read_checked(store: ResultsStore, name: PartName, *, needs_checksum: bool = True) -> tuple[Part, pa.Table]:
    """A part and its rows. NoPartError for a file that is not what was written under this name."""
    content = store.read(str(name))
    if needs_checksum and not name.checksum:
        raise NoPartError("its name has no checksum")
    part = Part(name, len(content), check_part(name, content))
    try:
        return part, pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise NoPartError(f"damaged ({first_line(error)})") from error


def hash_of(footer: Footer) -> bytes:
    """Hash of everything that a footer says."""
    return hashlib.blake2b(json.dumps(asdict(footer), sort_keys=True).encode(), digest_size=16).digest()
