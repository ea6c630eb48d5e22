"""Effects of single studies, with standard errors clustered by participant, from sums by participant.

Responses of one participant are not independent, so that errors are computed from sums over participants (CR1: Cameron
& Miller 2015, "A practitioner's guide to cluster-robust inference"; of a function of means by its linearisation).
Shapes: P participants in the order of their studies, S studies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from psych_ray.study.comparing import Comparison
from psych_ray.study.numbering import Ints
from psych_ray.study.rows import Task
from psych_ray.study.tallies import Tallies
from psych_ray.study.task_sums import Floats

SUMS = ("n", "a", "b", "aa", "bb", "ab")


@dataclass(frozen=True, kw_only=True)
class StudyEffects:
    """The first task minus the second in each study [S]; NaN where not defined."""

    n: Floats
    """Responses scored in both."""
    participants: Floats
    """Participants with such responses."""
    mean_a: Floats
    mean_b: Floats
    sd_a: Floats
    """Sample sd over responses."""
    sd_b: Floats
    d: Floats
    """Cohen's d: difference of the means / sqrt((sd_a² + sd_b²) / 2)."""
    d_se: Floats
    difference: Floats
    difference_se: Floats
    difference_se_naive: Floats
    """With responses taken as independent."""
    d_z: Floats
    """Mean of the paired differences / their sd."""
    present: NDArray[np.bool_]
    """Whether a participant has such responses [P]."""
    influence: Floats
    """Of each participant on its study's d [P]; d_se² is the sum of their squares times G / (G - 1)."""


def study_effects(tallies: Tallies, comparison: Comparison) -> StudyEffects:
    """Effects of a comparison in all studies of the tallies."""
    one = tallies.comparisons[comparison]
    sums = {name: tallies.by_participant(one.sums[name]) for name in SUMS}
    return effects_of(sums, tallies.starts, one.centres_S)


def effects_of(sums_P: Mapping[str, Floats], starts_S: Ints, centres_S: tuple[Floats, Floats]) -> StudyEffects:
    """Effects from the sums `SUMS` by participant, of NLLs minus the centres."""

    def by_study(values_P: NDArray[np.generic]) -> Floats:
        if not len(starts_S):
            return np.empty(0)
        total: Floats = np.add.reduceat(values_P, starts_S, dtype=np.float64)
        return total

    of_study = np.repeat(np.arange(len(starts_S)), np.diff(starts_S, append=len(sums_P["n"])))
    n_P = sums_P["n"]
    n, clusters = by_study(n_P), by_study(n_P > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_a, mean_b = by_study(sums_P["a"]) / n, by_study(sums_P["b"]) / n
        # Sums over the responses of each participant, of values minus the mean of the study.
        a_P, b_P = sums_P["a"] - n_P * mean_a[of_study], sums_P["b"] - n_P * mean_b[of_study]
        aa_P = _squares(sums_P["aa"], sums_P["a"], mean_a[of_study], n_P)
        bb_P = _squares(sums_P["bb"], sums_P["b"], mean_b[of_study], n_P)
        ab_P = sums_P["ab"] - mean_a[of_study] * sums_P["b"] - mean_b[of_study] * sums_P["a"]
        ab_P = ab_P + n_P * (mean_a * mean_b)[of_study]
        freedom = np.where(n > 1, n - 1, np.nan)
        var_a, var_b = (np.maximum(by_study(squares), 0) / freedom for squares in (aa_P, bb_P))
        var_difference = np.maximum(by_study(aa_P + bb_P - 2 * ab_P), 0) / freedom
        difference = (mean_a + centres_S[0]) - (mean_b + centres_S[1])
        pooled = np.where(var_a + var_b > 0, (var_a + var_b) / 2, np.nan)
        d = difference / np.sqrt(pooled)
        spread_P = (aa_P - n_P * var_a[of_study] + bb_P - n_P * var_b[of_study]) / 2
        influence = (a_P - b_P) / np.sqrt(pooled)[of_study] - (d / (2 * pooled))[of_study] * spread_P
        influence = np.nan_to_num(influence / n[of_study])
        correction = np.where(clusters > 1, clusters / (clusters - 1), np.nan)
        return StudyEffects(
            n=n,
            participants=clusters,
            mean_a=mean_a + centres_S[0],
            mean_b=mean_b + centres_S[1],
            sd_a=np.sqrt(var_a),
            sd_b=np.sqrt(var_b),
            d=d,
            d_se=np.where(np.isnan(d), np.nan, np.sqrt(correction * by_study(influence**2))),
            difference=difference,
            difference_se=np.sqrt(correction * by_study((a_P - b_P) ** 2)) / n,
            difference_se_naive=np.sqrt(var_difference / n),
            d_z=difference / np.where(var_difference > 0, np.sqrt(var_difference), np.nan),
            present=n_P > 0,
            influence=influence,
        )


def mean_of(tallies: Tallies, task: Task) -> tuple[Floats, Floats, Floats]:
    """Mean NLL of a task in each study, its standard error clustered by participant, and the sample sd [S]."""
    one = tallies.tasks[task]
    sums = {name: tallies.by_participant(one.sums[source]) for name, source in (("n", "n"), ("a", "x"), ("aa", "xx"))}
    nothing = np.zeros_like(sums["n"])
    none_S = np.zeros_like(one.centres_S)
    found = effects_of({**sums, "b": nothing, "bb": nothing, "ab": nothing}, tallies.starts, (one.centres_S, none_S))
    return found.mean_a, found.difference_se, found.sd_a


def joint_se(influences: Floats, participants: Floats, starts_S: Ints) -> Floats:
    """Standard error of a mean of effects of the same study, from the mean influence of each participant [P]."""
    with np.errstate(invalid="ignore", divide="ignore"):
        correction = np.where(participants > 1, participants / (participants - 1), np.nan)
        squares = np.add.reduceat(influences**2, starts_S) if len(starts_S) else np.empty(0)
        result: Floats = np.sqrt(correction * squares)
        return result


def t_interval(estimate: Floats, se: Floats, participants: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Interval by the t distribution with participants - 1 degrees of freedom."""
    freedom = np.where(participants > 1, participants - 1, np.nan)
    half = special.stdtrit(freedom, 0.5 + level / 2) * se
    return estimate - half, estimate + half


def _squares(squares_P: Floats, sums_P: Floats, mean_P: Floats, n_P: Floats) -> Floats:
    """Sums of squared deviations from `mean_P`, from sums and sums of squares."""
    return squares_P - 2 * mean_P * sums_P + n_P * mean_P**2
