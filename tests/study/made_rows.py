"""Rows of made-up sweeps: uneven in every way, with the columns of calibration."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from typing import Any

import polars as pl

from psych_ray.results.schema import CheckpointFacts
from psych_ray.study.rows import TEMPERATURES, Task

Row = dict[str, Any]
STATUSES = ["cut", "empty", "altered", "not_applicable"]
TASK = ("checkpoint", "condition")


def facts(slug: str, stage: str | None = None, base: str | None = None, **known: Any) -> CheckpointFacts:
    return CheckpointFacts(slug=slug, id=f"lab/{slug}", fingerprint="f", stage=stage, base=base, **known)


CHECKPOINTS = [
    facts("two-instruct", "instruct", "two-base", family="f", generation="f2", size_b=2.0),
    facts("one-base", "base", family="f", generation="f1", size_b=1.0),
    facts("one-instruct", "instruct", "one-base", family="f", generation="f1", size_b=1.0),
    facts("one-reasoning", "reasoning", "one-base", family="f", generation="f1", size_b=1.0),
    facts("two-base", "base", family="f", generation="f2", size_b=2.0),
    facts("chance"),
]


def random_rows(
    seed: int, *, checkpoints: Sequence[CheckpointFacts] = CHECKPOINTS, conditions: Sequence[str] = ("chat", "plain")
) -> list[Row]:
    """Studies are missing, statuses differ, other responses are scored in each checkpoint; units in any order."""
    dice = random.Random(seed)
    sessions = [
        {
            "study": study,
            "experiment": f"e{dice.randrange(2)}",
            "participant": f"p{who}",
            "transcript": f"{study}{who}{k}",
        }
        for study, who, k in itertools.product("abcd", range(5), range(2))
        if dice.random() < 0.8
    ]
    lengths = {session["transcript"]: dice.randrange(1, 23) for session in sessions}
    letters = {(name, n): dice.random() < 0.7 for name, count in lengths.items() for n in range(count)}
    rows: list[Row] = []
    for checkpoint, condition in itertools.product(checkpoints, conditions):
        missing = {study for study in "abcd" if dice.random() < 0.12}
        lossy = dice.random() < 0.5
        order = [session for session in sessions if session["study"] not in missing]
        dice.shuffle(order)
        for session in order:
            for n in range(lengths[session["transcript"]]):
                lost = lossy and dice.random() < 0.3
                letter = letters[session["transcript"], n]
                task = {"checkpoint": checkpoint.slug, "condition": condition}
                rows.append(task | session | {"response": n} | _scores(dice, lost=lost, letter=letter))
    return rows


def _scores(dice: random.Random, *, lost: bool, letter: bool) -> Row:
    nll = _float32(dice.gammavariate(2, 0.7))
    leak = _float32(nll * dice.random())
    options = letter and not lost
    temperatures = {
        name: None if lost else _float32(nll / t + math.log(t) ** 2 / 2 + dice.random() * 0.1)
        for name, t in TEMPERATURES.items()
    }
    return {
        "status": dice.choice(STATUSES) if lost else "scored",
        "nll": None if lost else nll,
        "top1": None if lost else nll < 1,
        "n_options": 3 if letter else None,
        **temperatures,
        "options_nll": leak if options else None,
        "options_brier": _float32(dice.random() * 2) if options else None,
        "options_top": _float32(dice.uniform(1 / 3, 1)) if options else None,
        "options_hit": dice.random() < 0.5 if options else None,
    }


def _float32(value: float) -> float:
    return float(pl.Series([value], dtype=pl.Float32)[0])


def frames(rows: list[Row]) -> dict[Task, pl.LazyFrame]:
    """The rows of each task as a lazy frame."""
    texts = dict.fromkeys(("study", "experiment", "participant", "transcript", "status"), pl.Categorical)
    floats = dict.fromkeys(("nll", *TEMPERATURES, "options_nll", "options_brier", "options_top"), pl.Float32)
    schema = {**texts, "response": pl.Int32, **floats}
    schema |= {"top1": pl.Boolean, "options_hit": pl.Boolean, "n_options": pl.Int16}
    by_task: dict[Task, list[Row]] = {}
    for row in rows:
        by_task.setdefault(Task(row["checkpoint"], row["condition"]), []).append(row)
    return {task: pl.LazyFrame(own, schema=schema, strict=False) for task, own in by_task.items()}
