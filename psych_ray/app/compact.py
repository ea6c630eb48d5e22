"""Compaction of a results store: its many parts rewritten into few, with the same rows."""

from __future__ import annotations

from collections.abc import Callable

from psych_ray.config import Config
from psych_ray.errors import ResultsError
from psych_ray.results.compact import compact as compact_table
from psych_ray.results.schema import FOLDER
from psych_ray.results.store import open_store
from psych_ray.results.table import KEPT_HOURS, open_table


def compact(config: Config, *, say: Callable[[str], None]) -> tuple[list[str], bool]:
    """Lines for the user, and whether every part could be read.

    ResultsError where there is nothing to compact, or another process uses the store.
    """
    store = open_store(config.results.root)
    if not store.files(FOLDER):
        raise ResultsError(f"{store.location}: no responses there yet; psych-ray sweep results.root={store.location}")
    with open_table(store, "psych-ray compact", say=say, lease_seconds=config.results.lease_seconds) as table:
        done = compact_table(table, say=say)
    lines = [f"{line}; psych-ray verify repair=true results.root={store.location} drops it" for line in done.damaged]
    if done.after == done.before:
        lines.append(f"{store.location}/{FOLDER}: {done.after:,} parts; no two of them can be made one")
    else:
        lines.append(f"{store.location}/{FOLDER}: {done.after:,} parts instead of {done.before:,}, with the same rows")
        lines.append(
            f"the files of those that were replaced stay for {KEPT_HOURS} h for readers that have them open, and the "
            "next command that writes after that removes them: until then, read by the log (scan_delta), not by a glob"
        )
    return lines, not done.damaged
