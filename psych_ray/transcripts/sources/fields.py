"""From the fields of one record to a transcript, with all rules for valid records.

Used for every layout, so that a line of a contribution and a row of the hub's data set follow the same rules. Does not
read files: BadRecordError has the reason, and the caller adds file and line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from psych_ray.errors import MarkerError
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.sources.errors import BadRecordError, quoted

# Fields that describe the record; all others are metadata of the participant.
_NOT_METADATA = frozenset(
    {
        "study",
        "experiment",
        "participant",
        "text",
        "RTs",
        "true_nll_nats",
        "is_psych101",
        "is_psych101_test",
        "participant_reindexed",
        "in_eval",
    }
)
_UNKNOWN = frozenset({"", "N/A"})
_KINDS = {
    "NoneType": "null",
    "bool": "a boolean",
    "int": "a number",
    "float": "a number",
    "str": "a string",
    "list": "a list",
    "dict": "an object",
}


def named_study(fields: Mapping[str, object]) -> str | None:
    """The study in the record's own field; None where it has none."""
    return None if fields.get("study") is None else _string(fields, "study")


def flag(fields: Mapping[str, object], name: str) -> bool | None:
    """A field that says yes or no; None where the record has none. BadRecordError for anything else."""
    value = fields.get(name)
    if value is None or isinstance(value, bool):
        return value
    raise BadRecordError(f"`{name}` is {_kind(value)}, not a boolean")


def study_in_experiment(fields: Mapping[str, object]) -> str:
    """The part of `experiment` before the first slash, which is the study in Psych-101."""
    study = _string(fields, "experiment").split("/", 1)[0]
    if not study.strip():
        raise BadRecordError(f"`experiment` {quoted(fields['experiment'])} names no study before its first slash")
    return study


def to_transcript(
    fields: Mapping[str, object], *, study: str, is_psych101: bool | None = None
) -> tuple[Transcript, str | None]:
    """Make the transcript of `fields`; and why its reaction times are left out, None where they are not.

    Raises BadRecordError.
    """
    transcript = Transcript(
        study=study,
        experiment=_string(fields, "experiment"),
        participant=_participant(fields),
        text=_string(fields, "text"),
        metadata=_metadata(fields),
        is_psych101=is_psych101,
        true_nll_nats=_true_nll_nats(fields.get("true_nll_nats")),
    )
    try:
        n_responses = len(transcript.responses)
    except MarkerError as error:
        raise BadRecordError(f"`text`, {error}") from error
    nll_nats = transcript.true_nll_nats
    if nll_nats is not None and len(nll_nats) != n_responses:
        raise BadRecordError(f"`true_nll_nats` has {len(nll_nats)} entries for {n_responses} responses")
    try:
        times = _reaction_times_ms(fields.get("RTs"), n_responses)
    except _TimesError as error:
        return transcript, str(error)
    return replace(transcript, reaction_times_ms=times), None


def _string(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if value is None:
        raise BadRecordError(f"`{name}` is missing")
    if not isinstance(value, str):
        raise BadRecordError(f"`{name}` is {_kind(value)}, not a string")
    if not value.strip():
        raise BadRecordError(f"`{name}` is empty")
    return _encodable(value, name)


def _participant(fields: Mapping[str, object]) -> str:
    value = fields.get("participant")
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1:
        return str(value)
    if value is not None and not isinstance(value, str):
        raise BadRecordError(f"`participant` is {_kind(value)}, not a string or a whole number")
    return _string(fields, "participant")


def _metadata(fields: Mapping[str, object]) -> dict[str, str]:
    """Fields about the participant: scalars only, as lists have one entry per response."""
    metadata = {}
    for name, value in fields.items():
        if name in _NOT_METADATA or not isinstance(value, str | int | float):
            continue
        if isinstance(value, float) and math.isnan(value):
            continue
        text = str(value)
        if text.strip() not in _UNKNOWN:
            metadata[_encodable(name, "a field's name")] = _encodable(text, name)
    return metadata


class _TimesError(Exception):
    """Why reaction times cannot be used; in words that are the same for all participants of a study."""


def _reaction_times_ms(values: object, n_responses: int) -> tuple[float | None, ...] | None:
    if values is None:
        return None
    if not isinstance(values, list):
        raise _TimesError(f"`RTs` is {_kind(values)}, not a list")
    if len(values) != n_responses:
        raise _TimesError("`RTs` has not one entry for each response")
    times = tuple(_reaction_time_ms(value) for value in values)
    return times if any(time is not None for time in times) else None


def _reaction_time_ms(value: object) -> float | None:
    if value is None or (isinstance(value, str) and value.strip() in _UNKNOWN):
        return None
    try:
        time = _number(value, "an entry")
    except BadRecordError as error:
        raise _TimesError("`RTs` has an entry that is not a number") from error
    return None if math.isnan(time) else time


def _true_nll_nats(values: object) -> tuple[float, ...] | None:
    if values is None:
        return None
    if not isinstance(values, list):
        raise BadRecordError(f"`true_nll_nats` is {_kind(values)}, not a list")
    nll_nats = tuple(_number(value, f"`true_nll_nats` entry {index}") for index, value in enumerate(values))
    if any(math.isnan(nll) for nll in nll_nats):
        raise BadRecordError("`true_nll_nats` has an entry that is not a number")
    return nll_nats


def _number(value: object, what: str) -> float:
    """`value`, a number or a string of one, as a float. BadRecordError for infinity; NaN is returned."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.inf
        if not math.isinf(number):
            return number
    raise BadRecordError(f"{what} is {quoted(value)}, not a number")


def _encodable(text: str, what: str) -> str:
    """`text`. BadRecordError for half a surrogate pair, which JSON can hold but no table."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadRecordError(f"`{what}` has half a surrogate pair at character {error.start}") from error
    return text


def _kind(value: object) -> str:
    return _KINDS.get(type(value).__name__, type(value).__name__)
