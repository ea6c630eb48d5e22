"""Verification of a results store: every file read and checked, and repaired where the user asks for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from psych_ray.app.status import PLAN, planned_tasks
from psych_ray.config import Config
from psych_ray.errors import ResultsError
from psych_ray.results import catalogue
from psych_ray.results.faults import Verification
from psych_ray.results.refused import REFUSED, read_refused
from psych_ray.results.repair import repair
from psych_ray.results.schema import FOLDER
from psych_ray.results.store import ResultsStore, open_store
from psych_ray.results.verify import verify as verify_store


def verify(config: Config, *, say: Callable[[str], None]) -> tuple[list[str], bool]:
    """Lines for the user, and whether nothing is wrong (any more).

    ResultsError where there is no sweep, or where it is to be repaired and another process uses it.
    """
    store = open_store(config.results.root)
    if not store.files(FOLDER) and not store.files(catalogue.FOLDER):
        raise ResultsError(f"{store.location}: no sweep there yet; run psych-ray sweep results.root={store.location}")
    readable: dict[str, Callable[[], object]] = {
        PLAN: partial(planned_tasks, store),
        REFUSED: partial(read_refused, store),
    }
    if config.repair:
        found = repair(store, say=say, readable=readable, lease_seconds=config.results.lease_seconds)
    else:
        found = verify_store(store, readable=readable)
    return [*_lines(store, found), _verdict(store, found)], not found.faults


def _lines(store: ResultsStore, found: Verification) -> list[str]:
    lines = [f"{store.location}/{fault}" for fault in found.faults]
    lines += [f"{store.location}/{name}: not written by psych-ray; it is ignored" for name in found.unknown]
    if found.uncommitted:
        lines.append(f"{found.uncommitted:,} parts were just written, and the sweep that runs will commit them")
    if found.replaced:
        lines.append(f"{found.replaced:,} files left the table; commands that write remove them after an hour")
    return lines


def _verdict(store: ResultsStore, found: Verification) -> str:
    counts = f"{found.parts:,} parts, {found.rows:,} rows, {found.transcripts:,} transcripts"
    if not found.faults:
        return f"{counts}: nothing is wrong"
    things = "1 thing is wrong" if len(found.faults) == 1 else f"{len(found.faults):,} things are wrong"
    return f"{counts} are as they should be; {things}; psych-ray verify repair=true results.root={store.location}"
