"""More ways to look at the NLL of a task: by tenth of the transcript, by its length, by experiment.

No comparison of checkpoints. Takes the sums of `tallies`, reads no rows. A study in which an NLL of the task is not
finite is left out of all. Shapes: T transcripts, P participants, S studies.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from psych_ray.study.bootstrap import Bootstrap, interval
from psych_ray.study.rows import Task
from psych_ray.study.schemas import table
from psych_ray.study.tallies import Tallies
from psych_ray.study.task_sums import DECILES, Floats

LENGTHS = (1, 10, 30, 100, 300, 1000)
"""Numbers of responses at which a new row of `by_length` begins."""
_LENGTH_NAMES = [f"{low}-{high - 1}" for low, high in itertools.pairwise(LENGTHS)] + [f"{LENGTHS[-1]}+"]


def nll_sums(tallies: Tallies, task: Task) -> tuple[Floats, Floats]:
    """Number and sum of the NLLs of each transcript [T], 0 in studies where one is not finite."""
    one = tallies.tasks[task]
    finite_T = (tallies.by_study(one.sums["infinite"]) == 0)[tallies.study_T]
    n_T = one.sums["n"] * finite_T
    return n_T, one.sums["x"] * finite_T + n_T * one.centres_S[tallies.study_T]


def clustered_mean(n_P: Floats, sums_P: Floats) -> dict[str, float | int | None]:
    """nll, se, n_participants and n_responses of sums by participant.

    se: CR1 (Cameron and Miller 2015), clustered by participant; None for one. All are None or 0 without responses.
    """
    n, clusters = float(n_P.sum()), int((n_P > 0).sum())
    mean = float(sums_P.sum()) / n if n else None
    se = None
    if mean is not None and clusters > 1:
        residual_P = sums_P - n_P * mean
        se = float(np.sqrt(clusters / (clusters - 1) * (residual_P**2).sum())) / n
    return {"nll": mean, "se": se, "n_participants": clusters, "n_responses": int(n)}


def by_decile(tallies: Tallies, tasks: Sequence[Task], bootstrap: Bootstrap) -> pl.DataFrame:
    """`Findings.by_decile`, decile 1 to 10; intervals are of a bootstrap over studies, with the same draws in all."""
    frames = []
    for task in tasks:
        one = tallies.tasks[task]
        n, total = one.deciles[..., 0], one.deciles[..., 1]
        used = (n > 0).all(axis=1) & (tallies.by_study(one.sums["infinite"]) == 0)
        if not used.any():
            continue
        with np.errstate(invalid="ignore", divide="ignore"):
            means = (total / n).astype(np.float32)
        of_deciles = (total[used] / n[used]).mean(axis=0)
        drawn = bootstrap.over_studies(np.broadcast_to(means, (bootstrap.draws, *means.shape)), used)
        low, high = interval(drawn, int(used.sum()))
        changes = interval(drawn[:, -1:] - drawn[:, :1], int(used.sum()))
        frames.append(
            pl.DataFrame(
                {
                    "checkpoint": [task.checkpoint] * DECILES,
                    "condition": [task.condition] * DECILES,
                    "decile": range(1, DECILES + 1),
                    "nll": of_deciles,
                    "low": low,
                    "high": high,
                    "change": [None] * (DECILES - 1) + [float(np.diff(of_deciles[[0, -1]])[0])],
                    "change_low": [None] * (DECILES - 1) + [float(changes[0][0])],
                    "change_high": [None] * (DECILES - 1) + [float(changes[1][0])],
                    "n_studies": [int(used.sum())] * DECILES,
                    "n_responses": n[used].sum(axis=0),
                }
            )
        )
    found = table("by_decile", pl.concat(frames) if frames else pl.DataFrame())
    return found.with_columns(pl.col(pl.Float64).fill_nan(None))


def by_length(tallies: Tallies, tasks: Sequence[Task]) -> pl.DataFrame:
    """`Findings.by_length`, over all studies; transcripts by how many responses they have, scored or not."""
    length_T = np.searchsorted(LENGTHS, tallies.transcripts["n_responses"].to_numpy(), side="right") - 1
    rows: list[dict[str, Any]] = []
    for task in tasks:
        n_T, sums_T = nll_sums(tallies, task)
        for at, name in enumerate(_LENGTH_NAMES):
            own_T = (length_T == at) & (n_T > 0)
            if own_T.any():
                n_studies = len(np.unique(tallies.study_T[own_T]))
                row = _mean_of(tallies, n_T, sums_T, own_T)
                rows.append({**task._asdict(), "length": name, **row, "n_studies": n_studies})
    return table("by_length", pl.DataFrame(rows, infer_schema_length=None))


def by_experiment(tallies: Tallies, tasks: Sequence[Task]) -> pl.DataFrame:
    """`Findings.by_experiment`, studies and experiments in alphabetical order."""
    names = tallies.transcripts.select("study", "experiment")
    several = names.unique().group_by("study").len().filter(pl.col("len") > 1)["study"]
    experiments = names.unique().filter(pl.col("study").is_in(several.to_list())).sort("study", "experiment")
    index_T = names.join(experiments.with_row_index("at"), on=names.columns, how="left", maintain_order="left")["at"]
    at_T = index_T.cast(pl.Int64).fill_null(-1).to_numpy()
    members = [np.flatnonzero(at_T == at) for at in range(len(experiments))]
    rows: list[dict[str, Any]] = []
    for task in tasks:
        n_T, sums_T = nll_sums(tallies, task)
        for (study, experiment), own_T in zip(experiments.iter_rows(), members, strict=True):
            if n_T[own_T].any():
                row = _mean_of(tallies, n_T, sums_T, own_T)
                rows.append({**task._asdict(), "study": study, "experiment": experiment, **row})
    return table("by_experiment", pl.DataFrame(rows, infer_schema_length=None))


def _mean_of(
    tallies: Tallies, n_T: Floats, sums_T: Floats, own_T: NDArray[np.generic]
) -> dict[str, float | int | None]:
    """`clustered_mean` of some transcripts, by mask or number."""
    people, index = np.unique(tallies.participant_T[own_T], return_inverse=True)
    n_P, sums_P = (np.bincount(index, weights=values[own_T], minlength=len(people)) for values in (n_T, sums_T))
    return clustered_mean(n_P.astype(np.float64), sums_P.astype(np.float64))
