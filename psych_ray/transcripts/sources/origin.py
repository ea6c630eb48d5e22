"""What a reader hands on, and what a file or data set is to the one who reads many of them. Knows no layout."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from psych_ray.transcripts.sources.faults import BadRecordError, Skipped
from psych_ray.transcripts.sources.fields import named_study, study_in_experiment


@dataclass(frozen=True, slots=True)
class Raw:
    """The fields of one record, not yet looked at."""

    where: str
    fields: Mapping[str, object]


Records: TypeAlias = Generator[Raw | Skipped, None, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """One file, or one data set of the hub."""

    read: Callable[[], Records]
    own_study: str | None = None
    """The study that this file is the contribution of; None: each record says which study it is from."""
    chosen: bool = False
    """All its records are wanted: it was picked by the name of its folder."""
    study_in_experiment: bool = False
    """A record that names no study has it in `experiment`."""

    def study_of(self, raw: Raw) -> str:
        """The study of one record: what it says itself, else that of the file. Raises BadRecordError."""
        study = named_study(raw.fields) or self.own_study
        if study is not None:
            return study
        if self.study_in_experiment:
            return study_in_experiment(raw.fields)
        raise BadRecordError("`study` is missing")
