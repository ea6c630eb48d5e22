"""The records that readers return, and the files and data sets that they come from. Independent of layouts."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from psych_ray.transcripts.sources.errors import BadRecordError, Skipped
from psych_ray.transcripts.sources.fields import flag, named_study, study_in_experiment


@dataclass(frozen=True, slots=True)
class Raw:
    """The fields of one record, not validated."""

    where: str
    fields: Mapping[str, object]


Records: TypeAlias = Generator[Raw | Skipped, None, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """One file, or one data set of the hub."""

    read: Callable[[], Records]
    file: Path | None = None
    """None for the hub."""
    is_one_of_many: bool = False
    """Others can be read where this one cannot, so that `transcripts.on_error` decides about it as about a record."""
    check: Callable[[], None] | None = None
    """Finds damage that `read` would find after some records only. TranscriptError."""
    own_study: str | None = None
    """The study that this file is the contribution of; None: each record names its study."""
    is_contribution: bool = False
    """Its records are as contributed, but for those that have columns which only the hub adds."""
    all_records: bool = False
    """All its records are selected, by the name of its folder."""
    psych101: bool | None = None
    """Whether its records are of Psych-101 where they do not say; then a record without a study has it in `experiment`,
    as Psych-101 does. None: not known."""

    def study_of(self, raw: Raw) -> str:
        """The study of one record: the one that it names, else that of the file. Raises BadRecordError."""
        study = named_study(raw.fields) or self.own_study
        if study is not None:
            return study
        if self.psych101:
            return study_in_experiment(raw.fields)
        raise BadRecordError("`study` is missing")

    def is_psych101(self, raw: Raw) -> bool | None:
        """Whether a record is of Psych-101: what it says, else what is known of the file. Raises BadRecordError."""
        named = flag(raw.fields, "is_psych101")
        return self.psych101 if named is None else named
