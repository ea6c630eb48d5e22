"""What a results store holds at one moment, from one listing and the footers of its parts.

Status, resume, running means and the check of settings all use it, so that none of them reads rows.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from psych_ray.results.parts import PartName, part_names, read_footer
from psych_ray.results.schema import CheckpointFacts, Footer, ScoringIdentity, Tally
from psych_ray.results.store import ResultsStore

_THREADS = 8


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

    parts: tuple[PartName, ...]
    tasks: Mapping[tuple[str, str], CommittedTask]
    scoring: tuple[ScoringIdentity, ...]
    """The different sets of settings of its parts; more than one where sweeps ran at the same time."""
    checkpoints: tuple[CheckpointFacts, ...]
    """The different facts; several for one slug where its weights or its card changed."""
    versions: tuple[Mapping[str, str], ...]
    """The different sets of versions of the libraries that made parts."""

    @classmethod
    def read(cls, store: ResultsStore) -> Snapshot:
        """List `responses/` once and read every footer once. ResultsError names the first part that is damaged."""
        names = part_names(store)
        by_task: dict[tuple[str, str], list[Footer]] = {}
        with ThreadPoolExecutor(_THREADS) as pool:
            for name, footer in zip(names, pool.map(partial(read_footer, store), names), strict=True):
                by_task.setdefault(name.task, []).append(footer)
        footers = [footer for task in by_task.values() for footer in task]
        return cls(
            parts=tuple(names),
            tasks={key: _task(footers) for key, footers in by_task.items()},
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


def _task(footers: Iterable[Footer]) -> CommittedTask:
    footers = list(footers)
    rows: Counter[str] = Counter()
    tallies: dict[str, Tally] = {}
    for footer in footers:
        rows.update(footer.rows_by_status)
        for study, tally in footer.tallies.items():
            tallies[study] = tallies.get(study, Tally()) + tally
    return CommittedTask(
        n_parts=len(footers),
        # Interned: the same ids are in the parts of every task.
        transcripts=frozenset(sys.intern(one) for footer in footers for one in footer.transcripts),
        rows_by_status=dict(rows),
        tallies=tallies,
        footer=footers[0],
    )
