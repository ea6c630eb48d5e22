"""What a results store holds at one moment, from the log of its table and the footers of its parts.

Status, resume, running means and the check of settings all use it, so that none of them reads rows or lists files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from psych_ray.errors import ResultsError
from psych_ray.results.footers import Footers, made_by, scan_footers
from psych_ray.results.log import LoggedPart, ResponsesLog
from psych_ray.results.schema import FOLDER, CheckpointFacts, Footer, Measured, ScoringIdentity, Tally
from psych_ray.results.store import ResultsStore
from psych_ray.results.transcript_ids import TranscriptIds, TranscriptSet, committed_among, is_repeated


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedTask:
    """The parts of one checkpoint under one condition, taken together."""

    n_parts: int
    transcripts: TranscriptSet
    """Ids."""
    rows_by_status: Mapping[str, int]
    tallies: Mapping[str, Tally]
    """By study."""
    made_by: Footer
    """Of its first part, without counts."""
    measured: tuple[Measured, ...] = ()
    """Tokens and seconds of its parts, by what they ran on; parts without either are left out."""
    tokens: int | None = None
    """Tokens read for all its parts; None where one does not say it, or took no time."""

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(self.rows_by_status.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A results store at one moment. Tasks are keyed by checkpoint (slug) and condition, in the order of the parts."""

    parts: tuple[LoggedPart, ...]
    tasks: Mapping[tuple[str, str], CommittedTask]
    scoring: tuple[ScoringIdentity, ...]
    """The different sets of settings of its parts; more than one where sweeps ran at the same time."""
    checkpoints: tuple[CheckpointFacts, ...]
    """The different facts; several for one slug where its weights or its card changed."""
    versions: tuple[Mapping[str, str], ...]
    """The different sets of versions of the libraries that made parts."""
    ids: TranscriptIds = field(default_factory=TranscriptIds, compare=False, repr=False)
    """Of all transcripts of its tasks, and of those that are committed later."""

    @classmethod
    def read(cls, store: ResultsStore) -> Snapshot:
        """Read the log and the footers once. ResultsError where they are damaged, or name the same transcript twice."""
        parts = ResponsesLog(store).parts()
        if not parts:
            _refuse_parts_without_log(store)
        return cls.of(store, parts, scan_footers(store, parts))

    @classmethod
    def of_nothing(cls) -> Snapshot:
        """Of a store without parts."""
        return cls(parts=(), tasks={}, scoring=(), checkpoints=(), versions=())

    @classmethod
    def of(cls, store: ResultsStore, parts: Sequence[LoggedPart], footers: Footers) -> Snapshot:
        """Sum the footers of these parts, as `scan_footers` gives them."""
        by_task = footers.rows.partition_by("checkpoint", "condition", as_dict=True, maintain_order=True)
        makers = [made_by(content) for content in footers.rows["made_by"].unique(maintain_order=True)]
        return cls(
            parts=tuple(parts),
            tasks={(str(key[0]), str(key[1])): _task(store, rows, footers.ids) for key, rows in by_task.items()},
            scoring=tuple(dict.fromkeys(footer.scoring for footer in makers)),
            checkpoints=tuple(dict.fromkeys(footer.checkpoint for footer in makers)),
            versions=tuple(dict(v) for v in dict.fromkeys(tuple(footer.versions.items()) for footer in makers)),
            ids=footers.ids,
        )

    @property
    def footers(self) -> list[Footer]:
        """What made each task: the footer of its first part, without counts."""
        return [task.made_by for task in self.tasks.values()]

    @property
    def committed(self) -> dict[tuple[str, str], TranscriptSet]:
        """Ids of the committed transcripts by task."""
        return {key: task.transcripts for key, task in self.tasks.items()}

    def committed_among(self, ids: Sequence[str]) -> dict[tuple[str, str], NDArray[np.bool_]]:
        """Which of these transcripts are committed, by task; a task of which none is committed may not be there."""
        sets = [task.transcripts for task in self.tasks.values()]
        return dict(zip(self.tasks, committed_among(sets, ids), strict=True))

    @property
    def tallies(self) -> dict[tuple[str, str], Mapping[str, Tally]]:
        """Tallies by study, by task."""
        return {key: task.tallies for key, task in self.tasks.items()}


def _task(store: ResultsStore, footers: pl.DataFrame, ids: TranscriptIds) -> CommittedTask:
    numbers = footers["transcripts"].explode(empty_as_null=False).to_numpy()
    checkpoint, condition = footers.select("checkpoint", "condition").row(0)
    if is_repeated(numbers, len(ids)):
        raise ResultsError(
            f"{store.location}: {checkpoint}, {condition}: two parts of the table hold the same transcript; "
            f"psych-ray verify repair=true results.root={store.location} drops one of them"
        )
    return CommittedTask(
        n_parts=len(footers),
        transcripts=TranscriptSet(ids, numbers),
        rows_by_status=dict(_sums(footers["rows_by_status"], "status").iter_rows()),
        tallies={study: Tally(*sums) for study, *sums in _sums(footers["tallies"], "study").iter_rows()},
        made_by=made_by(footers["made_by"][0]),
        measured=_measured(footers),
        tokens=int(footers["tokens"].to_numpy().sum()) if _are_timed(footers) else None,
    )


def _are_timed(footers: pl.DataFrame) -> bool:
    return bool(((footers["tokens"] > 0) & (footers["seconds"] > 0)).all())


def _measured(footers: pl.DataFrame) -> tuple[Measured, ...]:
    """Sums of those parts that say how long they took, by device."""
    timed = footers.filter(pl.col("tokens") > 0, pl.col("seconds") > 0, pl.col("seconds").is_finite())
    sums = timed.group_by("made_by", maintain_order=True).agg(pl.col("tokens", "seconds").sum())
    return tuple(Measured(made_by(content).device, *counts) for content, *counts in sums.iter_rows())


def _sums(lists: pl.Series, key: str) -> pl.DataFrame:
    """Sum the fields of structs by one of them."""
    rows = lists.explode(empty_as_null=False).struct.unnest()
    return rows.group_by(key, maintain_order=True).agg(pl.all().sum())


def _refuse_parts_without_log(store: ResultsStore) -> None:
    """Raise ResultsError where there are parts, but nothing says which belong to the table."""
    if any(file.name.endswith(".parquet") for file in store.files(FOLDER)):
        raise ResultsError(
            f"{store.location}/{FOLDER}: there are parts, but no log that lists them; the next psych-ray sweep, or "
            f"psych-ray verify repair=true results.root={store.location}, makes it from the parts"
        )
