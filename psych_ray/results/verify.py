"""Reads everything that a results store holds, and says what is wrong with it: for people who must rely on a table.

Reads only, beside a sweep too. Holds a few parts at a time. Nothing here changes a store: `results.repair` does.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from psych_ray.errors import ResultsError, first_line
from psych_ray.results import catalogue, footers
from psych_ray.results.check_sources import CheckedSources, check_sources
from psych_ray.results.checked_part import SoundPart, check_stored_part, hash_of
from psych_ray.results.faults import Fault, Remedy, Verification
from psych_ray.results.lease import holder_of
from psych_ray.results.log import LoggedPart, ResponsesLog
from psych_ray.results.schema import FOLDER, PartName
from psych_ray.results.store import ResultsStore, StoredFile

LOG = f"{FOLDER}/_delta_log"
_THREADS = 4
_YOUNG_S = 3600

_Checked: TypeAlias = Mapping[PartName, SoundPart | str]
_T = TypeVar("_T", bound=Hashable)


_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What reading JSON into objects raises."""
NOTHING: Mapping[str, Callable[[], object]] = {}


def verify(
    store: ResultsStore, *, readable: Mapping[str, Callable[[], object]] = NOTHING, alone: bool = False
) -> Verification:
    """Check every file of the table, its log, `sources/` and `footers/`.

    `readable`: names of other files, and functions that read them and raise an error where they are damaged.
    `alone`: the caller holds the lease, so that no other process is about to commit a part.
    """
    was_in_use = holder_of(store) is not None
    listing = _list(store)
    sources = check_sources(store)
    checked = _check(store, sources, listing)
    wrong = _faults_across(checked, listing)
    in_log = {part.name for part in _logged(store)[0]}  # what was committed or replaced meanwhile is no fault
    waiting = [name for name in listing.unlisted if name not in in_log]
    young = set[PartName]()
    if not alone and (was_in_use or holder_of(store) is not None):
        young = {name for name in waiting if name not in wrong and _is_young(listing.files[str(name)])}
    good = [found for name, found in checked.items() if name in listing.table and not isinstance(found, str)]
    good = [part for part in good if part.name not in wrong]
    faults = [
        *([listing.log_fault] if listing.log_fault else []),
        *(fault for part in listing.logged if part.name in in_log for fault in _faults_of_logged(part, checked, wrong)),
        *_faults_of_unlisted(store, [name for name in waiting if name not in young], checked, wrong, sources, listing),
        *_faults_of_sources(sources, good),
        *_faults_of_footers(store, good),
        *_unreadable(readable),
    ]
    return Verification(
        parts=len(good),
        rows=sum(part.rows for part in good),
        transcripts=len(np.unique(np.concatenate([np.array([], np.int32), *(part.numbers for part in good)]))),
        faults=tuple(faults),
        unknown=(*listing.unknown, *sources.unknown),
        uncommitted=len(young),
        replaced=listing.n_replaced,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listing:
    """What the log lists, and what is in the folder."""

    logged: list[LoggedPart]
    log_fault: Fault | None
    files: Mapping[str, StoredFile]
    unlisted: list[PartName]
    """Parts that are in the folder and not in the log."""
    unknown: list[str]
    """Names of other files."""
    n_replaced: int
    table: frozenset[PartName]
    """Parts of the table: those of the log, or all where it is damaged."""


def _list(store: ResultsStore) -> _Listing:
    """The log first, then the files, then whatever they refer to: each was written before what refers to it."""
    logged, log_fault = _logged(store)
    files = {file.name: file for file in store.files(FOLDER) if not file.name.startswith(f"{LOG}/")}
    replaced = set() if log_fault else ResponsesLog(store).replaced() & files.keys()
    others = sorted(files.keys() - {str(part.name) for part in logged} - replaced)
    unlisted = [name for name in map(PartName.parse, others) if name is not None]
    return _Listing(
        logged=logged,
        log_fault=log_fault,
        files=files,
        unlisted=unlisted,
        unknown=[name for name in others if PartName.parse(name) is None],
        n_replaced=len(replaced),
        table=frozenset(unlisted if log_fault else (part.name for part in logged)),
    )


def _logged(store: ResultsStore) -> tuple[list[LoggedPart], Fault | None]:
    """The parts of the table, or what is wrong with its log."""
    log = ResponsesLog(store)
    try:
        parts = log.parts()
        if parts or log.exists():
            return parts, None
    except ResultsError as error:
        return [], Fault(LOG, first_line(error.__cause__ or error), Remedy.remake)
    if store.files(FOLDER):
        return [], Fault(LOG, "is missing", Remedy.remake)
    return [], None


def _check(store: ResultsStore, sources: CheckedSources, listing: _Listing) -> _Checked:
    listed = [part.name for part in listing.logged]
    names = [*listed, *listing.unlisted]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(partial(check_stored_part, store, sources.transcripts, frozenset(listed)), names)
        return dict(zip(names, found, strict=True))


def _faults_across(checked: _Checked, listing: _Listing) -> dict[PartName, str]:
    """What is wrong with parts, by themselves and beside the others of the table, by name."""
    wrong = {name: found for name, found in checked.items() if isinstance(found, str)}
    sound = {name: found for name, found in checked.items() if not isinstance(found, str)}
    of_table = [part for name, part in sound.items() if name in listing.table]
    scoring = _most((part.scoring, part.rows) for part in of_table)
    weights: dict[str, str] = {}
    for slug in {part.checkpoint.slug for part in of_table}:
        rows = [(part.checkpoint.fingerprint, part.rows) for part in of_table if part.checkpoint.slug == slug]
        weights[slug] = _most(rows) or ""
    for name, part in sound.items():
        if part.scoring != scoring and scoring is not None:
            differences = "; ".join(part.scoring.differences(scoring))
            wrong[name] = f"was scored with other settings than most rows of the table ({differences})"
        elif weights.get(part.checkpoint.slug, part.checkpoint.fingerprint) != part.checkpoint.fingerprint:
            wrong[name] = f"was scored by other weights than most rows of {part.checkpoint.slug}"
    if not listing.log_fault:  # otherwise a part may be there beside those that it replaced
        wrong |= _doubled(part for part in of_table if part.name not in wrong)
    return wrong


def _most(values: Iterable[tuple[_T, int]]) -> _T | None:
    """The value of most rows, the first of those that are equal in that; None where there are none."""
    rows: Counter[_T] = Counter()
    for value, n in values:
        rows[value] += n
    return max(rows, key=lambda value: rows[value], default=None)


def _doubled(parts: Iterable[SoundPart]) -> dict[PartName, str]:
    """Parts with a transcript that an earlier one of the same task has."""
    wrong: dict[PartName, str] = {}
    owners: dict[tuple[str, str], NDArray[np.int32]] = {}
    unknown: dict[tuple[tuple[str, str], str], PartName] = {}
    seen: list[PartName] = []
    for part in parts:
        seen.append(part.name)
        owner = owners.setdefault(part.name.task, np.zeros(0, np.int32))
        if len(part.numbers) and part.numbers.max() >= len(owner):
            owner = np.concatenate([owner, np.full(2 * part.numbers.max() + 2 - len(owner), -1, np.int32)])
            owners[part.name.task] = owner
        before = owner[part.numbers]
        others = [seen[k] for k in before[before >= 0]]
        others += [unknown[part.name.task, one] for one in part.unknown if (part.name.task, one) in unknown]
        if others:
            wrong[part.name] = f"holds transcripts that {others[0]} holds too"
            continue
        owner[part.numbers] = len(seen) - 1
        unknown |= {(part.name.task, one): part.name for one in part.unknown}
    return wrong


def _faults_of_logged(part: LoggedPart, checked: _Checked, wrong: Mapping[PartName, str]) -> Iterator[Fault]:
    found = checked[part.name]
    if part.name in wrong or isinstance(found, str):
        yield Fault(str(part.name), wrong[part.name], Remedy.drop, logged=part)
    elif (part.size, part.rows) != (found.size, found.rows):
        what = f"has {found.size:,} bytes and {found.rows:,} rows, the log says {part.size:,} and {part.rows:,}"
        yield Fault(str(part.name), what, Remedy.relist, logged=part)


def _faults_of_unlisted(
    store: ResultsStore,
    names: Iterable[PartName],
    checked: _Checked,
    wrong: Mapping[PartName, str],
    sources: CheckedSources,
    listing: _Listing,
) -> Iterator[Fault]:
    for name in names:
        found = checked[name]
        if name in wrong or isinstance(found, str):
            if store.exists(str(name)):  # a process that writes may have removed it
                yield Fault(str(name), wrong[name], Remedy.set_aside)
        elif found.unknown and not sources.damaged:
            yield Fault(str(name), f"holds transcript {found.unknown[0]}, which is not in sources/", Remedy.set_aside)
        elif listing.log_fault is None and store.exists(str(name)):
            yield Fault(str(name), "is whole, but not in the table", Remedy.take_in)


def _faults_of_sources(sources: CheckedSources, good: Collection[SoundPart]) -> Iterator[Fault]:
    for name, what in sources.damaged.items():
        yield Fault(name, what, Remedy.rewrite)
    unknown = {one: part.name for part in good for one in part.unknown}
    if unknown and not sources.damaged:
        first, part = next(iter(unknown.items()))
        what = f"lacks {len(unknown):,} transcripts of the table, {first} of {part} for one"
        yield Fault(catalogue.FOLDER, what, Remedy.sweep)


def _faults_of_footers(store: ResultsStore, good: Collection[SoundPart]) -> Iterator[Fault]:
    """Files of `footers/` that are damaged, or whose copies are not what the parts say."""
    names = [file.name for file in store.files(footers.FOLDER) if file.name.endswith(".parquet")]
    for name in names:
        try:
            fault = None if footers.read_file(store, name) is not None else "damaged, or not what was written there"
        except ResultsError as error:
            fault = first_line(error)
        if fault and store.exists(name):  # a process that writes may have merged it with others
            yield Fault(name, fault, Remedy.rewrite)
    fault = _copies_fault(store, good)
    if fault and _copies_fault(store, good):  # merged while they were read
        yield Fault(footers.FOLDER, fault, Remedy.rewrite)


def _copies_fault(store: ResultsStore, good: Collection[SoundPart]) -> str | None:
    hashes = {part.name: part.footer_hash for part in good}
    try:
        copies = footers.read_footers(store, [LoggedPart(part.name, part.size, part.rows) for part in good])
    except (ResultsError, pa.ArrowException, pl.exceptions.PolarsError, *_MALFORMED) as error:
        return first_line(error).partition("; psych-ray")[0]
    other = next((copy.name for copy in copies if hash_of(copy.footer) != hashes[copy.name]), None)
    return None if other is None else f"a copy differs from the footer of {other}"


def _unreadable(readable: Mapping[str, Callable[[], object]]) -> Iterator[Fault]:
    for name, read in readable.items():
        try:
            read()
        except (ResultsError, *_MALFORMED) as error:
            yield Fault(name, f"damaged ({first_line(error)})", Remedy.rewrite)


def _is_young(file: StoredFile) -> bool:
    return time.time() - file.modified < _YOUNG_S
