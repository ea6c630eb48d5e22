"""Made-up findings of a plausible study, so that the report is tested without scoring anything.

Every number follows from a seed; they are numbers of the right kind, not results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from psych_ray.study.schemas import SCHEMAS, table
from psych_ray.study.tables import Findings
from psych_ray.transcripts.status import Status

DOMAINS = (
    "Reinforcement Learning",
    "Risky Choice",
    "Memory",
    "Categorization",
    "Reasoning",
    "Psycholinguistics",
    "Economic Games",
)
EFFECTS = {"instruct": 0.11, "reasoning": 0.17, "vision": 0.01, "behavioural": -0.25}
REFERENCES = ("chance", "frequencies", "simulator")


@dataclass(frozen=True)
class Made:
    """A checkpoint."""

    slug: str
    family: str = "unknown"
    generation: str = "unknown"
    size_b: float | None = None
    stage: str | None = None
    base: str | None = None


def made_checkpoints(families: int = 2, generations: int = 2, sizes: Sequence[float] = (0.6, 4, 14)) -> list[Made]:
    """Base, instruct, reasoning and vision of each size and generation; one behavioural; references."""
    made = []
    for family in [f"family{chr(97 + at)}" for at in range(families)]:
        for number in range(1, generations + 1):
            generation = f"{family}-{number}"
            for stage in ("base", "instruct", "reasoning", "vision"):
                for size in sizes[:1] if stage == "vision" else sizes:
                    name = f"{generation}-{size:g}b"
                    base = None if stage == "base" else f"{name}-base"
                    made.append(Made(f"{name}-{stage}", family, generation, size, stage, base))
    first = made[0]
    made.append(Made("centaur", first.family, first.generation, first.size_b, "behavioural", first.slug))
    return [*made, *(Made(name) for name in REFERENCES)]


def made_findings(
    *,
    checkpoints: Sequence[Made] | None = None,
    n_studies: int = 13,
    conditions: Sequence[str] = ("plain", "chat", "persona", "discrete"),
    studies: Sequence[str] | None = None,
    seed: int = 5,
) -> Findings:
    """All tables, filled."""
    maker = _Maker(list(checkpoints or made_checkpoints()), n_studies, conditions, studies, seed)
    return Findings(**{name: maker.table(name) for name in SCHEMAS})


def minimal_findings() -> Findings:
    """One checkpoint, one study, no pair."""
    maker = _Maker([Made("only", "f", "f-1", 1.0, "base")], 1, ("plain",), None, 1)
    return Findings(**{name: maker.table(name) for name in ("coverage", "by_study", "by_checkpoint")})


class _Maker:
    """One method per table, which yields its rows."""

    def __init__(
        self, made: list[Made], n_studies: int, conditions: Sequence[str], studies: Sequence[str] | None, seed: int
    ) -> None:
        self.random = np.random.default_rng(seed)
        self.made, self.conditions = made, list(conditions)
        self.by_slug = {one.slug: one for one in made}
        names = [f"author{20 + at}{('choice', 'memory', 'bandit')[at % 3]}" for at in range(n_studies)]
        self.studies = list(studies) if studies is not None else names
        self.chance = {study: float(self.random.uniform(0.6, 2.6)) for study in self.studies}
        self.shift = {study: float(self.random.normal(0, 0.08)) for study in self.studies}
        self.pairs = [one for one in made if one.base is not None]
        self.nll = {
            (one.slug, study): self._mean_nll(one, study)
            for one in made
            for study in self.studies
            if self._has(one, study)
        }

    def table(self, name: str) -> pl.DataFrame:
        rows = list(getattr(self, f"_{name}")())
        return table(name, pl.DataFrame(rows, infer_schema_length=None)) if rows else table(name, pl.DataFrame())

    def _has(self, one: Made, study: str) -> bool:
        return one.slug != "simulator" or study in self.studies[:2]

    def _mean_nll(self, one: Made, study: str) -> float:
        chance = self.chance[study]
        if one.slug == "chance":
            return chance
        skill = {"frequencies": 0.1, "simulator": 0.5}.get(one.slug, 0.3 + 0.05 * np.log2(one.size_b or 1))
        worse = 0.5 * (EFFECTS.get(one.stage or "", 0.0) + (self.shift[study] if one.base else 0))
        return float(chance * (1 - skill) + worse + self.random.normal(0, 0.03))

    def _domain(self, study: str) -> str:
        return DOMAINS[self.studies.index(study) % len(DOMAINS)]

    def _facts(self, one: Made) -> dict[str, Any]:
        return {"family": one.family, "generation": one.generation, "size_b": one.size_b, "stage": one.stage}

    def _pair(self, one: Made) -> dict[str, Any]:
        return {"post": one.slug, "base": one.base, "condition": "plain"}

    def _interval(self, value: float, se: float, low: str = "low", high: str = "high") -> dict[str, float]:
        return {low: value - 2 * se, high: value + 2 * se}

    def _effect(self, d: float, spread: float = 0.1, n_studies: int | None = None) -> dict[str, Any]:
        n = n_studies or len(self.studies)
        if n < 2:
            return {"d": d, "n_studies": n, "n_positive": int(d > 0), "n_participants": 60, "n_responses": 6_000}
        se = spread / np.sqrt(n)
        return {
            "d": d,
            "se": se,
            **self._interval(d, se),
            "re_d": d * 0.95,
            **self._interval(d * 0.95, 1.1 * se, "re_low", "re_high"),
            "tau": spread,
            **self._interval(d * 0.95, spread, "pi_low", "pi_high"),
            "n_positive": int(n * (0.8 if d > 0.05 else 0.4)),
            "p_sign": 0.02 if d > 0.05 else 0.6,
            "n_studies": n,
            "n_participants": 60 * n,
            "n_responses": 6_000 * n,
        }

    def _d(self, one: Made) -> float:
        later = 0.05 if one.generation.endswith("2") else 0.0
        return float(EFFECTS.get(one.stage or "", 0) + later + self.random.normal(0, 0.02))

    def _coverage(self) -> Iterator[dict[str, Any]]:
        n = len(self.studies)
        for condition in self.conditions:
            for one in self.made:
                scored = dict.fromkeys((status.value for status in Status), 0) | {"scored": 5_900 * n, "cut": 100 * n}
                row = {"checkpoint": one.slug, "condition": condition, "studies": n, "transcripts": 60 * n}
                yield row | {"responses": 6_000 * n, **scored}

    def _by_study(self) -> Iterator[dict[str, Any]]:
        for condition in self.conditions:
            for (slug, study), plain in self.nll.items():
                nll = plain + (0.1 if condition == "chat" else 0)
                chance = self.chance[study]
                yield {
                    "checkpoint": slug,
                    "condition": condition,
                    "study": study,
                    "domain": self._domain(study),
                    "n_responses": 5_900,
                    "n_participants": 60,
                    "nll": nll,
                    "se": 0.02,
                    "sd": 0.9,
                    "accuracy": 0.8 - 0.2 * nll,
                    "n_letters": 4_000,
                    "top1": 0.78 - 0.2 * nll,
                    "chance": chance,
                    "pseudo_r2": 1 - nll / chance,
                    "below_chance": nll > chance,
                }

    def _by_checkpoint(self) -> Iterator[dict[str, Any]]:
        for condition in self.conditions:
            for one in self.made:
                values = [nll for (slug, _), nll in self.nll.items() if slug == one.slug]
                nll, n = float(np.mean(values)), len(values)
                known = n > 1
                yield {
                    "checkpoint": one.slug,
                    "id": f"org/{one.slug}",
                    **self._facts(one),
                    "base": one.base,
                    "condition": condition,
                    "nll": nll,
                    **(self._interval(nll, 0.12) if known else {}),
                    "accuracy": 0.8 - 0.2 * nll,
                    **(self._interval(0.8 - 0.2 * nll, 0.02, "accuracy_low", "accuracy_high") if known else {}),
                    "pseudo_r2": 0.3,
                    "n_studies": n,
                    "n_responses": 5_900 * n,
                    "n_letters": 4_000 * n,
                }

    def _misalignment_by_study(self) -> Iterator[dict[str, Any]]:
        for one in self.pairs:
            for study in self.studies:
                post, base = self.nll[one.slug, study], self.nll[one.base or "", study]
                d, se = (post - base) / 0.9, 0.03 + 0.05 * float(self.random.random())
                yield {
                    **self._pair(one),
                    "study": study,
                    "domain": self._domain(study),
                    "d": d,
                    "se": se,
                    **self._interval(d, se),
                    "d_z": 1.3 * d,
                    "difference": post - base,
                    "difference_se": 0.9 * se,
                    "difference_se_naive": 0.3 * se,
                    "nll_post": post,
                    "nll_base": base,
                    "sd_post": 0.95,
                    "sd_base": 0.85,
                    "n_participants": 60,
                    "n_responses": 5_900,
                    "only_post": 0,
                    "only_base": 12,
                }

    def _misalignment(self) -> Iterator[dict[str, Any]]:
        for one in self.pairs:
            yield {**self._pair(one), **self._facts(one), **self._effect(self._d(one))}

    def _means(self, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
        groups: dict[tuple[Any, ...], list[Made]] = {}
        for one in self.pairs:
            groups.setdefault(tuple(self._facts(one)[key] for key in keys), []).append(one)
        for values, members in groups.items():
            d = float(np.mean([self._d(one) for one in members]))
            own = dict(zip(keys, values, strict=True))
            yield {"condition": "plain", **own, **self._effect(d), "n_pairs": len(members)}

    def _by_stage(self) -> Iterator[dict[str, Any]]:
        yield from self._means(["stage"])

    def _by_generation(self) -> Iterator[dict[str, Any]]:
        first: dict[str, float] = {}
        for row in self._means(["family", "generation", "stage"]):
            if row["stage"] == "instruct":
                before = first.setdefault(row["family"], row["d"])
                change = row["d"] - before
                changes = {"change": change, "change_low": change - 0.05, "change_high": change + 0.05}
                yield row | (changes if change else {})

    def _by_stage_and_generation(self) -> Iterator[dict[str, Any]]:
        yield from self._means(["family", "generation", "stage"])

    def _domain_rows(self, spread: float) -> Iterator[dict[str, Any]]:
        for at, domain in enumerate(dict.fromkeys(self._domain(study) for study in self.studies)):
            d = 0.02 + 0.03 * at + float(self.random.normal(0, spread))
            p = min(1.0, float(np.exp(-((d / 0.03) ** 2))))
            n = sum(self._domain(study) == domain for study in self.studies)
            yield {
                "domain": domain,
                **self._effect(d, n_studies=n),
                "p": p,
                "q": min(1.0, 1.6 * p),
                "published": at % 3 != 2,
            }

    def _by_domain(self) -> Iterator[dict[str, Any]]:
        for row in self._domain_rows(0.01):
            yield {"condition": "plain", **row, "n_pairs": len(self.pairs)}

    def _by_pair_and_domain(self) -> Iterator[dict[str, Any]]:
        for one in self.pairs:
            for row in self._domain_rows(0.06):
                yield {**self._pair(one), **row}

    def _accuracy(self) -> Iterator[dict[str, Any]]:
        for one in self.pairs:
            difference = -0.2 * EFFECTS.get(one.stage or "", 0) + float(self.random.normal(0, 0.01))
            yield {
                **self._pair(one),
                **self._facts(one),
                "accuracy_post": 0.66 + difference,
                "accuracy_base": 0.66,
                "difference": difference,
                **self._interval(difference, 0.008),
                "n_studies": len(self.studies),
                "n_letters": 4_000 * len(self.studies),
            }

    def _contrasts_by_study(self) -> Iterator[dict[str, Any]]:
        for condition in [name for name in self.conditions if name in ("chat", "persona")]:
            for one in self.made[:4]:
                for study in self.studies:
                    d = (0.12 if condition == "chat" else 0.0) + self.shift[study]
                    row = {"checkpoint": one.slug, "condition": condition, "reference": "plain", "study": study}
                    yield row | {"d": d, "se": 0.03, "difference": d, "n_participants": 60, "n_responses": 5_900}

    def _contrast_rows(self, d: float, condition: str) -> Iterator[dict[str, Any]]:
        for studies in ("all", "developmental", "published") if condition == "persona" else ("all",):
            n = 3 if studies == "developmental" else len(self.studies)
            row = {"condition": condition, "reference": "plain", "studies": studies}
            yield row | self._effect(d + float(self.random.normal(0, 0.01)), n_studies=min(n, len(self.studies)))

    def _contrasts(self) -> Iterator[dict[str, Any]]:
        for condition in [name for name in self.conditions if name in ("chat", "persona")]:
            for one in self.made:
                if one.stage is not None:
                    d = (0.02 if one.stage == "base" else 0.12) if condition == "chat" else 0.0
                    for row in self._contrast_rows(d, condition):
                        yield {"checkpoint": one.slug, **self._facts(one), **row, "difference": row["d"]}

    def _contrast_summary(self) -> Iterator[dict[str, Any]]:
        stages = dict.fromkeys(one.stage for one in self.made if one.stage is not None)
        for condition in [name for name in self.conditions if name in ("chat", "persona")]:
            for stage in (None, *stages):
                d = (0.02 if stage == "base" else 0.12) if condition == "chat" else 0.0
                n = sum(stage in (None, one.stage) for one in self.made)
                for row in self._contrast_rows(d, condition):
                    yield {"stage": stage, **row, "n_checkpoints": n}

    def _behavioural(self) -> Iterator[dict[str, Any]]:
        for one in self.pairs:
            if one.stage == "behavioural":
                for studies in ("all", "psych201"):
                    yield {**self._pair(one), "studies": studies, **self._effect(0.25)}

    def _calibration(self) -> Iterator[dict[str, Any]]:
        for one in self.made:
            if one.stage is not None:
                post = one.base is not None
                yield {
                    "checkpoint": one.slug,
                    "condition": "plain",
                    "nll": 1.1,
                    "temperature": 1.7 if post else 1.1,
                    "nll_tempered": 0.95,
                    "leak": 0.05,
                    "nll_within": 1.05,
                    "brier": 0.5,
                    "ece": 0.12 if post else 0.04,
                    "confidence": 0.75,
                    "accuracy": 0.63,
                    "n_studies": len(self.studies),
                    "n_choices": 4_000 * len(self.studies),
                }

    def _calibration_by_study(self) -> Iterator[dict[str, Any]]:
        for row in self._calibration():
            for study in self.studies:
                yield {**row, "study": study, "n_responses": 5_900, "n_choices": 4_000}

    def _calibration_curve(self) -> Iterator[dict[str, Any]]:
        for one in self.made:
            if one.stage is None:
                continue
            for bin_ in range(2, 11):
                confidence = bin_ / 10 - 0.05
                gap = (confidence - 0.2) * (0.08 + 0.8 * abs(EFFECTS.get(one.stage or "", 0)))
                row = {"checkpoint": one.slug, "condition": "plain", "bin": bin_, "confidence": confidence}
                yield row | {"share_chosen": confidence - gap, "n_choices": 400 * bin_}

    def _overconfidence(self) -> Iterator[dict[str, Any]]:
        for one in self.pairs:
            whole = 0.6 * self._d(one)
            yield {
                **self._pair(one),
                **self._facts(one),
                "misalignment": whole,
                **self._interval(whole, 0.02),
                "repaired": 0.6 * whole,
                **self._interval(0.6 * whole, 0.015, "repaired_low", "repaired_high"),
                "remaining": 0.4 * whole,
                **self._interval(0.4 * whole, 0.015, "remaining_low", "remaining_high"),
                "leak": 0.2 * whole,
                "within": 0.8 * whole,
                "n_studies": len(self.studies),
            }

    def _by_decile(self) -> Iterator[dict[str, Any]]:
        for one in self.made:
            for decile in range(1, 11):
                learnt = 0.25 * (1 - np.exp(-decile / 3))
                nll = 1.2 if one.slug == "chance" else 1.3 - learnt + 0.6 * EFFECTS.get(one.stage or "", 0)
                row = {"checkpoint": one.slug, "condition": "plain", "decile": decile, "nll": nll}
                if decile == 10:
                    row |= {"change": -0.17, "change_low": -0.25, "change_high": -0.09}
                yield row | self._interval(nll, 0.05) | {"n_studies": len(self.studies), "n_responses": 9_000}

    def _by_length(self) -> Iterator[dict[str, Any]]:
        for one in self.made:
            for length in ("1-9", "10-99", "100 or more"):
                row = {"checkpoint": one.slug, "condition": "plain", "length": length, "nll": 1.1, "se": 0.02}
                yield row | {"n_studies": 4, "n_participants": 100, "n_responses": 9_000}

    def _by_experiment(self) -> Iterator[dict[str, Any]]:
        for one in self.made[:3]:
            for experiment in ("exp1", "exp2"):
                row = {"checkpoint": one.slug, "condition": "plain", "study": self.studies[0], "experiment": experiment}
                yield row | {"nll": 1.0, "se": 0.02, "n_participants": 30, "n_responses": 3_000}

    def _by_group(self) -> Iterator[dict[str, Any]]:
        groups = (
            ("age", "under 18", 0.09),
            ("age", "18 to 29", -0.01),
            ("age", "30 to 59", -0.03),
            ("age", "60 or more", 0.05),
            ("gender", "female", 0.004),
            ("gender", "male", -0.004),
            ("diagnosis", "depression", 0.03),
        )
        for one in self.made:
            for field, value, difference in groups:
                own = difference + float(self.random.normal(0, 0.01))
                row = {"checkpoint": one.slug, "condition": "plain", "field": field, "value": value, "nll": 1.1}
                n = {"n_compared": 6, "n_studies": 6, "n_participants": 200, "n_responses": 20_000}
                yield row | {"difference": own, "se": 0.015} | n

    def _reaction_times(self) -> Iterator[dict[str, Any]]:
        for one in self.made[:6]:
            for at, study in enumerate(self.studies[:8]):
                r = 0.02 * at + float(self.random.normal(0, 0.01))
                row = {"checkpoint": one.slug, "condition": "plain", "study": study, "r": r}
                yield row | self._interval(r, 0.02) | {"n_participants": 60, "n_responses": 5_900}
            over_all = {"checkpoint": one.slug, "condition": "plain", "study": None, "r": 0.07}
            yield over_all | self._interval(0.07, 0.01) | {"n_participants": 480, "n_responses": 47_200}

    def _influence(self) -> Iterator[dict[str, Any]]:
        for stage in dict.fromkeys(one.stage for one in self.pairs):
            d = EFFECTS[stage or ""]
            for study in self.studies:
                change = -self.shift[study] / max(len(self.studies), 1)
                row = {"condition": "plain", "stage": stage, "study": study, "d": d}
                yield row | {"d_without": d + change, "change": change}

    def _mixed_model(self) -> Iterator[dict[str, Any]]:
        for term, estimate in (("intercept", 1.2), ("stage instruct", 0.1), ("log size", -0.08)):
            row = {"condition": "plain", "term": term, "estimate": estimate, "se": 0.02}
            yield row | self._interval(estimate, 0.02) | {"p": 0.001, "n_rows": 500}

    def _transcript_differences(self) -> Iterator[dict[str, Any]]:
        for at, study in enumerate(self.studies):
            row = {"condition": "plain", "study": study, "experiment": "exp", "participant": str(at)}
            counts = {"n_pairs": len(self.pairs), "n_responses": 100}
            yield row | {"transcript": f"t{at}", "difference": 1.0 / (at + 1)} | counts

    def _published(self) -> Iterator[dict[str, Any]]:
        rows = (
            ("misalignment by stage", "instruct", None, 0.12, 0.11, "agrees", None),
            ("misalignment by stage", "reasoning", None, 0.19, 0.14, "differs", "beyond the reading error"),
            ("NLL", "familya-1 base", 4.0, 1.33, 1.71, "not comparable", "13 of 157 studies"),
            ("NLL", "familya-1 base", 14.0, 1.28, 1.625, "not comparable", "13 of 157 studies"),
            ("accuracy", "familya-1 base", 4.0, 0.69, 0.698, "agrees", None),
            ("centaur", "centaur", None, None, 0.28, "not comparable", "not in this run"),
        )
        for finding, group, size, value, published, verdict, reason in rows:
            yield {
                "finding": finding,
                "group": group,
                "size_b": size,
                "value": value,
                **(self._interval(value, 0.02) if value is not None else {}),
                "published": published,
                "difference": None if value is None else value - published,
                "reading_error": 0.01,
                "verdict": verdict,
                "reason": reason,
            }

    def _skipped(self) -> Iterator[dict[str, Any]]:
        yield {"checkpoint": self.made[0].slug, "condition": None, "study": None, "reason": "its base is unknown"}
