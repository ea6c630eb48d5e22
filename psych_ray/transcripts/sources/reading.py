"""Transcripts of any source as one stream: selects and validates records, and numbers exact repetitions.

Lazy: a record is read when the stream is iterated, and no file is read beyond the last selected participant; with
`transcripts.sample` everything is read twice, and held never. Independent of layouts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace

from psych_ray.config import Normalise, TranscriptsConfig, TranscriptSource
from psych_ray.errors import TranscriptError
from psych_ray.transcripts.normalise import as_contributed, is_excluded, with_experiment_name
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.sources.errors import BadRecordError, LeftOut, Skipped, one_line
from psych_ray.transcripts.sources.fields import to_transcript
from psych_ray.transcripts.sources.layout import origins
from psych_ray.transcripts.sources.origin import Origin, Raw, Records
from psych_ray.transcripts.sources.sampling import Sample
from psych_ray.transcripts.sources.selection import Selection
from psych_ray.transcripts.sources.skipping import OnSkipped, Skipping

_EXCLUDED = "Psych-201 does not hold it; transcripts.normalise=none reads it"


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
    reading = _Reading(config, Skipping(config.on_error, on_skipped))
    if config.is_sample:
        everything = replace(config, sample=None, sample_fraction=None, limit=None)
        sample = Sample(config.sample, config.sample_fraction, config.seed)
        for transcript in _read(_Reading(everything, Skipping(config.on_error, None))):
            sample.add(transcript.study, transcript.id)
        reading.drawn = sample.drawn()
        for study, participants in sample.not_drawn().items():
            reason = f"transcripts.sample_fraction={config.sample_fraction} of so many is less than one"
            reading.left_out[study, "all transcripts", reason] = participants
    yield from _read(reading)
    if on_left_out is not None:
        for left in reading.all_left_out():
            on_left_out(left)


@dataclass
class _Reading:
    """The state of one pass over a source."""

    config: TranscriptsConfig
    skip: Skipping
    selection: Selection = field(init=False)
    drawn: frozenset[str] | None = None
    """Ids of the sample; None: all are selected."""
    left_out: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Participants by study, what is left out, and the reason."""
    seen: Counter[str] = field(default_factory=Counter)
    """Records by id without `copy`."""

    def __post_init__(self) -> None:
        self.selection = Selection(self.config.studies, self.config.limit, self.config.collection)

    def numbered(self, transcript: Transcript) -> Transcript | None:
        """The transcript with the number of its copy; None where it is not of the sample. Counts it."""
        copy = self.seen[transcript.id]
        self.seen[transcript.id] += 1
        found = replace(transcript, copy=copy) if copy else transcript
        if self.drawn is not None and found.id not in self.drawn:
            return None
        self.selection.count(transcript.study)
        return found

    def all_left_out(self) -> list[LeftOut]:
        """What was left out so far, in the order of its first."""
        return [LeftOut(*key, n) for key, n in self.left_out.items()]


def _read(reading: _Reading) -> Iterator[Transcript]:
    if reading.config.source == TranscriptSource.demo:
        transcripts = _simulated(reading)
    else:
        all_origins = origins(reading.config, reading.selection)
        transcripts = (transcript for origin in all_origins for transcript in _of_origin(origin, reading))
    any_transcript = any_response = False
    for transcript in transcripts:
        any_transcript = True
        any_response = any_response or bool(transcript.responses)
        yield transcript
    reading.selection.check_match()
    reading.skip.require_some(any_response=any_response)
    if not any_transcript and reading.left_out:
        raise TranscriptError(str(reading.all_left_out()[0]))


def _simulated(reading: _Reading) -> Iterator[Transcript]:
    from psych_ray.transcripts.simulated import simulated_transcripts

    selection, config = reading.selection, reading.config
    for transcript in simulated_transcripts(participants=config.participants, seed=config.seed):
        if selection.includes(transcript.study) and not selection.is_full(transcript.study):
            found = reading.numbered(transcript)
            if found is not None:
                yield found


def _of_origin(origin: Origin, reading: _Reading) -> Iterator[Transcript]:
    """Selected transcripts of one file. Stops early in a contribution whose study has all selected participants."""
    selection = reading.selection
    if origin.all_records and origin.own_study is not None and _is_left_out(origin, origin.own_study, reading):
        reading.left_out[origin.own_study, "all of it", _EXCLUDED] += 0
        return
    only_own = True
    with closing(_readable(origin, reading.skip)) as records:
        for record in records:
            study, transcript = origin.own_study, None
            try:
                study = origin.study_of(record)
                is_selected = _is_selected(origin, record, study, reading)
                if is_selected:
                    transcript = _transcript(origin, record, study, reading)
            except BadRecordError as error:
                reading.skip(Skipped(record.where, one_line(str(error)), study))
                continue
            if transcript is not None:
                yield transcript
            only_own = only_own and study == origin.own_study
            if only_own and (not is_selected or selection.is_full(study)):
                return


def _is_selected(origin: Origin, record: Raw, study: str, reading: _Reading) -> bool:
    selection = reading.selection
    return (
        (origin.all_records or selection.includes(study))
        and selection.in_collection(origin.is_psych101(record), record.where)
        and not selection.is_full(study)
    )


def _is_left_out(origin: Origin, study: str, reading: _Reading) -> bool:
    return origin.is_contribution and reading.config.normalise == Normalise.psych201 and is_excluded(study)


def _transcript(origin: Origin, record: Raw, study: str, reading: _Reading) -> Transcript | None:
    """The transcript of a selected record; None where it is left out. Raises BadRecordError."""
    fields = record.fields
    is_contribution = origin.is_contribution and "is_psych101" not in fields
    if is_contribution and _is_left_out(origin, study, reading):
        reading.left_out[study, "transcripts", _EXCLUDED] += 1
        return None
    if reading.config.normalise == Normalise.psych201:
        fields = as_contributed(fields, study) if is_contribution else with_experiment_name(fields, study)
    transcript, no_times = to_transcript(fields, study=study, is_psych101=origin.is_psych101(record))
    found = reading.numbered(transcript)
    if found is not None and no_times is not None:
        reading.left_out[study, "reaction times", no_times] += 1
    return found


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
