"""Rewrites the many parts of a table into few large ones, which readers open faster. No row and no score changes.

Each new part replaces its sources in one step of the log, so that a process that is killed leaves the table whole.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from psych_ray.results.checked_part import read_checked
from psych_ray.results.log import LoggedPart
from psych_ray.results.parts import NoPartError, write_table
from psych_ray.results.schema import Footer, Part, Tally
from psych_ray.results.table import ResponsesTable

_ROWS = 1_000_000
_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction did."""

    before: int
    """Parts of the table."""
    after: int
    damaged: tuple[str, ...]
    """A line for every part that was left as it is, because it is not what was written."""


def compact(
    table: ResponsesTable, *, rows: int = _ROWS, n_bytes: int = _BYTES, say: Callable[[str], None] = lambda _: None
) -> Compacted:
    """Rewrite parts that the same facts made into parts of about so many rows or bytes.

    Holds the rows of one new part at a time. `say` gets a line for each task that changes.
    """
    before = table.parts()
    by_task: dict[tuple[str, str], list[LoggedPart]] = {}
    for part in before:
        by_task.setdefault(part.name.task, []).append(part)
    damaged: list[str] = []
    after = 0
    for (checkpoint, condition), parts in by_task.items():
        small = [part for part in parts if part.rows < rows / 2 and part.size < n_bytes / 2]
        n_new = sum(_rewrite(table, run, damaged) for run in _runs(small, rows, n_bytes))
        n_after = len(parts) - len(small) + n_new
        after += n_after
        if n_after < len(parts):
            say(f"{checkpoint}, {condition}: {len(parts):,} parts became {n_after:,}")
    return Compacted(len(before), after, tuple(damaged))


def _runs(parts: Sequence[LoggedPart], rows: int, n_bytes: int) -> Iterator[list[LoggedPart]]:
    """Divide parts into runs of at most so many rows and bytes."""
    run: list[LoggedPart] = []
    n_rows = size = 0
    for part in parts:
        n_rows, size = n_rows + part.rows, size + part.size
        if run and (n_rows > rows or size > n_bytes):
            yield run
            run, n_rows, size = [], part.rows, part.size
        run.append(part)
    if run:
        yield run


def _rewrite(table: ResponsesTable, run: Sequence[LoggedPart], damaged: list[str]) -> int:
    """Replace the parts of a run by one part for each set of facts that made them; how many parts there are then.

    Parts of versions with other columns are not joined.
    """
    groups: dict[tuple[str, ...], list[tuple[Part, pa.Table]]] = {}
    n_left = 0
    for logged in run:
        try:
            part, read = read_checked(table.store, logged.name)
        except NoPartError as error:
            damaged.append(f"left {table.store.location}/{logged.name}: {error}")
            n_left += 1
            continue
        groups.setdefault((_made_by(part.footer), *read.column_names), []).append((part, read))
    for group in groups.values():
        if len(group) > 1:
            old = [part for part, _ in group]
            footers = [part.footer for part in old]
            rows = pa.concat_tables([read for _, read in group]).unify_dictionaries()
            new = write_table(table.store, rows, merged_footer(footers))
            _require_same(new.footer, footers)
            table.replace(new, old)
    return n_left + len(groups)


def merged_footer(footers: Sequence[Footer]) -> Footer:
    """Footer of a part that holds the rows of several, but for what is counted in the rows."""
    straddling = Counter[str]()
    for footer in footers:
        straddling.update(footer.straddling_edges)
    transcripts = [one for footer in footers for one in footer.transcripts]
    return replace(
        footers[0],
        unit=hashlib.blake2b(",".join(transcripts).encode(), digest_size=12).hexdigest(),
        straddling_edges=dict(straddling),
        tokens=sum(footer.tokens for footer in footers),
        seconds=round(sum(footer.seconds for footer in footers), 3),
    )


def _made_by(footer: Footer) -> str:
    facts = asdict(footer)
    return json.dumps(
        {name: facts[name] for name in ("checkpoint", "scoring", "engine", "versions", "device")}, sort_keys=True
    )


def _require_same(new: Footer, sources: Sequence[Footer]) -> None:
    """Raise AssertionError where the counts of the new part are not the sums of those of its sources."""
    by_status = Counter[str]()
    tallies: dict[str, Tally] = {}
    for footer in sources:
        by_status.update(footer.rows_by_status)
        for study, tally in footer.tallies.items():
            tallies[study] = tallies.get(study, Tally()) + tally
    assert new.rows == sum(footer.rows for footer in sources)
    assert new.rows_by_status == dict(by_status)
    assert new.transcripts == [one for footer in sources for one in footer.transcripts]
    assert new.tallies.keys() == tallies.keys()
    for study, tally in new.tallies.items():
        expected = tallies[study]
        assert (tally.responses, tally.top1) == (expected.responses, expected.top1)
        assert math.isclose(tally.nll_nats, expected.nll_nats, rel_tol=1e-9, abs_tol=1e-9)
