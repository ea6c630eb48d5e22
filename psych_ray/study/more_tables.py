"""The tables besides effects: calibration, over-confidence, tenths, lengths, experiments, groups, reaction times.

Says only in which order tasks come; the formulas are in the modules that this one calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from psych_ray.study import calibration, groups, lineage, looks, reaction_times
from psych_ray.study.bootstrap import Bootstrap
from psych_ray.study.comparing import Comparison
from psych_ray.study.effect_tables import facts_by_slug
from psych_ray.study.overconfidence import overconfidence
from psych_ray.study.rows import Task
from psych_ray.study.tallies import Measure, Tallies


def measure_of(transcripts: pl.DataFrame | None) -> Measure | None:
    """What `tallies.tally` is to measure for these tables; `transcripts`: of `transcript_facts`, None: not known."""
    return None if transcripts is None else reaction_times.measure(transcripts)


def more_tables(
    tallies: Tallies,
    pairs: Sequence[Comparison],
    facts: pl.DataFrame,
    bootstrap: Bootstrap,
    transcripts: pl.DataFrame | None = None,
) -> Iterator[tuple[str, pl.DataFrame]]:
    """Name and rows of each table.

    `pairs`: post-trained checkpoints against their bases; `facts`: `lineage.facts_table`; `transcripts`: of
    `transcript_facts`, without which there are no groups. Reaction times are in the tallies, by `measure_of`.
    """
    tasks = [task for task in _in_order(list(tallies.tasks), facts) if task in tallies.tasks]
    by_study = calibration.calibration_by_study(tallies, tasks)
    curve = calibration.calibration_curve(tallies, tasks)
    yield "calibration_by_study", by_study
    yield "calibration_curve", curve
    yield "calibration", calibration.calibration(by_study, curve)
    of_post = {task: at for at, task in enumerate(tasks)}
    in_order = sorted((one for one in pairs if one.first in of_post), key=lambda one: of_post[one.first])
    yield "overconfidence", overconfidence(tallies, in_order, facts_by_slug(facts), bootstrap)
    yield "by_decile", looks.by_decile(tallies, tasks, bootstrap)
    yield "by_length", looks.by_length(tallies, tasks)
    yield "by_experiment", looks.by_experiment(tallies, tasks)
    if transcripts is not None:
        yield "by_group", groups.by_group(tallies, tasks, transcripts)
    yield "reaction_times", reaction_times.reaction_times(tallies, tasks)


def _in_order(tasks: Sequence[Task], facts: pl.DataFrame) -> list[Task]:
    schema = {"checkpoint": pl.String, "condition": pl.String}
    return [Task(*row) for row in lineage.ordered(pl.DataFrame(tasks, schema=schema, orient="row"), facts).iter_rows()]
