"""Effects over studies: the mean of Cohen's d over studies and pairs, with everything that says how certain it is.

One function for every table of effects, whose columns are `schemas.EFFECT`. Does not know what is compared with what.
Shapes: C comparisons, S studies, P participants, B draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from psych_ray.study.bootstrap import Bootstrap, clusters, interval
from psych_ray.study.comparison import Compared
from psych_ray.study.effects import joint_se
from psych_ray.study.many_tests import sign_test
from psych_ray.study.random_effects import RandomEffects, random_effects
from psych_ray.study.tallies import Tallies
from psych_ray.study.task_sums import Floats

Mask = NDArray[np.bool_]


class OverStudies:
    """Means over studies of comparisons, and over several of them."""

    def __init__(self, tallies: Tallies, of: Compared, draws_BSC: NDArray[np.float32], bootstrap: Bootstrap) -> None:
        self._tallies, self._of, self._draws, self._bootstrap = tallies, of, draws_BSC, bootstrap
        self._over: dict[tuple[bytes, bool], NDArray[np.float32]] = {}
        self.d = of.d
        """Cohen's d [C, S]."""

    @property
    def all_studies(self) -> Mask:
        """Every study [S]."""
        return np.ones(len(self._tallies.studies), np.bool_)

    def effect(
        self, members: Sequence[int], studies: Mask, *, sign: float = 1.0, population_sd: bool = False
    ) -> dict[str, float | int | None] | None:
        """The columns of `schemas.EFFECT` for the mean over the comparisons `members`, in `studies`.

        Comparisons without a d in these studies are left out; None where all are. `sign` -1: second minus first.
        `population_sd`: d with the sd that divides by n.
        """
        d_CS = self._scaled(members, studies, population_sd) * sign
        present: Mask = ~np.all(np.isnan(d_CS), axis=1)
        members = [member for member, has in zip(members, present, strict=True) if has]
        if not members:
            return None
        d_CS = d_CS[present]
        by_study, variances = self._by_study(members, d_CS)
        known = ~np.isnan(by_study)
        n = int(known.sum())
        low, high = _bounds(sign * self._drawn(members, studies, population_sd), self._clusters(members, studies))
        found = random_effects(by_study, variances)
        n_positive, p_sign = sign_test(by_study)
        return {
            "d": float(np.nanmean(d_CS, axis=1).mean()),
            "se": float(by_study[known].std(ddof=1) / np.sqrt(n)) if n > 1 else None,
            "low": low,
            "high": high,
            **_random_effects_columns(found),
            "n_positive": n_positive,
            "p_sign": p_sign,
            "n_studies": n,
            "n_participants": self._participants(members, known),
            "n_responses": int(np.where(np.isnan(d_CS), 0, [self._of.effects[member].n for member in members]).sum()),
        }

    def test(self, members: Sequence[int], studies: Mask) -> float | None:
        """Two-sided p that the mean effect is zero: random effects over studies; of one study, by its participants."""
        d_CS = self._scaled(members, studies, population_sd=False)
        by_study, variances = self._by_study(members, d_CS)
        known = ~np.isnan(by_study) & np.isfinite(variances)
        if known.sum() > 1:
            return random_effects(by_study, variances).p
        if not known.any() or variances[known][0] == 0:
            return None
        freedom = self._participants(members, known) - 1
        return float(2 * special.stdtr(freedom, -abs(by_study[known][0]) / np.sqrt(variances[known][0])))

    def cohens_d(self, member: int, studies: Mask, *, population_sd: bool = False) -> Floats:
        """D of a comparison in each of these studies that has one."""
        d: Floats = self._scaled([member], studies, population_sd)[0]
        return d[~np.isnan(d)]

    def mean_d(self, members: Sequence[int], studies: Mask) -> float | None:
        """The mean over comparisons of their means over studies; None where no comparison has a d."""
        d_CS = self._scaled(members, studies, population_sd=False)
        d_CS = d_CS[~np.isnan(d_CS).all(axis=1)]
        return float(np.nanmean(d_CS, axis=1).mean()) if len(d_CS) else None

    def n_with_d(self, members: Sequence[int], studies: Mask) -> int:
        """Comparisons that have a d in any of these studies."""
        return int((~np.isnan(np.where(studies, self.d[list(members)], np.nan))).any(axis=1).sum())

    def _scaled(self, members: Sequence[int], studies: Mask, population_sd: bool) -> Floats:
        d_CS = np.where(studies, self.d[list(members)], np.nan)
        return d_CS * self._to_population(members) if population_sd else d_CS

    def _to_population(self, members: Sequence[int]) -> Floats:
        """What a d with the sample sd is multiplied by for the one with the sd that divides by n [C, S]."""
        n_CS = np.array([self._of.effects[member].n for member in members])
        return np.sqrt(n_CS / np.where(n_CS > 1, n_CS - 1, np.nan))

    def _by_study(self, members: Sequence[int], d_CS: Floats) -> tuple[Floats, Floats]:
        """Mean over the comparisons that have a study, and its sampling variance: they share participants."""
        has = ~np.isnan(d_CS)
        count = has.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            by_study = np.where(count > 0, np.nansum(d_CS, axis=0) / count, np.nan)
        influence = np.zeros(len(self._tallies.study_P))
        any_P = np.zeros(len(influence), np.bool_)
        for member, has_S in zip(members, has, strict=True):
            in_study = has_S[self._tallies.study_P]
            influence += self._of.effects[member].influence * in_study
            any_P |= self._of.effects[member].present & in_study
        influence /= np.maximum(count, 1)[self._tallies.study_P]
        participants = np.bincount(self._tallies.study_P, weights=any_P, minlength=len(count)).astype(np.float64)
        se = joint_se(influence, participants, self._tallies.starts)
        return by_study, np.where(count > 0, se**2, np.nan)

    def change(self, first: Sequence[int], second: Sequence[int]) -> dict[str, float | None]:
        """change, change_low and change_high: the mean effect of `second` minus that of `first`, over all studies."""
        studies = self.all_studies
        before, after = self.mean_d(first, studies), self.mean_d(second, studies)
        if before is None or after is None:
            return {"change": None, "change_low": None, "change_high": None}
        drawn = self._drawn(second, studies) - self._drawn(first, studies)
        low, high = _bounds(drawn, min(self._clusters(first, studies), self._clusters(second, studies)))
        return {"change": after - before, "change_low": low, "change_high": high}

    def _drawn(self, members: Sequence[int], studies: Mask, population_sd: bool = False) -> NDArray[np.float32]:
        """The mean over studies and comparisons in each draw [B]."""
        key = studies.tobytes(), population_sd
        if key not in self._over:
            scale_SC = self._to_population(range(len(self._of.effects))).T if population_sd else None
            self._over[key] = self._bootstrap.over_studies(self._draws, studies, scale_SC)
        drawn = self._over[key][:, list(members)]
        known = ~np.isnan(drawn)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = np.where(known.any(axis=1), np.nansum(drawn, axis=1) / known.sum(axis=1), np.nan)
        return means.astype(np.float32)

    def _clusters(self, members: Sequence[int], studies: Mask) -> int:
        known: Mask = np.any(~np.isnan(np.where(studies, self.d[list(members)], np.nan)), axis=0)
        return int(clusters(int(known.sum()), self._participants(members, known)))

    def _participants(self, members: Sequence[int], studies: Mask) -> int:
        """Participants of these studies who are in any of the comparisons."""
        most = np.max([self._of.effects[member].participants for member in members], axis=0)
        return int(most[studies].sum())


def _bounds(drawn: NDArray[np.float32], n_clusters: int) -> tuple[float | None, float | None]:
    low, high = interval(drawn[:, None], n_clusters)
    return (None, None) if np.isnan(low[0]) else (float(low[0]), float(high[0]))


def _random_effects_columns(found: RandomEffects) -> dict[str, float | None]:
    return {
        "re_d": found.mean,
        "re_low": found.low,
        "re_high": found.high,
        "tau": found.tau,
        "pi_low": found.pi_low,
        "pi_high": found.pi_high,
    }
