"""Transcripts of any source as one stream: selects and validates records, and numbers exact repetitions.

Lazy: a record is read when the stream is iterated, and no file is read beyond the last selected participant.
Independent of layouts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

from psych_ray.config import TranscriptsConfig, TranscriptSource
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.sources.errors import BadRecordError, Skipped, one_line
from psych_ray.transcripts.sources.fields import to_transcript
from psych_ray.transcripts.sources.layout import origins
from psych_ray.transcripts.sources.origin import Origin
from psych_ray.transcripts.sources.selection import Selection
from psych_ray.transcripts.sources.skipping import OnSkipped, Skipping


def read_transcripts(config: TranscriptsConfig, *, on_skipped: OnSkipped | None = None) -> Iterator[Transcript]:
    """The transcripts of a source in its order, folders study by study; ids are unique over the source.

    A record that cannot be used raises TranscriptError, or with transcripts.on_error=skip is passed to `on_skipped`. A
    file that cannot be used always raises TranscriptError, and so does, with the reasons, a source of which every
    response was skipped. UnreachableError where the hub does not answer.
    """
    selection = Selection(config.studies, config.limit, config.collection)
    skip = Skipping(config.on_error, on_skipped)
    if config.source == TranscriptSource.demo:
        transcripts = _simulated(config, selection)
    else:
        transcripts = (t for origin in origins(config, selection) for t in _of_origin(origin, selection, skip))
    seen: Counter[str] = Counter()
    any_response = False
    for transcript in transcripts:
        copy = seen[transcript.id]
        seen[transcript.id] += 1
        any_response = any_response or bool(transcript.responses)
        yield replace(transcript, copy=copy) if copy else transcript
    selection.check_match()
    skip.require_some(any_response=any_response)


def _simulated(config: TranscriptsConfig, selection: Selection) -> Iterator[Transcript]:
    from psych_ray.transcripts.simulated import simulated_transcripts

    for transcript in simulated_transcripts(participants=config.participants, seed=config.seed):
        if selection.includes(transcript.study) and not selection.is_full(transcript.study):
            selection.count(transcript.study)
            yield transcript


def _of_origin(origin: Origin, selection: Selection, skip: OnSkipped) -> Iterator[Transcript]:
    """Selected transcripts of one file. Stops early in a contribution whose study has all selected participants."""
    only_own = True
    with closing(origin.read()) as records:
        for record in records:
            if isinstance(record, Skipped):
                skip(record)
                continue
            try:
                study = origin.study_of(record)
                is_psych101 = origin.is_psych101(record)
                is_selected = (
                    (origin.all_records or selection.includes(study))
                    and selection.in_collection(is_psych101, record.where)
                    and not selection.is_full(study)
                )
                transcript = to_transcript(record.fields, study=study, is_psych101=is_psych101) if is_selected else None
            except BadRecordError as error:
                skip(Skipped(record.where, one_line(str(error))))
                continue
            if transcript is not None:
                selection.count(study)
                yield transcript
            only_own = only_own and study == origin.own_study
            if only_own and (not is_selected or selection.is_full(study)):
                return
