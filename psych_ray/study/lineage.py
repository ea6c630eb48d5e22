"""Which checkpoint descends from which, and the order in which they are told.

A pair is a post-trained checkpoint and the base that it names. This module reads facts of checkpoints only; it refuses
to know a single response.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import polars as pl

from psych_ray.config import Stage
from psych_ray.results.schema import CheckpointFacts

LEFT_OUT = {"checkpoint": pl.String, "condition": pl.String, "study": pl.String, "reason": pl.String}
FACTS = {
    "checkpoint": pl.String,
    "id": pl.String,
    "family": pl.String,
    "generation": pl.String,
    "size_b": pl.Float64,
    "stage": pl.String,
    "base": pl.String,
}
_STAGES = [stage.value for stage in Stage]


def facts_table(checkpoints: Sequence[CheckpointFacts]) -> pl.DataFrame:
    """The facts that statistics need, a row a checkpoint, in the order of every table. ValueError: a slug twice."""
    slugs = [facts.slug for facts in checkpoints]
    if twice := sorted({slug for slug in slugs if slugs.count(slug) > 1}):
        raise ValueError(f"two checkpoints are called {twice[0]}")
    rows = [
        (facts.slug, facts.id, facts.family, facts.generation, facts.size_b, facts.stage, facts.base)
        for facts in sorted(checkpoints, key=_rank)
    ]
    return pl.DataFrame(rows, schema=FACTS, orient="row")


def pairs_table(checkpoints: Sequence[CheckpointFacts]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(post, base) of every post-trained checkpoint whose base is there, and a line for each that has none."""
    slugs = {facts.slug for facts in checkpoints}
    pairs: list[tuple[str, str]] = []
    unpaired: list[tuple[str, None, None, str]] = []
    for facts in sorted(checkpoints, key=_rank):
        if facts.stage == Stage.base.value:
            continue
        if facts.stage is None:
            if facts.base is not None:
                unpaired.append((facts.slug, None, None, "its stage is not known, so it is compared with no base"))
        elif facts.base is None:
            unpaired.append((facts.slug, None, None, "it names no base to be compared with"))
        elif facts.base not in slugs:
            unpaired.append((facts.slug, None, None, f"its base {facts.base} is not in the tables"))
        else:
            pairs.append((facts.slug, facts.base))
    return (
        pl.DataFrame(pairs, schema={"post": pl.String, "base": pl.String}, orient="row"),
        pl.DataFrame(unpaired, schema=LEFT_OUT, orient="row"),
    )


def ordered(table: pl.DataFrame, facts: pl.DataFrame, *, checkpoint: str = "checkpoint") -> pl.DataFrame:
    """Rows by condition (plain first), then checkpoint in the order of `facts`, then study."""
    rank = facts.select(pl.col("checkpoint").alias(checkpoint)).with_row_index("rank")
    return (
        table.join(rank, on=checkpoint, how="left")
        .sort(pl.col("condition") != "plain", "condition", "rank", "study")
        .drop("rank")
    )


def stages_ordered(table: pl.DataFrame) -> pl.DataFrame:
    """Rows of each condition in the order of the stages; the conditions stay as they stand."""
    place = pl.col("stage").replace_strict(_STAGES, range(len(_STAGES)), default=len(_STAGES), return_dtype=pl.Int64)
    return table.sort(pl.col("condition") != "plain", "condition", place, "stage")


def _rank(facts: CheckpointFacts) -> tuple[object, ...]:
    stage = _STAGES.index(facts.stage) if facts.stage in _STAGES else len(_STAGES)
    size = float("inf") if facts.size_b is None else facts.size_b
    return facts.family, _natural(facts.generation), stage, size, facts.id


def _natural(name: str) -> list[tuple[int, float, str]]:
    """A sort key by which qwen2 < qwen2.5 < qwen3 < qwen10."""
    pieces = re.findall(r"\d+(?:\.\d+)?|\D+", name)
    return [(0, float(piece), "") if piece[0].isdecimal() else (1, 0.0, piece) for piece in pieces]
