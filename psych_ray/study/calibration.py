"""How far the probabilities of a checkpoint can be trusted, and what one temperature for all its logits repairs.

From the sums of `tallies` over the columns that scoring keeps for it; roots without them have empty tables. Does not
compare checkpoints: `overconfidence` does. Shapes: P participants, S studies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from psych_ray.study.numbering import Ints
from psych_ray.study.rows import TEMPERATURES, Task
from psych_ray.study.schemas import table
from psych_ray.study.tallies import Tallies, TaskTally
from psych_ray.study.task_sums import Floats

GRID = ("t_nll", *TEMPERATURES)
"""Sums of NLL at each temperature; the first is at 1, which is taken where no other is better."""
_TEMPERATURE = np.array([1.0, *TEMPERATURES.values()])
_CHOICES = {"leak": "leak", "nll_within": "within", "brier": "brier"}


def halves(participants: pl.DataFrame) -> Ints:
    """0 or 1 for each participant, of the columns study and participant [P].

    The participants of a study alternate in the order of a hash of their names, so that halves differ by one at most,
    and are the same for every checkpoint.
    """
    hashes = [hashlib.blake2b(name.encode()).hexdigest() for name in participants["participant"]]
    ranked = participants.select("study", pl.Series("hash", hashes, pl.String))
    ranks: Ints = ranked.select(pl.col("hash").rank("ordinal").over("study").cast(pl.Int64)).to_series().to_numpy()
    return ranks % 2


def judged(grid: Floats) -> tuple[Floats, Floats]:
    """(sum of NLL at temperatures chosen on the other half, geometric mean of both temperatures) [...].

    `grid` [..., 2, temperatures]: sums of NLL of the two halves in the order of `GRID`.
    """
    best = grid.argmin(axis=-1)
    other = np.take_along_axis(grid[..., ::-1, :], best[..., None], axis=-1)
    temperature: Floats = np.sqrt(_TEMPERATURE[best].prod(axis=-1))
    return other.sum(axis=(-1, -2)), temperature


def grid_sums(tallies: Tallies, one: TaskTally, half_P: Ints) -> tuple[Floats, Floats]:
    """Numbers of responses [S, 2] and sums of NLL [S, 2, temperatures] of the halves of each study."""
    cell_P, n_cells = tallies.study_P * 2 + half_P, len(tallies.studies) * 2

    def of(name: str) -> Floats:
        sums = np.bincount(cell_P, weights=tallies.by_participant(one.sums[name]), minlength=n_cells)
        return sums.astype(np.float64).reshape(-1, 2)

    return of("t_n"), np.stack([of(name) for name in GRID], axis=-1)


def calibration_by_study(tallies: Tallies, tasks: Sequence[Task]) -> pl.DataFrame:
    """`Findings.calibration_by_study`: of each task and study that have NLLs at temperatures.

    nll is over the responses that have them. temperature and nll_tempered are null where a half has no responses.
    """
    half_P = halves(tallies.participants)
    rows: list[dict[str, Any]] = []
    for task in tasks:
        one = tallies.tasks[task]
        if "t_n" not in one.sums:
            continue
        n_SH, grid = grid_sums(tallies, one, half_P)
        sums_S, temperature_S = judged(grid)
        nothing = np.zeros(len(tallies.study_T))
        choices_S = tallies.by_study(one.sums.get("choices", nothing))
        of_choices = {name: tallies.by_study(one.sums.get(source, nothing)) for name, source in _CHOICES.items()}
        for study in np.flatnonzero(n_SH.sum(axis=1)).tolist():
            n, n_choices = n_SH[study].sum(), int(choices_S[study])
            both = bool((n_SH[study] > 0).all())
            rows.append(
                {
                    "checkpoint": task.checkpoint,
                    "condition": task.condition,
                    "study": tallies.studies[study],
                    "nll": grid[study, :, 0].sum() / n,
                    "temperature": temperature_S[study] if both else None,
                    "nll_tempered": sums_S[study] / n if both else None,
                    **{name: sums[study] / n_choices if n_choices else None for name, sums in of_choices.items()},
                    "n_responses": int(n),
                    "n_choices": n_choices,
                }
            )
    return table("calibration_by_study", pl.DataFrame(rows, infer_schema_length=None))


def calibration(by_study: pl.DataFrame, curve: pl.DataFrame) -> pl.DataFrame:
    """`Findings.calibration`, from the tables by study and of the curve.

    nll, temperature and nll_tempered are over the `n_studies` studies that have all three. ece, confidence and accuracy
    are over all choices of the curve: ece is the mean over choices of |share_chosen - confidence| of their bin.
    """
    keys = ["checkpoint", "condition"]
    has = pl.col("nll_tempered").is_not_null()
    means = by_study.group_by(keys, maintain_order=True).agg(
        pl.col("nll").filter(has).mean(),
        pl.col("temperature").log().mean().exp(),
        pl.col("nll_tempered").mean(),
        pl.col("leak", "nll_within", "brier").mean(),
        has.sum().alias("n_studies"),
    )
    n = pl.col("n_choices")

    def over_choices(values: pl.Expr) -> pl.Expr:
        return (values * n).sum() / n.sum()

    of_bins = curve.group_by(keys, maintain_order=True).agg(
        over_choices((pl.col("share_chosen") - pl.col("confidence")).abs()).alias("ece"),
        over_choices(pl.col("confidence")).alias("confidence"),
        over_choices(pl.col("share_chosen")).alias("accuracy"),
        n.sum(),
    )
    joined = means.join(of_bins, on=keys, how="left", maintain_order="left")
    return table("calibration", joined.with_columns(pl.col("n_choices").fill_null(0)))


def calibration_curve(tallies: Tallies, tasks: Sequence[Task]) -> pl.DataFrame:
    """`Findings.calibration_curve`: all choices of a task; bins without any have no row."""
    frames = []
    for task in tasks:
        n, top, hits = tallies.tasks[task].bins.sum(axis=0).T if len(tallies.studies) else np.zeros((3, 0))
        used = np.flatnonzero(n)
        frames.append(
            pl.DataFrame(
                {
                    "checkpoint": [task.checkpoint] * len(used),
                    "condition": [task.condition] * len(used),
                    "bin": used,
                    "confidence": top[used] / n[used],
                    "share_chosen": hits[used] / n[used],
                    "n_choices": n[used],
                },
                schema_overrides={"checkpoint": pl.String, "condition": pl.String},
            )
        )
    return table("calibration_curve", pl.concat(frames) if frames else pl.DataFrame())
