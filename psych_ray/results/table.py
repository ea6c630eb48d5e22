"""The table of responses as the one process that writes to it sees it: every transcript is committed once.

Parts that are in the folder and not in the log were written by processes that ended before their driver committed
them, or copied there. They are committed where they are whole and nothing in them was committed before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from psych_ray.errors import ResultsError
from psych_ray.results.catalogue import catalogue_index
from psych_ray.results.footers import FooterFiles, merge_footers, scan_footers
from psych_ray.results.lease import UNREACHABLE_S, Lease, hold_lease
from psych_ray.results.log import LoggedPart, ResponsesLog
from psych_ray.results.parts import NoPartError, check_part, checksum
from psych_ray.results.schema import FOLDER, Part, PartName, ScoringIdentity
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import ResultsStore, StoredFile
from psych_ray.results.transcript_ids import TranscriptSet

KEPT_HOURS = 1
"""How long files stay that left the table, as readers may have listed it before."""


@contextmanager
def open_table(
    store: ResultsStore,
    command: str,
    *,
    say: Callable[[str], None],
    lease_seconds: float = 60.0,
    unreachable_seconds: float = UNREACHABLE_S,
) -> Iterator[ResponsesTable]:
    """Open the table for writing, for as long as the block runs; no other process can commit to it meanwhile.

    ResultsError names the process that has it open; one that has not answered for `lease_seconds` is taken over.
    `require_held` raises once the store has not answered for `unreachable_seconds`. `say` gets a line for everything
    that was found and mended.
    """
    with hold_lease(store, command, seconds=lease_seconds, say=say, unreachable_seconds=unreachable_seconds) as lease:
        log = ResponsesLog(store)
        log.take_over()
        table = ResponsesTable(store, Snapshot.of_nothing(), log, lease)
        for line in table.recover():
            say(line)
        yield table


@dataclass(slots=True)
class ResponsesTable:
    """The table, open for writing; made by `open_table`."""

    store: ResultsStore
    snapshot: Snapshot
    """What the table held when it was opened, or last recovered."""
    _log: ResponsesLog
    _lease: Lease
    _added: dict[tuple[str, str], TranscriptSet] = field(default_factory=dict)
    """Ids of the transcripts that were committed since, by checkpoint (slug) and condition."""
    _names: set[PartName] = field(default_factory=set)
    """Of the parts that were committed since."""
    _left: set[PartName] = field(default_factory=set)
    """Of the parts that were replaced since."""
    _footers: FooterFiles = field(init=False)

    def __post_init__(self) -> None:
        self._footers = FooterFiles(self.store)

    def require_held(self) -> None:
        """Raise TakenOverError where another process is known to have taken over the table.

        ResultsError where the store has not answered for too long.
        """
        self._lease.require()

    def commit(self, parts: Iterable[Part]) -> None:
        """Add parts to the table in one step; where that fails, none is added, and the call can be repeated.

        A part with a transcript that is committed already is removed instead. TakenOverError where another process has
        taken over.
        """
        self._lease.require()
        new: dict[PartName, Part] = {}
        added: dict[tuple[str, str], set[str]] = {}
        superseded = []
        for part in parts:
            task, ids = part.name.task, part.footer.transcripts
            if self._holds(task, ids) or not added.setdefault(task, set()).isdisjoint(ids):
                if part.name not in new and part.name not in self._names:
                    superseded.append(part)
                continue
            added[task].update(ids)
            new[part.name] = part
        if new:
            self._footers.write([*new.values()])
            self._log.commit([*new.values()])
        self._names |= new.keys()
        for task, transcripts in added.items():
            self._added.setdefault(task, TranscriptSet(self.snapshot.ids)).update(transcripts)
        self.store.remove(str(part.name) for part in superseded)

    def replace(self, new: Part, old: Sequence[Part]) -> None:
        """Exchange parts of the table for one with the same transcripts, in one step; where that fails, none is.

        The files of the old ones stay for a while, for readers that have listed them.
        """
        self._lease.require()
        held = [one for part in old for one in part.footer.transcripts]
        names = {part.name for part in self.snapshot.parts} | self._names
        if sorted(new.footer.transcripts) != sorted(held) or not names - self._left >= {part.name for part in old}:
            raise ResultsError(f"{self.store.location}/{new.name}: does not hold what it was to replace")
        self._footers.write([new])
        self._log.commit([new], [LoggedPart(part.name, part.size, part.footer.rows) for part in old])
        self._left |= {part.name for part in old}
        self._names.add(new.name)

    def parts(self) -> list[LoggedPart]:
        """All parts of the table at this moment."""
        return self._log.parts()

    def recover(self, *, sources_are_whole: bool = True) -> list[str]:
        """Bring log and files into agreement; a line for everything that a user should know of.

        Lists the folder once. Parts that are missing, or not of the size that the log has, leave the log, so that their
        transcripts are scored again; whole parts that the log does not have are committed, others are removed.
        `sources_are_whole`: a transcript that is not in `sources/` is of another table.
        """
        files = {file.name: file for file in self.store.files(FOLDER)}
        replaced = self._log.replaced()
        logged = self._log.parts()
        lost: list[LoggedPart] = []
        kept: list[LoggedPart] = []
        for part in logged:
            (kept if _size(part, files) == part.size else lost).append(part)
        if lost:
            self._log.commit([], lost)
        footers = scan_footers(self.store, kept)
        merge_footers(self.store, footers)
        self._hold(Snapshot.of(self.store, kept, footers))
        known = {str(part.name) for part in kept}
        orphans = [name for name in map(PartName.parse, files.keys() - known - replaced) if name is not None]
        lines = [_lost(self.store, part, files) for part in lost]
        if orphans:
            lines += self._adopt(sorted(orphans, key=str), sources_are_whole=sources_are_whole)
            listed = self._log.parts()  # none, where all of them were left out
            self._hold(Snapshot.of(self.store, listed, scan_footers(self.store, listed)))
        self.store.remove(self._log.replaced(KEPT_HOURS) - known)
        return lines

    def _hold(self, snapshot: Snapshot) -> None:
        self.snapshot, self._added, self._names, self._left = snapshot, {}, set(), set()
        self._footers = FooterFiles(self.store)

    def _holds(self, task: tuple[str, str], transcripts: Collection[str]) -> bool:
        """Whether one of the transcripts is committed."""
        before, added = self.snapshot.tasks.get(task), self._added.get(task)
        return not (
            (before is None or before.transcripts.isdisjoint(transcripts))
            and (added is None or added.isdisjoint(transcripts))
        )

    def _adopt(self, orphans: Sequence[PartName], *, sources_are_whole: bool) -> list[str]:
        """Commit those of the parts that belong to the table, and remove those that are damaged or superseded."""
        responses = {ref.id: ref.n_responses for ref in catalogue_index(self.store)}
        known = _Known.of(self.snapshot, responses, sources_are_whole=sources_are_whole)
        adopted, lines, removed = [], [], []
        for name in orphans:
            content = self.store.read(str(name))
            try:
                part = Part(name, len(content), check_part(name, content))
            except NoPartError as error:
                lines.append(f"removed {self.store.location}/{name}: {error}")
                removed.append(name)
                continue
            differs = known.difference(part)
            if differs:
                lines.append(f"left out {self.store.location}/{name}: {differs}")
                continue
            if not name.checksum:  # written by an earlier version: from now on its name has the checksum
                part = replace(part, name=replace(name, checksum=checksum(content)))
                self.store.write(str(part.name), content)
                removed.append(name)
            adopted.append(part)
            known = known.with_part(part)
        # Those of most transcripts first: after `replace`, the parts that were replaced are removed, not the new one.
        self.commit(sorted(adopted, key=lambda part: -len(part.footer.transcripts)))
        self.store.remove(map(str, removed))
        return lines


@dataclass(frozen=True, slots=True)
class _Known:
    """What a part must agree with to belong to the table."""

    responses: Mapping[str, int]
    """Of each transcript of `sources/`, by id."""
    scoring: Collection[ScoringIdentity]
    fingerprints: Mapping[str, str]
    """Of each checkpoint in the table, by slug."""
    sources_are_whole: bool

    @classmethod
    def of(cls, snapshot: Snapshot, responses: Mapping[str, int], *, sources_are_whole: bool) -> _Known:
        fingerprints = {facts.slug: facts.fingerprint for facts in snapshot.checkpoints}
        return cls(responses, snapshot.scoring, fingerprints, sources_are_whole)

    def with_part(self, part: Part) -> _Known:
        """What the next part must agree with."""
        facts = part.footer.checkpoint
        fingerprints = {facts.slug: facts.fingerprint, **self.fingerprints}
        return replace(self, scoring=self.scoring or (part.footer.scoring,), fingerprints=fingerprints)

    def difference(self, part: Part) -> str | None:
        """Why the part does not belong to the table; None where it does."""
        footer = part.footer
        if self.scoring and footer.scoring not in self.scoring:
            return "it was scored with other settings"
        fingerprint = footer.checkpoint.fingerprint
        if self.fingerprints.get(footer.checkpoint.slug, fingerprint) != fingerprint:
            return "it was scored by other weights of that name"
        if not self.responses.keys() >= set(footer.transcripts):
            if not self.sources_are_whole:
                return None
            return "it holds transcripts that are not in sources/"
        if footer.rows != sum(self.responses[one] for one in footer.transcripts):
            return "it does not hold all responses of its transcripts"
        return None


def _size(part: LoggedPart, files: Mapping[str, StoredFile]) -> int | None:
    file = files.get(str(part.name))
    return None if file is None else file.size


def _lost(store: ResultsStore, part: LoggedPart, files: Mapping[str, StoredFile]) -> str:
    size = _size(part, files)
    found = "is missing" if size is None else f"has {size:,} bytes instead of {part.size:,}"
    return f"{store.location}/{part.name} {found}: its {part.rows:,} responses are scored again"
