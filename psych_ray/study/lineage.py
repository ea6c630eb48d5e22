"""The pairs of a post-trained checkpoint and its base, and the order of checkpoints in every table.

Uses the facts of checkpoints only, no responses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import polars as pl

from psych_ray.config import Stage
from psych_ray.results.schema import CheckpointFacts

SKIPPED = {"checkpoint": pl.String, "condition": pl.String, "study": pl.String, "reason": pl.String}
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
    """The facts that statistics need, one row per checkpoint, in order. ValueError where a slug occurs twice."""
    slugs = [facts.slug for facts in checkpoints]
    if twice := sorted({slug for slug in slugs if slugs.count(slug) > 1}):
        raise ValueError(f"two checkpoints have the slug {twice[0]}")
    rows = [
        (facts.slug, facts.id, facts.family, facts.generation, facts.size_b, facts.stage, facts.base)
        for facts in sorted(checkpoints, key=_rank)
    ]
    return pl.DataFrame(rows, schema=FACTS, orient="row")


def pairs_table(checkpoints: Sequence[CheckpointFacts]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(post, base) of each post-trained checkpoint whose base is present, and for each other one a row of `SKIPPED`."""
    slugs = {facts.slug for facts in checkpoints}
    pairs: list[tuple[str, str]] = []
    unpaired: list[tuple[str, None, None, str]] = []
    for facts in sorted(checkpoints, key=_rank):
        if facts.stage == Stage.base.value:
            continue
        if facts.stage is None:
            if facts.base is not None:
                unpaired.append((facts.slug, None, None, "its stage is unknown, so it is not compared with its base"))
        elif facts.base is None:
            unpaired.append((facts.slug, None, None, "its base is unknown"))
        elif facts.base not in slugs:
            unpaired.append((facts.slug, None, None, f"its base {facts.base} is not in the tables"))
        else:
            pairs.append((facts.slug, facts.base))
    return (
        pl.DataFrame(pairs, schema={"post": pl.String, "base": pl.String}, orient="row"),
        pl.DataFrame(unpaired, schema=SKIPPED, orient="row"),
    )


def ordered(
    table: pl.DataFrame, facts: pl.DataFrame, *, checkpoint: str = "checkpoint", then: str = "study"
) -> pl.DataFrame:
    """Rows by condition (plain first), then checkpoint in the order of `facts`, then by `then` where there is that."""
    if table.is_empty():
        return table
    last = [then] if then in table.columns else []
    rank = facts.select(pl.col("checkpoint").alias(checkpoint)).with_row_index("rank")
    return (
        table.join(rank, on=checkpoint, how="left")
        .sort(pl.col("condition") != "plain", "condition", "rank", *last)
        .drop("rank")
    )


def stages_ordered(table: pl.DataFrame) -> pl.DataFrame:
    """Rows by condition (plain first), then stage in the order of `Stage`."""
    if table.is_empty():
        return table
    rank = pl.col("stage").replace_strict(_STAGES, range(len(_STAGES)), default=len(_STAGES), return_dtype=pl.Int64)
    return table.sort(pl.col("condition") != "plain", "condition", rank, "stage")


def _rank(facts: CheckpointFacts) -> tuple[object, ...]:
    stage = _STAGES.index(facts.stage) if facts.stage in _STAGES else len(_STAGES)
    size = float("inf") if facts.size_b is None else facts.size_b
    return facts.family, _natural(facts.generation), stage, size, facts.id


def _natural(name: str) -> list[tuple[int, float, str]]:
    """A sort key by which qwen2 < qwen2.5 < qwen3 < qwen10."""
    pieces = re.findall(r"\d+(?:\.\d+)?|\D+", name)
    return [(0, float(piece), "") if piece[0].isdecimal() else (1, 0.0, piece) for piece in pieces]
