"""`refused.json` of the results store: what of its sources was not scored, by study and reason, for the report.

A sweep writes it when it has read its sources. Studies that it did not read keep what an earlier sweep wrote of them.
Commands of earlier versions do not look at it. Does not depend on what the reasons are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, fields, replace

from psych_ray.errors import ResultsError, first_line
from psych_ray.results.parts import checksum
from psych_ray.results.store import ResultsStore
from psych_ray.transcripts.sources import LeftOut, Skipped
from psych_ray.transcripts.sources.errors import one_line

REFUSED = "refused.json"
MAX_REASONS = 50
"""Of a study; what more there is stands in one row. Reasons can hold words of the data."""
_PARTICULAR = re.compile(r"'[^']*'…?|\"[^\"]*\"…?|-?\d[\d,.]*\d|-?\d")
_OTHER = "other reasons"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something of a study that was not scored, for one reason."""

    study: str
    """Empty where it is not known."""
    what: str
    """transcripts, files, or what was left out of transcripts that are scored."""
    reason: str
    """Numbers and quoted words replaced by …"""
    n: int
    """Transcripts, files or participants."""
    example: str
    """Place and reason of the first; empty where there is none."""


def refusals(skipped: Iterable[Skipped], left_out: Iterable[LeftOut]) -> list[Refusal]:
    """Count what was skipped and left out, by study, then in the order of its first."""
    found: dict[tuple[str, str, str], Refusal] = {}
    reasons: dict[str, int] = {}
    for record in skipped:
        study, what = one_line(record.study or ""), "files" if record.is_file else "transcripts"
        key = (study, what, _PARTICULAR.sub("…", record.reason))
        if key not in found:
            reasons[study] = reasons.get(study, 0) + 1
            key = key if reasons[study] <= MAX_REASONS else (study, what, _OTHER)
        one = found.setdefault(key, Refusal(*key, 0, f"{record.where}: {record.reason}"))
        found[key] = replace(one, n=one.n + 1)
    for left in left_out:
        key = (left.study, left.what, left.reason)
        found[key] = Refusal(*key, left.participants, "")
    return sorted(found.values(), key=lambda one: one.study)


def write_refused(store: ResultsStore, found: Iterable[Refusal], *, studies: Collection[str]) -> None:
    """Record what a sweep did not score. `studies`: those that it read; earlier rows of others stay."""
    found = list(found)
    read = {*studies, *(one.study for one in found), ""}
    try:
        earlier = [one for one in read_refused(store) if one.study not in read]
    except ResultsError:  # damaged: what it held cannot be kept
        earlier = []
    rows = [asdict(one) for one in sorted([*earlier, *found], key=lambda one: one.study)]
    if rows or store.exists(REFUSED):
        content = {"rows": rows, "checksum": _checksum(rows)}
        store.write(REFUSED, json.dumps(content, indent=1).encode())


def read_refused(store: ResultsStore) -> list[Refusal]:
    """What sweeps did not score, by study; [] where there is no file. ResultsError where it is damaged."""
    if not store.exists(REFUSED):
        return []
    try:
        return _parse(store.read(REFUSED))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ResultsError(
            f"{store.location}/{REFUSED}: damaged ({first_line(error)}); the sweep's command writes it again"
        ) from error


def _parse(content: bytes) -> list[Refusal]:
    parsed = json.loads(content)
    if parsed["checksum"] != _checksum(parsed["rows"]):
        raise ValueError("its checksum is not that of its rows")
    return [_refusal(row) for row in parsed["rows"]]


def _refusal(row: dict[str, object]) -> Refusal:
    values = {field.name: row[field.name] for field in fields(Refusal)}
    for name, value in values.items():
        if type(value) is not (int if name == "n" else str):
            raise ValueError(f"{name} is {type(value).__name__}")
    return Refusal(**values)  # type: ignore[arg-type]


def _checksum(rows: object) -> str:
    return checksum(json.dumps(rows, sort_keys=True).encode())
