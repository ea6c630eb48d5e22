"""One regression for all pairs: how the difference to the base depends on stage, size and generation.

A linear mixed model of mean differences by participant; the other tables do not use it. Needs the sums of the
comparisons, reads no responses.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from psych_ray.study.comparing import Comparison
from psych_ray.study.rows import Task
from psych_ray.study.schemas import empty, table
from psych_ray.study.tallies import Tallies
from psych_ray.study.task_sums import Floats

MAX_ROWS = 8_000
DEADLINE_S = 20.0
_MIN_STUDIES = 3
_SEED = 201
_FAILURES = (np.linalg.LinAlgError, ValueError, FloatingPointError, TimeoutError)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A participant under a pair."""

    study: int
    participant: int
    pair: int
    difference: float
    """Post minus base, nats per response."""


def mixed_model(
    tallies: Tallies,
    pairs: pl.DataFrame,
    condition: str,
    *,
    max_rows: int = MAX_ROWS,
    deadline_s: float = DEADLINE_S,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[pl.DataFrame, str | None]:
    """(`Findings.mixed_model` of a condition, why it is empty or over how many participants; None: over all).

    `pairs`: post, base, and stage, generation and size_b of the post-trained checkpoint. A row of the model is the mean
    difference of a participant under a pair, over the responses scored in both. Fixed effects: stage, log10 size,
    generation and their products, as far as they can be told apart and are fewer than the pairs. Random effects: the
    study, and within it the participant and the pair, without which pairs that differ from study to study would seem to
    be known too exactly. REML; intervals and p are by the normal distribution. Where there are more than `max_rows`
    rows, participants are drawn at random in every study. It is given up where the fit does not converge, or takes
    longer than `deadline_s` seconds.
    """
    rows, share = _sampled(_rows(tallies, pairs, condition), max_rows)
    n_studies = len({row.study for row in rows})
    n_pairs = len({row.pair for row in rows})
    if n_studies < _MIN_STUDIES or n_pairs < 2:
        return empty("mixed_model"), f"the mixed model needs {_MIN_STUDIES} studies and 2 pairs"
    names, design = fixed_effects(pairs[sorted({row.pair for row in rows})])
    index = {pair: at for at, pair in enumerate(sorted({row.pair for row in rows}))}
    try:
        estimates = _fit(rows, design[[index[row.pair] for row in rows]], clock, clock() + deadline_s)
    except _FAILURES as error:
        reason = f"no fit within {deadline_s:g} s" if isinstance(error, TimeoutError) else "it did not converge"
        return empty("mixed_model"), f"the mixed model was given up: {reason}"
    half = stats.norm.ppf(0.975) * estimates.se
    fixed = {
        "term": names,
        "estimate": estimates.fixed,
        "se": estimates.se,
        "low": estimates.fixed - half,
        "high": estimates.fixed + half,
        "p": 2 * stats.norm.sf(np.abs(estimates.fixed) / estimates.se),
    }
    random = {"term": list(estimates.random), "estimate": list(estimates.random.values())}
    found = pl.concat([pl.DataFrame(fixed), pl.DataFrame(random)], how="diagonal")
    found = found.with_columns(pl.lit(condition).alias("condition"), pl.lit(len(rows)).alias("n_rows"))
    return table("mixed_model", found), share


def fixed_effects(pairs: pl.DataFrame) -> tuple[list[str], Floats]:
    """Names and columns of the design, a row of each pair.

    The first column is the mean at the first stage and generation and the mean log10 size, which its name says. A
    product enters where it is not a sum of columns before it; in all there are fewer columns than pairs. Size is left
    out where it is not known of all.
    """
    stages, generations = (pairs[name].unique(maintain_order=True).to_list() for name in ("stage", "generation"))
    stage = {f"stage {name}": _is(pairs["stage"], name) for name in stages[1:]}
    generation = {f"generation {name}": _is(pairs["generation"], name) for name in generations[1:]}
    size: dict[str, Floats] = {}
    at = [stages[0], generations[0]]
    if pairs["size_b"].null_count() == 0 and (pairs["size_b"] > 0).all():
        log_size = np.log10(pairs["size_b"].to_numpy())
        size = {"log10 size": log_size - log_size.mean()}
        at.append(f"{10 ** log_size.mean():.2g} B")
    names, columns = [f"mean ({', '.join(at)})"], [np.ones(len(pairs))]
    for order in (1, 2, 3):
        for blocks in itertools.combinations((stage, size, generation), order):
            for terms in itertools.product(*(block.items() for block in blocks)):
                column = np.prod([values for _, values in terms], axis=0)
                wider = np.stack([*columns, column], axis=1)
                if len(columns) + 1 < len(pairs) and np.linalg.matrix_rank(wider) > len(columns):
                    names.append(" by ".join(name for name, _ in terms))
                    columns.append(column)
    return names, np.stack(columns, axis=1)


def _is(values: pl.Series, name: str) -> Floats:
    return (values == name).to_numpy().astype(np.float64)


def _rows(tallies: Tallies, pairs: pl.DataFrame, condition: str) -> list[Row]:
    rows = []
    for pair, (post, base) in enumerate(pairs.select("post", "base").iter_rows()):
        one = tallies.comparisons.get(Comparison(Task(post, condition), Task(base, condition)))
        if one is None:
            continue
        n_P = tallies.by_participant(one.sums["n"])
        sums_P = tallies.by_participant(one.sums["a"]) - tallies.by_participant(one.sums["b"])
        centre_P = (one.centres_S[0] - one.centres_S[1])[tallies.study_P]
        for participant in np.flatnonzero(n_P):
            difference = float(sums_P[participant] / n_P[participant] + centre_P[participant])
            study = int(tallies.study_P[participant])
            rows.append(Row(study=study, participant=int(participant), pair=pair, difference=difference))
    return rows


def _sampled(rows: list[Row], max_rows: int) -> tuple[list[Row], str | None]:
    """At most about `max_rows` rows, of as many participants of every study (2 at least), drawn from a fixed seed."""
    if len(rows) <= max_rows:
        return rows, None
    of_study: dict[int, dict[int, int]] = {}
    for row in rows:
        counts = of_study.setdefault(row.study, {})
        counts[row.participant] = counts.get(row.participant, 0) + 1
    most = max(len(counts) for counts in of_study.values())
    quota = next(
        (
            quota
            for quota in range(most, 2, -1)
            if sum(sum(counts.values()) * min(1, quota / len(counts)) for counts in of_study.values()) <= max_rows
        ),
        2,
    )
    rng = np.random.default_rng(_SEED)
    kept = {
        participant for counts in of_study.values() for participant in rng.permutation(sorted(counts))[:quota].tolist()
    }
    return [row for row in rows if row.participant in kept], (
        f"the mixed model is of at most {quota} participants of every study, drawn at random, to be fitted in time"
    )


@dataclass(frozen=True, kw_only=True)
class _Estimates:
    fixed: Floats
    se: Floats
    random: dict[str, float]
    """Standard deviations by name."""


def _fit(rows: Sequence[Row], design_R: Floats, clock: Callable[[], float], deadline: float) -> _Estimates:
    """TimeoutError after the deadline, ValueError where it does not converge."""
    # Imported here: this takes over a second, and other tables do not need it.
    from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec

    order = sorted(range(len(rows)), key=lambda at: rows[at].study)
    rows, design_R = [rows[at] for at in order], design_R[order]
    y = np.array([row.difference for row in rows])
    unit = float(y.std())
    if unit == 0:
        raise ValueError("all differences are equal")
    groups = np.array([row.study for row in rows])
    of_groups = [list(group) for _, group in itertools.groupby(rows, key=lambda row: row.study)]
    components = VCSpec(
        ["pair", "participant"],
        [[[str(name) for name in _levels(group, what)] for group in of_groups] for what in ("pair", "participant")],
        [[_indicators(group, what) for group in of_groups] for what in ("pair", "participant")],
    )
    model = MixedLM(y / unit, design_R, groups, exog_re=np.ones((len(rows), 1)), exog_vc=components)
    model.loglike = _until(deadline, clock, model.loglike)
    model.score = _until(deadline, clock, model.score)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # It warns of a variance of zero, which is a result, and of failures, which `converged` tells too.
        warnings.simplefilter("ignore")
        found = model.fit(reml=True, method=["lbfgs"])
        fixed, se = np.asarray(found.fe_params) * unit, np.asarray(found.bse_fe) * unit
        variances = [found.cov_re[0, 0], *found.vcomp, found.scale]
    if not found.converged or not (np.isfinite(fixed).all() and np.isfinite(se).all() and (se > 0).all()):
        raise ValueError("it did not converge")
    names = ("sd between studies", "sd of pairs in a study", "sd of participants in a study", "sd of the rest")
    sds = [unit * float(np.sqrt(max(variance, 0.0))) for variance in variances]
    return _Estimates(fixed=fixed, se=se, random=dict(zip(names, sds, strict=True)))


def _levels(group: Sequence[Row], what: str) -> list[int]:
    return sorted({getattr(row, what) for row in group})


def _indicators(group: Sequence[Row], what: str) -> NDArray[np.float64]:
    levels = np.array(_levels(group, what))
    values = np.array([getattr(row, what) for row in group])
    equal: NDArray[np.float64] = (values[:, None] == levels).astype(np.float64)
    return equal


def _until(deadline: float, clock: Callable[[], float], function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if clock() > deadline:
            raise TimeoutError
        return function(*args, **kwargs)

    return call
