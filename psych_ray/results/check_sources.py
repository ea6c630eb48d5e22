"""Checks every file of `sources/`, and keeps of each transcript what the rows of parts must agree with.

Reads only. Holds the texts of a few files at a time, and the spans of all responses.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from psych_ray.errors import MarkerError, ResultsError, first_line
from psych_ray.results.catalogue import FOLDER, read_file
from psych_ray.results.store import ResultsStore
from psych_ray.transcripts.conditions import response_spans
from psych_ray.transcripts.options import option_counts
from psych_ray.transcripts.record import Transcript

_THREADS = 4


@dataclass(frozen=True, slots=True)
class SourceTranscript:
    """What rows must have of a transcript. R responses."""

    number: int
    """Among all transcripts."""
    study: str
    experiment: str
    participant: str
    starts_R: NDArray[np.int32]
    ends_R: NDArray[np.int32]
    n_options_R: NDArray[np.int16]
    """0 for responses that are no option."""


@dataclass(frozen=True, slots=True)
class CheckedSources:
    """`sources/` of a results store."""

    transcripts: Mapping[str, SourceTranscript]
    """Of the files that are whole, by id."""
    damaged: Mapping[str, str]
    """Files that are damaged: name, and what is wrong."""
    unknown: tuple[str, ...]
    """Names of files that psych_ray did not write."""


def check_sources(store: ResultsStore) -> CheckedSources:
    """Read all of `sources/`."""
    names = [file.name for file in store.files(FOLDER)]
    known = [name for name in names if name.endswith(".parquet")]
    transcripts: dict[str, SourceTranscript] = {}
    damaged: dict[str, str] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for name, found in zip(known, pool.map(partial(_check_file, store), known), strict=True):
            if isinstance(found, str):
                damaged[name] = found
                continue
            for one, source in found.items():
                transcripts[one] = replace(source, number=len(transcripts))
    return CheckedSources(transcripts, damaged, tuple(set(names) - set(known)))


def _check_file(store: ResultsStore, name: str) -> dict[str, SourceTranscript] | str:
    """The transcripts of a file by id, without their numbers, or what is wrong with it."""
    try:
        return {transcript.id: _source(transcript) for transcript in read_file(store, name)}
    except (ResultsError, MarkerError) as error:
        return first_line(error).removeprefix(f"{store.location}/{name}: ").partition("; remove it")[0]


def _source(transcript: Transcript) -> SourceTranscript:
    starts, ends = (span.astype(np.int32) for span in response_spans(transcript))
    names = (transcript.study, transcript.experiment, transcript.participant)
    return SourceTranscript(-1, *names, starts, ends, option_counts(transcript))
