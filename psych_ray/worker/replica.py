"""What each rank of a replica does: load its part of the weights, score units, and write their parts on rank 0.

Does not import Ray, so it also runs in a test, a notebook or a benchmark; `cluster.actor` only forwards calls to it and
returns its errors as values. Imports torch only to load weights.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from queue import SimpleQueue
from typing import TYPE_CHECKING

import pyarrow as pa

from psych_ray import __version__
from psych_ray.checkpoints.disk import Fetched
from psych_ray.results.catalogue import read_catalogued
from psych_ray.results.parts import responses_table, write_table
from psych_ray.results.schema import Footer
from psych_ray.results.store import open_store
from psych_ray.scoring.references import reference_scorer
from psych_ray.scoring.scored import AlignsTranscripts, ScoredTranscript, Scorer
from psych_ray.scoring.work import Work
from psych_ray.sweep.unit import Unit, UnitReading, UnitReport
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript
from psych_ray.worker.spec import CheckpointReport, LoadReport, ReplicaSpec

if TYPE_CHECKING:
    from psych_ray.scoring.engines.sharded.process_group import Rank, Rendezvous


class Replica:
    """This rank's part of a replica: the loaded weights, or the shards of them that this rank holds.

    A replica of one process is one such object; a gang has one on each rank, and every method but `open_rendezvous` is
    called on all of them.
    """

    def __init__(self, spec: ReplicaSpec, rank: int = 0) -> None:
        self._spec = spec
        self._rank = rank
        self._rendezvous: Rendezvous | None = None
        self._store = open_store(spec.results_root)
        self._scorers: dict[str, Scorer] = {}
        self.work = Work()
        """What it has done so far; may be read from another thread."""
        self._cut: str | None = None
        """Id of the unit that is to end early."""
        self._unit: str | None = None
        """Id of the unit that is being scored."""

    def open_rendezvous(self, host: str) -> tuple[str, int]:
        """Bind a port of this host, and return the address at which the ranks join. For rank 0 only."""
        from psych_ray.scoring.engines.sharded.process_group import Rendezvous

        self._rendezvous = Rendezvous(host, self._spec.ranks, timeout_s=self._spec.stall_seconds)
        return host, self._rendezvous.port

    def load(self, address: tuple[str, int] | None = None) -> LoadReport:
        """Load the weights. CheckpointError where that cannot be done.

        `address`: host and port of the rendezvous; None for a replica of one process without a process group.
        """
        began = time.monotonic()
        spec = self._spec
        references = {one.slug: one.reference for one in spec.checkpoints if one.reference}
        if references:
            self._scorers |= {slug: reference_scorer(name, self.work) for slug, name in references.items()}
            return LoadReport(seconds=time.monotonic() - began)
        import torch

        from psych_ray.scoring.loading import load_scorers

        if spec.threads is not None:
            torch.set_num_threads(spec.threads)
        with self._fetched() as fetched:
            scorers = load_scorers(
                fetched.checkpoints,
                spec.scoring,
                allow_pickle=spec.allow_pickle,
                rank=self._join(address) if address else None,
                pass_share=spec.pass_share,
                work=self.work,
            )
        self._scorers |= scorers
        notes = {
            f"{spec.checkpoints[0].card.id}: {check.name}: {check.detail}; scored by {scorer.engine_name}"
            for scorer in scorers.values()
            for check in scorer.checks
            if not check.passed
        }
        return LoadReport(seconds=time.monotonic() - began, notes=(*fetched.notes, *sorted(notes)))

    def _fetched(self) -> AbstractContextManager[Fetched]:
        """The checkpoints, on this node's own disk where that is asked for; as long as the context lasts they stay."""
        disk = self._spec.weights_disk
        if disk is None:
            return nullcontext(Fetched(self._spec.checkpoints, ()))
        return disk.fetched(self._spec.checkpoints, on_bytes=self.work.add)

    def _join(self, address: tuple[str, int]) -> Rank:
        from psych_ray.scoring.engines.sharded.process_group import join
        from psych_ray.scoring.models.load import device_of

        host, port = address
        device = device_of(self._spec.device).type
        if self._rendezvous is not None:
            return self._rendezvous.join(self._spec.ranks, device=device)
        timeout_s = self._spec.stall_seconds
        return join(self._rank, self._spec.ranks, host=host, port=port, device=device, timeout_s=timeout_s)

    def cut(self, unit: str) -> None:
        """Let the unit of this id end after the window of transcripts at which it is; from any thread."""
        self._cut = unit

    def reading(self) -> UnitReading | None:
        """How far it is with its unit; None where it has none. From any thread."""
        unit, read = self._unit, self.work.reading
        return None if unit is None else UnitReading(unit, read.characters, read.tokens)

    def _goes_on(self, unit: str) -> bool:
        """Whether the next window is scored: asked on all ranks, which must agree."""
        is_cut = self._cut == unit
        if self._spec.ranks > 1:
            from psych_ray.scoring.engines.sharded.process_group import on_any_rank

            is_cut = on_any_rank(is_cut)
        return not is_cut

    def score(self, unit: Unit) -> UnitReport:
        """Score a unit. Rank 0 writes its part, which belongs to the table once the driver has committed it.

        After `cut` it scores fewer transcripts, and reports which are left.
        """
        self.work.begin_reading()
        self._unit = unit.id
        try:
            return self._score(unit)
        finally:
            self._unit = None

    def _score(self, unit: Unit) -> UnitReport:
        scorer = self._scorers[unit.checkpoint]
        began = time.monotonic()
        transcripts = read_catalogued(self._store, unit.transcripts)
        condition = condition_named(unit.condition, parity=self._spec.identity.parity)
        with _warnings_of("psych_ray.scoring") as notes, _rows_of() as (add_rows, table):
            scored = []
            for one in scorer.score(transcripts, condition, partial(self._goes_on, unit.id)):
                scored.append(one)
                if self._rank == 0:
                    add_rows(one)
        left = frozenset(t.id for t in unit.transcripts) - {s.transcript.id for s in scored}
        done = unit.only({s.transcript.id for s in scored}) if left else unit
        footer = self._footer(done or unit, scorer.engine_name, scored, time.monotonic() - began)
        part = write_table(self._store, table.result(), footer) if self._rank == 0 and done is not None else None
        return UnitReport(
            checkpoint=unit.checkpoint,
            condition=unit.condition,
            unit=footer.unit,
            tokens=footer.tokens,
            responses=sum(len(s.status_R) for s in scored),
            seconds=time.monotonic() - began,
            by_study={} if part is None else part.footer.tallies,
            part=part,
            notes=tuple(f"{unit.checkpoint}: {note}" for note in notes),
            left=left,
            given=unit.id,
        )

    def check(self, transcripts: Sequence[Transcript]) -> list[CheckpointReport]:
        """Report the self-check that ran when the weights were loaded, and align transcripts under `plain`."""
        plain, reports = condition_named("plain"), []
        for slug, scorer in self._scorers.items():
            assert isinstance(scorer, AlignsTranscripts)
            responses, straddling = Counter[str](), Counter[str]()
            for transcript in transcripts:
                responses[transcript.study] += len(transcript.responses)
                straddling[transcript.study] += scorer.straddling_edges(transcript, plain)
            reports.append(
                CheckpointReport(
                    checkpoint=slug,
                    engine=scorer.engine_name,
                    checks=tuple(scorer.checks),
                    responses=dict(responses),
                    straddling_edges=dict(straddling),
                )
            )
        return reports

    def _footer(self, unit: Unit, engine: str, scored: Sequence[ScoredTranscript], seconds: float) -> Footer:
        straddling = Counter[str]()
        for s in scored:
            straddling[s.transcript.study] += s.straddling_edges
        return Footer(
            unit=unit.id,
            condition=unit.condition,
            checkpoint=self._spec.facts[unit.checkpoint],
            scoring=self._spec.identity,
            engine=engine,
            versions=_versions(),
            straddling_edges=dict(straddling),
            tokens=sum(s.tokens_read for s in scored),
            seconds=round(seconds, 3),
            device=self._spec.device_name,
        )


def _versions() -> dict[str, str]:
    found = {"psych_ray": __version__}
    for name in ("torch", "transformers", "tokenizers", "deepspeed"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def _rows_of() -> Iterator[tuple[Callable[[ScoredTranscript], None], Future[pa.Table]]]:
    """A function that takes scored transcripts, and the table of their rows, which a thread makes meanwhile.

    Made after a unit, while its engine waits, it would take about a hundredth of the time of a GPU.
    """
    waiting: SimpleQueue[ScoredTranscript | None] = SimpleQueue()
    with ThreadPoolExecutor(1, "psych-ray-rows") as thread:
        table = thread.submit(responses_table, iter(waiting.get, None))

        def add(one: ScoredTranscript) -> None:
            if table.done():
                table.result()  # raises: the table is not complete before the last
            waiting.put(one)

        try:
            yield add, table
        finally:
            waiting.put(None)


@contextmanager
def _warnings_of(logger: str) -> Iterator[list[str]]:
    """Collect the warnings that a logger and those below it emit inside the block."""
    lines: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Collect(logging.WARNING)
    logging.getLogger(logger).addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger(logger).removeHandler(handler)
