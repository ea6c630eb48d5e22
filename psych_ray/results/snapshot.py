"""What a results store holds at one moment, from the log of its table and the footers of its parts.

Status, resume, running means and the check of settings all use it, so that none of them reads rows or lists files.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psych_ray.errors import ResultsError
from psych_ray.results.footers import read_footers
from psych_ray.results.log import LoggedPart, ResponsesLog
from psych_ray.results.schema import FOLDER, CheckpointFacts, Footer, ScoringIdentity, Tally
from psych_ray.results.store import ResultsStore


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedTask:
    """The parts of one checkpoint under one condition, taken together."""

    n_parts: int
    transcripts: frozenset[str]
    """Ids."""
    rows_by_status: Mapping[str, int]
    tallies: Mapping[str, Tally]
    """By study."""
    footer: Footer
    """Of its first part."""

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

    @classmethod
    def read(cls, store: ResultsStore) -> Snapshot:
        """Read the log and the footers once. ResultsError where they are damaged, or name the same transcript twice."""
        parts = ResponsesLog(store).parts()
        if not parts:
            _refuse_parts_without_log(store)
        by_task: dict[tuple[str, str], list[Footer]] = {}
        for part in read_footers(store, parts):
            by_task.setdefault(part.name.task, []).append(part.footer)
        footers = [footer for task in by_task.values() for footer in task]
        return cls(
            parts=tuple(parts),
            tasks={key: _task(store, key, footers) for key, footers in by_task.items()},
            scoring=tuple(dict.fromkeys(footer.scoring for footer in footers)),
            checkpoints=tuple(dict.fromkeys(footer.checkpoint for footer in footers)),
            versions=tuple(dict(v) for v in dict.fromkeys(tuple(footer.versions.items()) for footer in footers)),
        )

    @property
    def footers(self) -> list[Footer]:
        """One footer per task."""
        return [task.footer for task in self.tasks.values()]

    @property
    def committed(self) -> dict[tuple[str, str], frozenset[str]]:
        """Ids of the committed transcripts by task."""
        return {key: task.transcripts for key, task in self.tasks.items()}

    @property
    def tallies(self) -> dict[tuple[str, str], Mapping[str, Tally]]:
        """Tallies by study, by task."""
        return {key: task.tallies for key, task in self.tasks.items()}


def _task(store: ResultsStore, key: tuple[str, str], footers: Sequence[Footer]) -> CommittedTask:
    rows: Counter[str] = Counter()
    tallies: dict[str, Tally] = {}
    for footer in footers:
        rows.update(footer.rows_by_status)
        for study, tally in footer.tallies.items():
            tallies[study] = tallies.get(study, Tally()) + tally
    # Interned: the same ids are in the parts of every task.
    transcripts = frozenset(sys.intern(one) for footer in footers for one in footer.transcripts)
    if len(transcripts) < sum(len(footer.transcripts) for footer in footers):
        raise ResultsError(
            f"{store.location}: {key[0]}, {key[1]}: two parts of the table hold the same transcript; "
            f"psych-ray verify repair=true results.root={store.location} drops one of them"
        )
    return CommittedTask(
        n_parts=len(footers),
        transcripts=transcripts,
        rows_by_status=dict(rows),
        tallies=tallies,
        footer=footers[0],
    )


def _refuse_parts_without_log(store: ResultsStore) -> None:
    """Raise ResultsError where there are parts, but nothing says which belong to the table."""
    if any(file.name.endswith(".parquet") for file in store.files(FOLDER)):
        raise ResultsError(
            f"{store.location}/{FOLDER}: there are parts, but no log that lists them; the next psych-ray sweep, or "
            f"psych-ray verify repair=true results.root={store.location}, makes it from the parts"
        )
