"""Brings a results store back to a state with which nothing is wrong: what is bad leaves the table and is scored again.

Deletes nothing that was damaged: it is moved to `damaged/` in the root. Each step leaves a table that can be repaired
again, as the process may be killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

from psych_ray.errors import ResultsError
from psych_ray.results import catalogue
from psych_ray.results.faults import Fault, Remedy, Verification
from psych_ray.results.lease import hold_lease
from psych_ray.results.log import ResponsesLog
from psych_ray.results.parts import read_part
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import ResultsStore
from psych_ray.results.table import ResponsesTable
from psych_ray.results.verify import LOG, NOTHING, verify

DAMAGED = "damaged"


def repair(
    store: ResultsStore,
    *,
    say: Callable[[str], None],
    readable: Mapping[str, Callable[[], object]] = NOTHING,
    lease_seconds: float = 60.0,
) -> Verification:
    """Verify the store, repair what is wrong, and verify it again.

    `say` gets a line for everything that was wrong, once it is repaired. ResultsError where another process uses the
    store, or nothing can be written to it.
    """
    with hold_lease(store, "psych-ray verify repair=true", seconds=lease_seconds, say=say) as lease:
        found = verify(store, readable=readable, alone=True)
        by_remedy: dict[Remedy, list[Fault]] = {remedy: [] for remedy in Remedy}
        for fault in found.faults:
            by_remedy[fault.remedy].append(fault)
        aside = f"{DAMAGED}/{datetime.now(UTC):%Y%m%dT%H%M%S}"
        _move(store, aside, (fault.name for fault in by_remedy[Remedy.set_aside]))
        _move(store, aside, (name for fault in by_remedy[Remedy.rewrite] for name in _files(store, fault.name)))
        if by_remedy[Remedy.remake]:
            # The newest first: killed half-way, this leaves an earlier state of the log, or one that is damaged.
            _move(store, aside, reversed(_files(store, LOG)), unreadable=False)
        log = ResponsesLog(store)
        log.take_over()
        dropped = [fault.logged for fault in by_remedy[Remedy.drop] if fault.logged is not None]
        if dropped:
            log.commit([], dropped)
            _move(store, aside, (str(part.name) for part in dropped))
        relisted = [read_part(store, fault.logged.name) for fault in by_remedy[Remedy.relist] if fault.logged]
        if relisted:
            log.commit(relisted)
        # Otherwise a log and texts that are damaged together would cost all scores.
        sources_are_whole = not any(fault.name.startswith(f"{catalogue.FOLDER}/") for fault in found.faults)
        table = ResponsesTable(store, Snapshot.of_nothing(), log, lease)
        for line in table.recover(sources_are_whole=sources_are_whole):
            say(line)
        for fault in found.faults:
            say(f"{store.location}/{fault.name}: {fault.what}; {fault.remedy.done}")
        return verify(store, readable=readable, alone=True)


def _files(store: ResultsStore, name: str) -> list[str]:
    """Names of the file, or of all files of the folder."""
    return [name] if store.exists(name) else [file.name for file in store.files(name)]


def _move(store: ResultsStore, aside: str, names: Iterable[str], *, unreadable: bool = True) -> None:
    """Copy files to `aside` and remove them; ResultsError where a copy cannot be written.

    `unreadable`: remove also those that cannot be read.
    """
    for name in names:
        if not store.exists(name):
            continue
        content = None
        try:
            content = store.read(name)
        except ResultsError:
            if not unreadable:
                raise
        if content is not None:
            store.write(f"{aside}/{name}", content)
        store.remove([name])
