"""One regression for all pairs: how the difference to the base depends on stage, size and generation.

A linear mixed model of mean differences by participant; the other tables do not use it. Needs the sums of the
comparisons, reads no responses. Maximises the likelihood itself, because the optimisers of statsmodels' MixedLM often
stop before the maximum where a variance is small.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import optimize, special

from psych_ray.study.comparing import Comparison
from psych_ray.study.numbering import Ints
from psych_ray.study.rows import Task
from psych_ray.study.schemas import empty, table
from psych_ray.study.tallies import Tallies
from psych_ray.study.task_sums import Floats

MAX_ROWS = 20_000
DEADLINE_S = 20.0
_MIN_STUDIES = 3
_SEED = 201
_MAX_RATIO = 1e4
_RANDOM = ("sd between studies", "sd of pairs in a study", "sd of participants in a study", "sd of the rest")
_FAILURES = (np.linalg.LinAlgError, ValueError, FloatingPointError, TimeoutError)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Participants under pairs [R]."""

    study: Ints
    participant: Ints
    pair: Ints
    difference: Floats
    """Post minus base, nats per response."""

    def __len__(self) -> int:
        return len(self.study)

    def where(self, own_R: NDArray[np.bool_]) -> Rows:
        """Some of the rows."""
        return Rows(**{name: values[own_R] for name, values in vars(self).items()})


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
    used, pair_R = np.unique(rows.pair, return_inverse=True)
    if len(np.unique(rows.study)) < _MIN_STUDIES or len(used) < 2:
        return empty("mixed_model"), f"the mixed model needs {_MIN_STUDIES} studies and 2 pairs"
    names, design = fixed_effects(pairs[used.tolist()])
    try:
        estimates = _fit(rows, design[pair_R], clock, clock() + deadline_s)
    except _FAILURES as error:
        reason = f"no fit within {deadline_s:g} s" if isinstance(error, TimeoutError) else "it did not converge"
        return empty("mixed_model"), f"the mixed model was given up: {reason}"
    half = special.ndtri(0.975) * estimates.se
    fixed = {
        "term": names,
        "estimate": estimates.fixed,
        "se": estimates.se,
        "low": estimates.fixed - half,
        "high": estimates.fixed + half,
        "p": 2 * special.ndtr(-np.abs(estimates.fixed) / estimates.se),
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


def _rows(tallies: Tallies, pairs: pl.DataFrame, condition: str) -> Rows:
    parts: list[Rows] = []
    for pair, (post, base) in enumerate(pairs.select("post", "base").iter_rows()):
        one = tallies.comparisons.get(Comparison(Task(post, condition), Task(base, condition)))
        if one is None:
            continue
        n_P = tallies.by_participant(one.sums["n"])
        people = np.flatnonzero(n_P)
        study = tallies.study_P[people]
        sums = tallies.by_participant(one.sums["a"] - one.sums["b"])[people]
        difference = sums / n_P[people] + (one.centres_S[0] - one.centres_S[1])[study]
        pair_R = np.full(len(people), pair, np.int64)
        parts.append(Rows(study=study, participant=people.astype(np.int64), pair=pair_R, difference=difference))
    nothing = np.empty(0, np.int64)
    parts.append(Rows(study=nothing, participant=nothing, pair=nothing, difference=np.empty(0)))
    names = ("study", "participant", "pair", "difference")
    return Rows(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _sampled(rows: Rows, max_rows: int) -> tuple[Rows, str | None]:
    """At most about `max_rows` rows, of as many participants of every study (2 at least), drawn from a fixed seed."""
    if len(rows) <= max_rows:
        return rows, None
    rng = np.random.default_rng(_SEED)
    people, index = np.unique(np.stack([rows.study, rows.participant]), axis=1, return_inverse=True)
    shuffled = rng.permutation(people.shape[1])
    place = np.empty(len(shuffled), np.int64)
    for study in np.unique(people[0]):
        own = shuffled[people[0][shuffled] == study]
        place[own] = np.arange(len(own))
    place_R = place[index.ravel()]
    fits = np.cumsum(np.bincount(place_R)) <= max_rows
    quota = max(2, int(fits.sum()))
    return rows.where(place_R < quota), (
        f"the mixed model is of at most {quota} participants of every study, drawn at random, to be fitted in time"
    )


@dataclass(frozen=True, kw_only=True)
class _Estimates:
    fixed: Floats
    se: Floats
    random: dict[str, float]
    """Standard deviations by name."""


def _fit(rows: Rows, design_R: Floats, clock: Callable[[], float], deadline: float) -> _Estimates:
    """TimeoutError after the deadline, ValueError where there is no fit."""
    unit = float(rows.difference.std())
    if unit == 0:
        raise ValueError("all differences are equal")
    a_RA = np.column_stack([design_R, rows.difference / unit])
    studies = [
        _products(rows.where(own_R), a_RA[own_R]) for own_R in (rows.study == study for study in np.unique(rows.study))
    ]

    def log_likelihood(ratios: Floats) -> float:
        if clock() > deadline:
            raise TimeoutError
        return _profile(studies, len(rows), ratios).log_likelihood

    ratios = _most_likely(log_likelihood)
    found = _profile(studies, len(rows), ratios)
    se = np.sqrt(np.diag(found.covariance))
    if not (np.isfinite(found.fixed).all() and (se > 0).all()):
        raise ValueError("an estimate is not defined")
    sds = unit * np.sqrt(found.variance) * np.append(ratios, 1.0)
    return _Estimates(fixed=found.fixed * unit, se=se * unit, random=dict(zip(_RANDOM, sds.tolist(), strict=True)))


@dataclass(frozen=True, kw_only=True)
class _Study:
    """Products of indicators and of A, the design and the differences, of one study.

    Z are the indicators of the study and of pairs, W those of participants, of which W'W is diagonal.
    """

    zz: Floats
    zw: Floats
    ww: Floats
    """The diagonal."""
    za: Floats
    wa: Floats
    aa: Floats


def _products(rows: Rows, a: Floats) -> _Study:
    pairs, w = (
        (own[:, None] == np.unique(own)).astype(np.float64) for own in (rows.pair, rows.participant)
    )  # fmt: skip
    z = np.column_stack([np.ones(len(rows)), pairs])
    return _Study(zz=z.T @ z, zw=z.T @ w, ww=w.sum(axis=0), za=z.T @ a, wa=w.T @ a, aa=a.T @ a)


@dataclass(frozen=True, kw_only=True)
class _Profile:
    """At some ratios, of the largest likelihood over all else."""

    log_likelihood: float
    """Restricted; but for a constant."""
    fixed: Floats
    covariance: Floats
    variance: float
    """Of the rest."""


def _profile(studies: Sequence[_Study], n_rows: int, ratios: Floats) -> _Profile:
    """`ratios`: standard deviations of the random effects (study, pair, participant) to that of the rest.

    The inverse of the covariance matrix is taken by Woodbury's identity, without participants, whose block is diagonal,
    by their Schur complement, so that what is inverted is only as large as there are pairs.
    """
    n_fixed = len(studies[0].aa) - 1
    total, log_determinant = np.zeros_like(studies[0].aa), 0.0
    for study in studies:
        scale = np.append(ratios[0], np.full(len(study.zz) - 1, ratios[1]))
        participants = 1 + ratios[2] ** 2 * study.ww
        over = (scale * ratios[2])[:, None] * study.zw / participants
        inner = np.eye(len(scale)) + scale[:, None] * study.zz * scale
        inner -= over @ (study.zw.T * (scale * ratios[2]))
        right = scale[:, None] * study.za - over @ (ratios[2] * study.wa)
        half = ratios[2] * study.wa / np.sqrt(participants)[:, None]
        total += study.aa - half.T @ half - right.T @ np.linalg.solve(inner, right)
        log_determinant += float(np.linalg.slogdet(inner)[1] + np.log(participants).sum())
    information, moments = total[:n_fixed, :n_fixed], total[:n_fixed, n_fixed]
    fixed = np.linalg.solve(information, moments).astype(np.float64)
    freedom = n_rows - n_fixed
    variance = float(total[n_fixed, n_fixed] - moments @ fixed) / freedom
    if variance <= 0:
        raise ValueError("nothing is left to vary")
    log_determinant += float(np.linalg.slogdet(information)[1])
    return _Profile(
        log_likelihood=-0.5 * (freedom * float(np.log(variance)) + log_determinant),
        fixed=fixed,
        covariance=(variance * np.linalg.inv(information)).astype(np.float64),
        variance=variance,
    )


def _most_likely(log_likelihood: Callable[[Floats], float]) -> Floats:
    """The ratios of largest likelihood. ValueError where none is found."""
    found = optimize.minimize(
        lambda ratios: -log_likelihood(ratios),
        x0=np.full(3, 0.5),
        method="Nelder-Mead",
        bounds=[(0, _MAX_RATIO)] * 3,
        options={"xatol": 1e-5, "fatol": 1e-8, "maxfev": 2_000},
    )
    if not found.success or not np.isfinite(found.fun) or (found.x > 0.99 * _MAX_RATIO).any():
        raise ValueError("the likelihood has no maximum")
    ratios: Floats = found.x
    return ratios
