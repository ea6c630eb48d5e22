"""Bootstrap over studies and participants within them.

A two-stage bootstrap of clustered data (Field & Welsh 2007, "Bootstrapping clustered data"): studies are drawn with
replacement, and for each of them its participants. All statistics of a report are computed on the same draws, so that
those which share studies, participants or a base stay dependent. Shapes: B draws, P participants in the order of their
studies, S studies, K sums, V statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from psych_ray.study.numbering import Ints
from psych_ray.study.task_sums import Floats

Counts = int | Sequence[int] | NDArray[np.integer[Any]]
DRAWS = 1_000
_CHUNK_WEIGHTS = 8_000_000
"""Draws times participants of a study that are in memory together."""


class Bootstrap:
    """The draws of a report, from a fixed seed."""

    def __init__(self, starts_S: Ints, n_participants: int, *, draws: int = DRAWS, seed: int = 201) -> None:
        self.draws = draws
        self._seed = seed
        self._bounds = [int(start) for start in starts_S] + [n_participants]

    def by_study(
        self,
        sums_PK: Floats,
        statistic: Callable[[Floats, int], Floats],
        *,
        on_study: Callable[[int], None] = lambda study: None,
    ) -> NDArray[np.float32]:
        """The statistics of each study with its participants drawn again [B, S, V].

        `statistic`: sums [B, K] over the participants of a study, and the study's index, to statistics [B, V].
        """
        n_studies = len(self._bounds) - 1
        results_BSV = np.empty((self.draws, 0, 0), np.float32)
        for study in range(n_studies):
            own = sums_PK[self._bounds[study] : self._bounds[study + 1]]
            drawn = np.concatenate([weights @ own for weights in self._weights(study, len(own))])
            with np.errstate(invalid="ignore", divide="ignore"):
                values_BV = statistic(drawn, study)
            if study == 0:
                results_BSV = np.empty((self.draws, n_studies, values_BV.shape[1]), np.float32)
            results_BSV[:, study] = values_BV
            on_study(study)
        return results_BSV

    def over_studies(
        self, values_BSV: NDArray[np.float32], studies: NDArray[np.bool_], scale_SV: Floats | None = None
    ) -> NDArray[np.float32]:
        """Means over as many studies as `studies` has, drawn among them [B, V]; NaN where no drawn one has a value.

        A study that is drawn several times has other participants each time; but where a statistic has no other study,
        it counts once, as the mean of several draws of its participants varies less than one. `scale_SV`: by which the
        values are multiplied.
        """
        among = np.flatnonzero(studies)
        n_values = values_BSV.shape[2]
        if not len(among):
            return np.full((self.draws, n_values), np.nan, np.float32)
        rng = np.random.default_rng([self._seed, 1])
        study = among[rng.integers(len(among), size=(self.draws, len(among)))]
        # Another draw of participants for every place, so that a study's second occurrence differs from its first.
        draw = (np.arange(self.draws)[:, None] + rng.integers(self.draws, size=len(among))) % self.draws
        total, count = np.zeros((self.draws, n_values)), np.zeros((self.draws, n_values))
        single = np.sum([~np.isnan(values_BSV[:, one]).all(axis=0) for one in among], axis=0) == 1
        for place in range(len(among)):
            values = values_BSV[draw[:, place], study[:, place]]
            if scale_SV is not None:
                values = values * scale_SV[study[:, place]]
            known = ~np.isnan(values) & ~(single & (count > 0))
            total += np.where(known, values, 0)
            count += known
        with np.errstate(invalid="ignore"):
            return (total / np.where(count > 0, count, np.nan)).astype(np.float32)

    def _weights(self, study: int, n_participants: int) -> list[Floats]:
        """How often each participant of a study is drawn, in chunks [b, P]."""
        rng = np.random.default_rng([self._seed, 2, study])
        at_once = max(1, _CHUNK_WEIGHTS // max(1, n_participants))
        return [
            self._drawn(rng, min(at_once, self.draws - begin), n_participants)
            for begin in range(0, self.draws, at_once)
        ]

    @staticmethod
    def _drawn(rng: np.random.Generator, draws: int, n: int) -> Floats:
        drawn = rng.integers(n, size=(draws, n), dtype=np.int32) + np.arange(draws, dtype=np.int32)[:, None] * n
        return np.bincount(drawn.ravel(), minlength=draws * n).reshape(draws, n).astype(np.float64)


def clusters(n_studies: Counts, n_participants: Counts) -> Ints:
    """What is drawn independently for a mean over studies: studies, or the participants of a single one."""
    studies, participants = np.asarray(n_studies, np.int64), np.asarray(n_participants, np.int64)
    return np.where(studies == 1, participants, studies)


def interval(values_BV: NDArray[np.float32], n_clusters: Counts, level: float = 0.95) -> tuple[Floats, Floats]:
    """Interval of each statistic [V]; NaN where there are fewer than two clusters, or no draw has a value.

    Percentiles, expanded for few clusters: those of the normal distribution at sqrt(n / (n - 1)) times the quantile of
    t with n - 1 degrees of freedom (Hesterberg 2015, "What teachers should know about the bootstrap"). Plain
    percentiles of four studies are much too narrow; of 150 both are nearly the same.
    """
    n_values = values_BV.shape[1]
    n = np.broadcast_to(np.asarray(n_clusters, np.float64), (n_values,))
    low, high = np.full(n_values, np.nan), np.full(n_values, np.nan)
    for at in np.flatnonzero((n > 1) & ~np.isnan(values_BV).all(axis=0)):
        tail = 100 * float(special.ndtr(special.stdtrit(n[at] - 1, 0.5 - level / 2) * np.sqrt(n[at] / (n[at] - 1))))
        low[at], high[at] = np.nanpercentile(values_BV[:, at], [tail, 100 - tail])
    return low, high
