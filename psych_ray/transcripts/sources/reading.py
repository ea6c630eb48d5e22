"""Transcripts of any source as one stream: chooses, builds, tells of what is bad, and numbers exact repeats.

Lazy throughout: a record is built when it is asked for, and no file is read beyond the last participant that is
wanted. Layouts are the readers' matter, and what a usable record is that of `fields`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

from psych_ray.config import OnError, TranscriptsConfig, TranscriptSource
from psych_ray.errors import TranscriptError
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.sources.faults import BadRecordError, Skipped, one_line
from psych_ray.transcripts.sources.fields import to_transcript
from psych_ray.transcripts.sources.layout import origins
from psych_ray.transcripts.sources.origin import Origin
from psych_ray.transcripts.sources.selection import Selection

OnSkipped = Callable[[Skipped], None]


def read_transcripts(config: TranscriptsConfig, *, on_skipped: OnSkipped | None = None) -> Iterator[Transcript]:
    """The transcripts of a source in its order, folders study by study; ids are unique over the source.

    A record that cannot be used raises TranscriptError, or with transcripts.on_error=skip goes to `on_skipped`. A
    file that cannot be used always raises TranscriptError.
    """
    selection = Selection(config.studies, config.limit)

    def reject(skipped: Skipped) -> None:
        if config.on_error == OnError.stop:
            raise TranscriptError(f"{skipped.where}: {skipped.reason}; transcripts.on_error=skip skips it")
        if on_skipped is not None:
            on_skipped(skipped)

    if config.source == TranscriptSource.demo:
        transcripts = _simulated(config, selection)
    else:
        transcripts = (t for origin in origins(config, selection) for t in _of_origin(origin, selection, reject))
    seen: Counter[str] = Counter()
    for transcript in transcripts:
        copy = seen[transcript.id]
        seen[transcript.id] += 1
        yield replace(transcript, copy=copy) if copy else transcript
    selection.check_match()


def _simulated(config: TranscriptsConfig, selection: Selection) -> Iterator[Transcript]:
    from psych_ray.transcripts.simulated import simulated_transcripts

    for transcript in simulated_transcripts(participants=config.participants, seed=config.seed):
        if selection.wants(transcript.study) and not selection.full(transcript.study):
            selection.take(transcript.study)
            yield transcript


def _of_origin(origin: Origin, selection: Selection, reject: OnSkipped) -> Iterator[Transcript]:
    """What is wanted of one file. A contribution is left once nothing more of its own study is wanted."""
    only_own = True
    with closing(origin.read()) as records:
        for record in records:
            if isinstance(record, Skipped):
                reject(record)
                continue
            try:
                study = origin.study_of(record)
                wanted = (origin.chosen or selection.wants(study)) and not selection.full(study)
                transcript = to_transcript(record.fields, study=study) if wanted else None
            except BadRecordError as error:
                reject(Skipped(record.where, one_line(str(error))))
                continue
            if transcript is not None:
                selection.take(study)
                yield transcript
            only_own = only_own and study == origin.own_study
            if only_own and (not wanted or selection.full(study)):
                return
