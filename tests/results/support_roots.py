"""A small results root of two checkpoints, and what makes its table complete again after parts of it are gone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support_table import responses, write_part

from psych_ray.results.catalogue import catalogue, read_catalogued
from psych_ray.results.log import LoggedPart, ResponsesLog
from psych_ray.results.parts import checksum, to_parquet
from psych_ray.results.schema import CheckpointFacts, Footer, Part, PartName, ScoringIdentity, TranscriptRef
from psych_ray.results.store import LocalStore, ResultsStore
from psych_ray.results.table import open_table
from psych_ray.scoring.scored import SimulatorScorer
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript

TASKS = (("a", "plain"), ("b", "plain"))
_PER_UNIT = 3


def transcripts(n: int = 9) -> list[Transcript]:
    """Two or three responses each, one of them empty."""
    return [
        Transcript(
            study=f"s{k % 2}",
            experiment="e",
            participant=str(k),
            text="one <<A>> two <<>>" + " three <<C>>" * (k % 2),
            true_nll_nats=(0.25 + k, 0.0, 1.5)[: 2 + k % 2],
        )
        for k in range(n)
    ]


def footer(checkpoint: str, refs: Sequence[TranscriptRef], **more) -> Footer:
    ids = ",".join(ref.id for ref in refs)
    return Footer(
        unit=hashlib.blake2b(ids.encode(), digest_size=12).hexdigest(),
        condition="plain",
        checkpoint=CheckpointFacts(slug=checkpoint, id=checkpoint, fingerprint="f"),
        scoring=ScoringIdentity(dtype="float32", cut="tokens", cut_at=None, parity=False),
        engine="simulator",
        tokens=7,
        seconds=0.5,
        straddling_edges={"s0": 1},
        **more,
    )


def write_unit(store: ResultsStore, checkpoint: str, refs: Sequence[TranscriptRef]) -> Part:
    scored = SimulatorScorer().score(read_catalogued(store, refs), condition_named("plain"))
    return write_part(store, list(scored), footer(checkpoint, refs))


def complete(store: ResultsStore, n: int = 9, *, per_unit: int = _PER_UNIT) -> list[str]:
    """Do what a sweep does; lines for the user."""
    lines: list[str] = []
    with open_table(store, "test", say=lines.append) as table:
        refs = catalogue(store, transcripts(n))
        committed = table.snapshot.committed
        for task in TASKS:
            missing = [ref for ref in refs if ref.id not in committed.get(task, set())]
            units = [missing[k : k + per_unit] for k in range(0, len(missing), per_unit)]
            table.commit([write_unit(store, task[0], unit) for unit in units])
    return lines


def rows(store: ResultsStore) -> pl.DataFrame:
    return responses(store).sort("checkpoint", "transcript", "response")


def first_part(store: ResultsStore) -> LoggedPart:
    return ResponsesLog(store).parts()[0]


def path(store: ResultsStore, name: object) -> Path:
    return Path(store.location) / str(name)


def forge(store: ResultsStore, change, *, checkpoint=None, **footer_changes) -> PartName:
    """Replace the first part of the table by one with a fitting name, its rows and footer changed; its name."""
    old = first_part(store)
    file = pq.ParquetFile(path(store, old.name))
    facts = json.loads(file.metadata.metadata[b"psych_ray"])
    table = change(file.read())
    facts |= footer_changes
    facts["checkpoint"] |= checkpoint or {}
    content = to_parquet(table, {"psych_ray": json.dumps(facts)})
    name = replace(old.name, checksum=checksum(content))
    store.write(str(name), content)
    log = ResponsesLog(store)
    log.take_over()
    log.commit([Part(name, len(content), footer("a", [], rows=len(table)))], [old])
    path(store, old.name).unlink()
    for copy in path(store, "footers").iterdir():
        copy.unlink()
    return name


def counts(table: pa.Table) -> dict:
    """What a forger writes to the footer, so that it fits the rows."""
    from psych_ray.results.parts import counted_facts

    facts = counted_facts(table)
    return facts | {"tallies": {study: asdict(tally) for study, tally in facts["tallies"].items()}}


class Killed(BaseException):
    """The process ended here."""


def stop_at(patched: pytest.MonkeyPatch, call: int, *, after: bool) -> list[str]:
    """Let the n-th call that changes or reads the store not come back; names of the calls before it."""
    calls: list[str] = []

    def watch(owner: type, name: str) -> None:
        real = getattr(owner, name)

        def watched(*args, **more):
            calls.append(name)
            stops = len(calls) == call
            if stops and not after:
                raise Killed
            result = real(*args, **more)
            if stops:
                raise Killed
            return result

        patched.setattr(owner, name, watched)

    for name in ("write", "read", "remove", "files", "exists"):
        watch(LocalStore, name)
    watch(ResponsesLog, "_write")
    return calls
