"""Transcripts for the page's viewer: those in which checkpoints differ most, with the scores of their responses.

Reads their texts from `sources/` and their rows from the table; the report goes without where `sources/` is damaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, zip_longest

import polars as pl

from psych_ray.errors import MarkerError, ResultsError
from psych_ray.report import ViewedTranscript
from psych_ray.report.viewer import MAX_CHECKPOINTS
from psych_ray.results.catalogue import catalogue_index, no_sources, read_catalogued
from psych_ray.results.schema import TranscriptRef
from psych_ray.results.store import ResultsStore
from psych_ray.study.tables import Findings
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.status import Status

_REFERENCES = 2


def viewed_transcripts(
    store: ResultsStore, tasks: Mapping[tuple[str, str], pl.LazyFrame], found: Findings, *, n: int
) -> tuple[list[ViewedTranscript], list[str]]:
    """At most `n` transcripts, in turn from each study, and lines for the user where they cannot be shown.

    `tasks`: the rows of each checkpoint and condition, of which those of these transcripts are read.
    """
    slugs = viewed_checkpoints(found)
    if n == 0 or not slugs:
        return [], []
    none = "viewer:  none on the page, as transcripts cannot be read"
    try:
        index = catalogue_index(store)
        refs = _chosen(index, found, n)
        transcripts = list(read_catalogued(store, refs))
        spans = {one.id: [(response.start, response.end) for response in one.responses] for one in transcripts}
    except (ResultsError, MarkerError) as error:
        return [], [f"{none}: {error}"]
    if not index:
        return [], [f"{none}: {no_sources(store)}"]
    frames = {slug: frame for (slug, condition), frame in tasks.items() if condition == found.main_condition}
    rows = {slug: _rows(frames[slug], list(spans)) for slug in slugs}
    place = {ref.id: at for at, ref in enumerate(refs)}
    ordered = sorted(transcripts, key=lambda one: place[one.id])
    return [_viewed(one, spans[one.id], rows, slugs) for one in ordered], []


def viewed_checkpoints(found: Findings) -> list[str]:
    """At most as many as the viewer shows: pairs of largest absolute d, other checkpoints, references last."""
    every = found.in_main_condition(found.by_checkpoint)
    is_reference = pl.col("stage").is_null() & pl.col("size_b").is_null()
    references = every.filter(is_reference)["checkpoint"].to_list()[:_REFERENCES]
    others = every.filter(~is_reference)["checkpoint"].to_list()
    pairs = found.in_main_condition(found.misalignment).sort(pl.col("d").abs(), descending=True, nulls_last=True)
    first = chain.from_iterable(pairs.select("base", "post").iter_rows())
    room = MAX_CHECKPOINTS - len(references)
    kept = list(dict.fromkeys(slug for slug in (*first, *others) if slug in others))[:room]
    return [*sorted(kept, key=others.index), *references]


def _chosen(index: Sequence[TranscriptRef], found: Findings, n: int) -> list[TranscriptRef]:
    """Of `n` transcripts in `sources/`; without a pair, so without differences, the first of each study."""
    known = {ref.id: ref for ref in index}
    differences = found.in_main_condition(found.transcript_differences)
    names = zip(differences["study"], differences["transcript"], strict=True)
    by_study: dict[str, list[TranscriptRef]] = {}
    for study, transcript in names if differences.height else ((ref.study, ref.id) for ref in index):
        if transcript in known:
            by_study.setdefault(study, []).append(known[transcript])
    return list(_in_turn(by_study.values()))[:n]


def _in_turn(lists: Iterable[Sequence[TranscriptRef]]) -> Iterable[TranscriptRef]:
    return (ref for turn in zip_longest(*lists) for ref in turn if ref is not None)


def _rows(frame: pl.LazyFrame, transcripts: Sequence[str]) -> dict[tuple[object, ...], pl.DataFrame]:
    """Rows by transcript."""
    texts = pl.col("transcript", "status").cast(pl.String)
    wanted = frame.select("transcript", "response", "nll", "status").with_columns(texts)
    return (
        wanted.filter(pl.col("transcript").is_in(list(transcripts)))
        .collect(engine="streaming")
        .partition_by("transcript", as_dict=True)
    )


def _viewed(
    one: Transcript,
    spans: Sequence[tuple[int, int]],
    rows: Mapping[str, dict[tuple[object, ...], pl.DataFrame]],
    slugs: Sequence[str],
) -> ViewedTranscript:
    nll: dict[str, list[float | None]] = {}
    status: dict[str, list[str | None]] = {}
    for slug in slugs:
        nll[slug], status[slug] = [None] * len(spans), [None] * len(spans)
        own = rows[slug].get((one.id,))
        for response, value, reason in own.select("response", "nll", "status").iter_rows() if own is not None else ():
            if 0 <= response < len(spans):
                nll[slug][response] = value
                status[slug][response] = None if reason == Status.scored else reason
    return ViewedTranscript(
        study=one.study,
        experiment=one.experiment,
        participant=one.participant,
        id=one.id,
        text=one.text,
        spans=spans,
        nll=nll,
        status=status,
    )
