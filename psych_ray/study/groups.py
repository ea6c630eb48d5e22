"""NLL of groups of participants: by age, gender and diagnosis.

Groups are compared within studies only, since studies differ in far more than their participants. Takes the sums of
`tallies` and the facts of transcripts, reads no rows. Shapes: T transcripts, S studies, G groups of a field.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl

from psych_ray.study.looks import nll_sums
from psych_ray.study.numbering import Ints
from psych_ray.study.rows import Task
from psych_ray.study.schemas import table
from psych_ray.study.tallies import Tallies
from psych_ray.study.task_sums import Floats

AGES = (0, 18, 30, 45, 60)
"""Years at which a new group begins."""
_AGE_NAMES = ["0-17", "18-29", "30-44", "45-59", "60+"]
MIN_PARTICIPANTS = 5
"""Of a task in a group; smaller ones have no row."""


def by_group(tallies: Tallies, tasks: Sequence[Task], transcripts: pl.DataFrame) -> pl.DataFrame:
    """`Findings.by_group`. `transcripts`: the columns transcript, age, gender and diagnosis of `transcript_facts`.

    nll and the counts are over all studies of the group. difference and se are over those of them that have others
    with the field too, n_compared: null where there are none, se in one study too. The difference weighs studies
    equally.
    """
    fields = list(_fields(tallies, transcripts))
    rows: list[dict[str, Any]] = []
    for task in tasks:
        n_T, sums_T = nll_sums(tallies, task)
        for field, names, group_T in fields:
            rows += [{**task._asdict(), "field": field} | row for row in _groups(tallies, names, group_T, n_T, sums_T)]
    return table("by_group", pl.DataFrame(rows, infer_schema_length=None))


def _fields(tallies: Tallies, transcripts: pl.DataFrame) -> Iterator[tuple[str, Sequence[str], Ints]]:
    """Each field with the names of its groups and the group of every transcript, -1 where that is not known."""
    facts = transcripts.select("transcript", "age", "gender", "diagnosis").unique("transcript", keep="first")
    known = tallies.transcripts.select("transcript").join(facts, on="transcript", how="left", maintain_order="left")
    age = known["age"].fill_null(-1).fill_nan(-1).to_numpy()
    yield "age", _AGE_NAMES, np.searchsorted(AGES, age, side="right") - 1
    for field in ("gender", "diagnosis"):
        names = known[field].drop_nulls().unique().sort().to_list()
        group = known[field].replace_strict(names, range(len(names)), default=-1, return_dtype=pl.Int64)
        yield field, names, group.fill_null(-1).to_numpy()


def _groups(
    tallies: Tallies, names: Sequence[str], group_T: Ints, n_T: Floats, sums_T: Floats
) -> Iterator[dict[str, Any]]:
    known_T = (group_T >= 0) & (n_T > 0)
    cell = tallies.study_T[known_T] * len(names) + group_T[known_T]
    shape = (len(tallies.studies), len(names))
    n_SG, sums_SG = (
        np.bincount(cell, weights=values[known_T], minlength=shape[0] * shape[1]).reshape(shape)
        for values in (n_T, sums_T)
    )
    others_n, others = n_SG.sum(axis=1, keepdims=True) - n_SG, sums_SG.sum(axis=1, keepdims=True) - sums_SG
    for at, name in enumerate(names):
        n_participants = len(np.unique(tallies.participant_T[known_T & (group_T == at)]))
        if n_participants < MIN_PARTICIPANTS:
            continue
        has = n_SG[:, at] > 0
        both = has & (others_n[:, at] > 0)
        difference = sums_SG[both, at] / n_SG[both, at] - others[both, at] / others_n[both, at]
        yield {
            "value": name,
            "nll": float((sums_SG[has, at] / n_SG[has, at]).mean()),
            "difference": float(difference.mean()) if len(difference) else None,
            "se": float(difference.std(ddof=1) / np.sqrt(len(difference))) if len(difference) > 1 else None,
            "n_compared": len(difference),
            "n_studies": int(has.sum()),
            "n_participants": n_participants,
            "n_responses": int(n_SG[has, at].sum()),
        }
