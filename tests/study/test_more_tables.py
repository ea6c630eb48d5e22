"""All tables besides effects at once: their columns, and the order of their rows."""

from __future__ import annotations

import polars as pl
from made_rows import CHECKPOINTS, frames, random_rows

from psych_ray.study.bootstrap import Bootstrap
from psych_ray.study.comparing import Comparison
from psych_ray.study.lineage import facts_table
from psych_ray.study.more_tables import measure_of, more_tables
from psych_ray.study.rows import Task
from psych_ray.study.schemas import SCHEMAS
from psych_ray.study.tallies import tally


def test_rows_are_plain_first_then_in_the_order_of_the_checkpoints() -> None:
    rows = random_rows(1)
    facts = facts_table(CHECKPOINTS)
    pairs = [
        Comparison(Task(one.slug, condition), Task(one.base, condition))
        for one in CHECKPOINTS
        if one.base
        for condition in ("chat", "plain")
    ]
    ids = sorted({row["transcript"] for row in rows})
    transcripts = pl.DataFrame({"transcript": ids, "reaction_times_ms": [[500.0, 600.0, 300.0]] * len(ids)})
    transcripts = transcripts.with_columns(
        pl.lit(20.0).alias("age"), pl.lit("f").alias("gender"), pl.lit("d").alias("diagnosis")
    )
    tallies = tally(frames(rows), pairs, measure=measure_of(transcripts))
    bootstrap = Bootstrap(tallies.starts, len(tallies.study_P), draws=50)
    found = dict(more_tables(tallies, pairs, facts, bootstrap, transcripts))
    assert len(found) == 9
    order = list(facts["checkpoint"])
    for name, table in found.items():
        assert table.schema == pl.Schema(SCHEMAS[name])
        assert len(table) > 0
        keys = table.select("post" if name == "overconfidence" else "checkpoint", "condition").rows()
        ranks = [(condition != "plain", order.index(checkpoint)) for checkpoint, condition in keys]
        assert ranks == sorted(ranks), name
    by_stage = found["overconfidence"].select("post", "family", "generation", "size_b", "stage")
    assert set(by_stage.rows()) <= set(facts.select("checkpoint", "family", "generation", "size_b", "stage").rows())


def test_without_facts_of_transcripts_there_are_no_groups() -> None:
    tallies = tally(frames(random_rows(1)), [], measure=measure_of(None))
    bootstrap = Bootstrap(tallies.starts, len(tallies.study_P), draws=5)
    found = dict(more_tables(tallies, [], facts_table(CHECKPOINTS), bootstrap))
    assert "by_group" not in found
    assert found["reaction_times"].is_empty()
    assert found["overconfidence"].is_empty()
    assert not found["by_length"].is_empty()
