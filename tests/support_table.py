"""Writes parts and commits them, as a driver does, damages them, and reads the table."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Sequence

import numpy as np
import polars as pl

from psych_ray.errors import ResultsError
from psych_ray.results.catalogue import catalogue, read_catalogued
from psych_ray.results.log import ResponsesLog
from psych_ray.results.parts import responses_table, write_table
from psych_ray.results.reading import open_responses
from psych_ray.results.schema import CheckpointFacts, Footer, Part, ScoringIdentity
from psych_ray.results.snapshot import Snapshot
from psych_ray.results.store import ResultsStore
from psych_ray.results.table import open_table
from psych_ray.scoring.scored import ScoredTranscript, SimulatorScorer
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript


def silent(line: str) -> None:
    raise AssertionError(line)


TASK = ("a", "plain")
DAMAGE = ["emptied", "cut", "copied", "flipped", "truncated", "exchanged", "missing"]


def write_part(store: ResultsStore, scored: Sequence[ScoredTranscript], footer: Footer) -> Part:
    """Write the rows of one unit."""
    return write_table(store, responses_table(scored), footer)


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


def footer(unit: str, *, dtype: str = "float32", fingerprint: str = "f", condition: str = "plain") -> Footer:
    return Footer(
        unit=unit,
        condition=condition,
        checkpoint=CheckpointFacts(slug="a", id="a", fingerprint=fingerprint),
        scoring=ScoringIdentity(dtype=dtype, cut="tokens", cut_at=None, parity=False),
        engine="simulator",
    )


def people(store: ResultsStore, n: int = 8) -> list:
    """References to `n` transcripts of two responses each, in `sources/`."""
    return catalogue(
        store,
        [
            Transcript(study="s", experiment="e", participant=str(k), text="<<A>> <<B>>", true_nll_nats=(0.5, float(k)))
            for k in range(n)
        ],
    )


def written(store: ResultsStore, refs: list, unit: str = "u", **about) -> Part:
    scored = SimulatorScorer().score(read_catalogued(store, refs), condition_named("plain"))
    return write_part(store, list(scored), footer(unit, **about))


def committed(store: ResultsStore, n_units: int = 4) -> list[Part]:
    """A table of `n_units` units, two transcripts each."""
    refs = people(store, 2 * n_units)
    with open_table(store, "test", say=silent) as table:
        parts = [written(store, refs[2 * k : 2 * k + 2], f"u{k}") for k in range(n_units)]
        table.commit(parts)
    return parts


def recovered(store: ResultsStore) -> list[str]:
    """Open the table for writing; lines for the user."""
    lines: list[str] = []
    with open_table(store, "test", say=lines.append):
        pass
    return lines


def damage(kind: str, store: ResultsStore, parts: Sequence[Part], rng: np.random.Generator) -> None:
    """Change the first part, or the folder, as an attacker or a bad disk does."""
    first = str(parts[0].name)
    folder, name = first.rsplit("/", 1)
    whole = bytearray(store.read(first))
    if kind == "emptied":
        store.write(first, b"")
    elif kind == "cut":
        rows = pl.read_parquet(bytes(whole))
        shorter = io.BytesIO()
        rows.head(len(rows) // 2).write_parquet(shorter)
        store.write(first, shorter.getvalue())
    elif kind == "copied":
        for copy in (f"{folder}/copy.parquet", f"{folder}/u7-{'0' * 32}.parquet", f"{folder}/../condition=chat/{name}"):
            store.write(posixpath.normpath(copy), bytes(whole))
    elif kind == "flipped":
        whole[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        store.write(first, bytes(whole))
    elif kind == "truncated":
        store.write(first, bytes(whole[: rng.integers(1, len(whole))]))
    elif kind == "exchanged":
        store.write(first, store.read(str(parts[1].name)))
    elif kind == "missing":
        store.remove([first])


def assert_damage_is_told(store: ResultsStore, kind: str, rng: np.random.Generator) -> None:
    """Damage a table in an empty store: reading tells it, and the next sweep scores again what it can see is lost."""
    parts = committed(store)
    expected = responses(store)
    damage(kind, store, parts, rng)
    refs = people(store)
    try:
        assert responses(store).equals(expected), "read as it was written"
        assert kind == "copied"
    except ResultsError as error:
        assert str(parts[0].name) in str(error)  # noqa: PT017
    lines = recovered(store)
    missing = {ref.id for ref in refs} - Snapshot.read(store).committed[TASK]
    if kind in {"flipped", "exchanged"}:  # of the same size: found where it is read
        assert not missing
        return
    assert missing == (set() if kind == "copied" else set(parts[0].footer.transcripts))
    assert len(lines) >= 1
    with open_table(store, "test", say=silent) as table:
        table.commit([written(store, [ref for ref in refs if ref.id in missing], "again")] if missing else [])
    names = ["transcript", "response"]
    assert responses(store).sort(names).equals(expected.sort(names))
