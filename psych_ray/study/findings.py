"""All tables of a study, from one pass over the responses.

The formulas are in the modules that this one calls. No paths, figures or rounding: numbers are float64, missing ones
null.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from psych_ray.results.schema import CheckpointFacts
from psych_ray.study import effect_tables, lineage, summaries
from psych_ray.study.bootstrap import DRAWS, Bootstrap
from psych_ray.study.comparison import REFERENCE, Compared, compared, effects_table, not_compared, planned
from psych_ray.study.domains import Domains, load_domains, with_domain
from psych_ray.study.draws import Draws, draw
from psych_ray.study.mixed_model import mixed_model
from psych_ray.study.more_tables import measure_of, more_tables
from psych_ray.study.over_studies import OverStudies
from psych_ray.study.published import published
from psych_ray.study.rows import Task
from psych_ray.study.schemas import table
from psych_ray.study.tables import Findings
from psych_ray.study.tallies import Tallies, tally

Progress = Callable[[str, int, int], None]
"""What is done, how many of how many."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the statistics depend on beside the responses."""

    domains: Domains = field(default_factory=load_domains)
    transcripts: pl.DataFrame | None = None
    """Facts of transcripts, columns as of `results.transcript_facts`; None: nothing is known of them."""
    mixed_model: bool = False
    """Whether the mixed model is fitted."""
    parity: bool | None = None
    """Whether responses were scored by the rules of the study's authors; None: not known."""
    draws: int = DRAWS
    """Of the bootstrap."""
    seed: int = 201


def findings(
    responses: pl.LazyFrame | Mapping[tuple[str, str], pl.LazyFrame],
    checkpoints: Sequence[CheckpointFacts],
    settings: Settings | None = None,
    *,
    on_progress: Progress = lambda what, done, of: None,
) -> Findings:
    """Statistics of the scored responses of `checkpoints`; rows of other checkpoints are not read.

    `responses`: columns of `results.schema.RESPONSES` and those of its partitions, checkpoint and condition; or a frame
    without these two for each (checkpoint, condition), of which each is read once. ValueError where two of
    `checkpoints` have the same slug; ResultsError where a response is there twice.
    """
    settings = settings or Settings()
    facts = lineage.facts_table(checkpoints)
    frames = _tasks(responses, set(facts["checkpoint"]))
    pairs, unpaired = lineage.pairs_table(checkpoints)
    kinds = planned(list(frames), list(pairs.iter_rows()))
    done: list[Task] = []

    def on_task(task: Task) -> None:
        done.append(task)
        on_progress("reading", len(done), len(frames))

    comparisons = [one for kind in kinds.values() for one in kind]
    tallies = tally(frames, comparisons, measure=measure_of(settings.transcripts), on_task=on_task)
    bootstrap = Bootstrap(tallies.starts, len(tallies.study_P), draws=settings.draws, seed=settings.seed)
    drawn = draw(tallies, kinds, bootstrap, on_progress=on_progress)
    tables: dict[str, pl.DataFrame] = {"skipped": unpaired}
    for name, rows in _tables(tallies, drawn, facts, pairs, settings):
        tables[name] = pl.concat([tables[name], rows]) if name in tables else rows
    found = Findings(**{name: table(name, rows) for name, rows in tables.items()})
    return replace(found, published=published(found, checkpoints, parity=settings.parity))


def _tables(
    tallies: Tallies, drawn: Draws, facts: pl.DataFrame, pairs: pl.DataFrame, settings: Settings
) -> Iterator[tuple[str, pl.DataFrame]]:
    """Name and rows of each table that has any; those of `skipped` in several parts."""
    rows = lineage.ordered(summaries.tallied(tallies), facts)
    of_pairs, of_conditions = (compared(tallies, drawn.comparisons[kind]) for kind in ("pairs", "conditions"))
    references = facts.filter(pl.col("stage").is_null(), pl.col("size_b").is_null())["checkpoint"].to_list()
    yield "coverage", summaries.coverage(rows)
    scored = rows.filter(pl.col("scored") > 0).with_columns(pl.col("scored").alias("n_responses"))
    yield "by_study", with_domain(scored, settings.domains)
    yield "by_checkpoint", summaries.by_checkpoint(scored, facts, drawn.task_intervals())
    yield "skipped", summaries.incomplete(rows, facts, references)
    yield "skipped", not_compared(tallies.studies, rows, pairs, of_pairs)
    by_study = effect_tables.pairs_by_study(effects_table(tallies, of_pairs))
    if by_study.height:
        by_study = lineage.ordered(by_study, facts, checkpoint="post")
        yield "misalignment_by_study", with_domain(by_study, settings.domains)
        over = OverStudies(tallies, of_pairs, drawn.d["pairs"], drawn.bootstrap)
        yield from effect_tables.of_pairs(over, of_pairs, facts, settings.domains, tallies.studies)
        yield "accuracy", effect_tables.accuracy(tallies, of_pairs, drawn, facts)
        yield "transcript_differences", effect_tables.transcript_differences(tallies, of_pairs)
        yield from _mixed_model(tallies, of_pairs, facts, settings)
    contrasts = effect_tables.contrasts_by_study(effects_table(tallies, of_conditions))
    if contrasts.height:
        yield "contrasts_by_study", lineage.ordered(contrasts, facts)
        over = OverStudies(tallies, of_conditions, drawn.d["conditions"], drawn.bootstrap)
        yield from effect_tables.of_conditions(over, of_conditions, facts, settings.domains, tallies.studies)
    yield from more_tables(tallies, of_pairs.comparisons, facts, drawn.bootstrap, settings.transcripts)


def _mixed_model(
    tallies: Tallies, pairs: Compared, facts: pl.DataFrame, settings: Settings
) -> Iterator[tuple[str, pl.DataFrame]]:
    if not settings.mixed_model:
        return
    of_plain = [
        (one.first.checkpoint, one.second.checkpoint) for one in pairs.comparisons if one.first.condition == REFERENCE
    ]
    compared = pl.DataFrame(of_plain, schema={"post": pl.String, "base": pl.String}, orient="row")
    known = facts.select("checkpoint", "stage", "generation", "size_b")
    pairs_known = compared.join(known, left_on="post", right_on="checkpoint", maintain_order="left")
    rows, note = mixed_model(tallies, pairs_known, REFERENCE)
    yield "mixed_model", rows
    if note is not None:
        yield "skipped", pl.DataFrame([(None, REFERENCE, None, note)], schema=lineage.SKIPPED, orient="row")


def _tasks(
    responses: pl.LazyFrame | Mapping[tuple[str, str], pl.LazyFrame], slugs: set[str]
) -> dict[Task, pl.LazyFrame]:
    """The frame of each task of these checkpoints."""
    if isinstance(responses, Mapping):
        return {Task(*task): frame for task, frame in responses.items() if task[0] in slugs}
    keys = responses.select(pl.col("checkpoint", "condition").cast(pl.String)).unique().sort(pl.all()).collect()
    return {
        Task(checkpoint, condition): responses.filter(
            pl.col("checkpoint") == checkpoint, pl.col("condition") == condition
        )
        for checkpoint, condition in keys.iter_rows()
        if checkpoint in slugs
    }
