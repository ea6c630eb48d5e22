"""Writes parts and commits them, as a driver does, and reads the table."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from psych_ray.results.log import ResponsesLog
from psych_ray.results.parts import write_part
from psych_ray.results.reading import open_responses
from psych_ray.results.schema import Footer, Part
from psych_ray.results.store import ResultsStore
from psych_ray.results.table import open_table
from psych_ray.scoring.scored import ScoredTranscript


def silent(line: str) -> None:
    raise AssertionError(line)


def commit(store: ResultsStore, *units: tuple[Sequence[ScoredTranscript], Footer]) -> list[Part]:
    """Write the part of each unit, and commit all of them at once."""
    with open_table(store, "test", say=silent) as table:
        parts = [write_part(store, scored, footer) for scored, footer in units]
        table.commit(parts)
    return parts


def responses(store: ResultsStore) -> pl.DataFrame:
    """All rows of the table."""
    with open_responses(store, ResponsesLog(store).parts()) as rows:
        return rows.collect()
