"""Transcripts of any source as one stream: selects and validates records, and numbers exact repetitions.

Lazy: a record is read when the stream is iterated, and no file is read beyond the last selected participant.
Independent of layouts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import TypeAlias

from psych_ray.config import TranscriptsConfig, TranscriptSource
from psych_ray.errors import TranscriptError
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.sources.errors import BadRecordError, LeftOut, Skipped, one_line
from psych_ray.transcripts.sources.fields import to_transcript
from psych_ray.transcripts.sources.layout import origins
from psych_ray.transcripts.sources.origin import Origin, Raw, Records
from psych_ray.transcripts.sources.selection import Selection
from psych_ray.transcripts.sources.skipping import OnSkipped, Skipping

_LeftOut: TypeAlias = Counter[tuple[str, str, str]]
"""Participants by study, what is left out, and the reason."""


def read_transcripts(
    config: TranscriptsConfig,
    *,
    on_skipped: OnSkipped | None = None,
    on_left_out: Callable[[LeftOut], None] | None = None,
) -> Iterator[Transcript]:
    """The transcripts of a source in its order, folders study by study; ids are unique over the source.

    A record, or a file of a folder, that cannot be used raises TranscriptError, or with transcripts.on_error=skip is
    passed to `on_skipped`. A source that cannot be read always raises TranscriptError, and so does, with the reasons,
    one of which every response was skipped. UnreachableError where the hub does not answer. At the end `on_left_out`
    is called for each study of which something was left out.
    """
    selection = Selection(config.studies, config.limit, config.collection)
    skip = Skipping(config.on_error, on_skipped)
    left_out: _LeftOut = Counter()
    if config.source == TranscriptSource.demo:
        transcripts = _simulated(config, selection)
    else:
        transcripts = (
            t for origin in origins(config, selection) for t in _of_origin(origin, selection, skip, left_out)
        )
    seen: Counter[str] = Counter()
    any_response = False
    for transcript in transcripts:
        copy = seen[transcript.id]
        seen[transcript.id] += 1
        any_response = any_response or bool(transcript.responses)
        yield replace(transcript, copy=copy) if copy else transcript
    selection.check_match()
    skip.require_some(any_response=any_response)
    if on_left_out is not None:
        for (study, what, reason), n in left_out.items():
            on_left_out(LeftOut(study, what, reason, n))


def _simulated(config: TranscriptsConfig, selection: Selection) -> Iterator[Transcript]:
    from psych_ray.transcripts.simulated import simulated_transcripts

    for transcript in simulated_transcripts(participants=config.participants, seed=config.seed):
        if selection.includes(transcript.study) and not selection.is_full(transcript.study):
            selection.count(transcript.study)
            yield transcript


def _of_origin(origin: Origin, selection: Selection, skip: Skipping, left_out: _LeftOut) -> Iterator[Transcript]:
    """Selected transcripts of one file. Stops early in a contribution whose study has all selected participants."""
    only_own = True
    with closing(_readable(origin, skip)) as records:
        for record in records:
            study, transcript = origin.own_study, None
            try:
                study = origin.study_of(record)
                is_psych101 = origin.is_psych101(record)
                is_selected = (
                    (origin.all_records or selection.includes(study))
                    and selection.in_collection(is_psych101, record.where)
                    and not selection.is_full(study)
                )
                if is_selected:
                    transcript, no_times = to_transcript(record.fields, study=study, is_psych101=is_psych101)
            except BadRecordError as error:
                skip(Skipped(record.where, one_line(str(error)), study))
                continue
            if transcript is not None:
                if no_times is not None:
                    left_out[study, "reaction times", no_times] += 1
                selection.count(study)
                yield transcript
            only_own = only_own and study == origin.own_study
            if only_own and (not is_selected or selection.is_full(study)):
                return


def _readable(origin: Origin, skip: Skipping) -> Generator[Raw, None, None]:
    """The records of one file that are not skipped."""
    with closing(_records(origin, skip)) as records:
        for record in records:
            if isinstance(record, Skipped):
                skip(record if record.study is not None else replace(record, study=origin.own_study))
            else:
                yield record


def _records(origin: Origin, skip: Skipping) -> Records:
    """The records of one file; one that is damaged becomes a `Skipped` where others can be read."""
    try:
        if skip.skips and origin.check is not None:
            origin.check()
        with closing(origin.read()) as records:
            yield from records
    except TranscriptError as error:
        if not origin.is_one_of_many:
            raise
        where = one_line(str(origin.file))
        yield Skipped(where, str(error).removeprefix(f"{where}: "), is_file=True)
