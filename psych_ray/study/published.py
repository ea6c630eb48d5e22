"""The values that the study published beside those of a run, and whether the two can be compared.

Reads the other tables of a study, by the definitions of the study; which checkpoints each published value is a mean of
is data, `published.yaml`. Computes nothing from responses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import polars as pl
import yaml

from psych_ray.results.schema import CheckpointFacts
from psych_ray.study.domains import load_domains
from psych_ray.study.schemas import table
from psych_ray.study.tables import Findings
from psych_ray.transcripts.normalise import is_excluded
from psych_ray.transcripts.simulated import TASKS

ENOUGH_STUDIES = 0.9
"""Share of the test set's studies that a checkpoint must have been scored on."""


@dataclass(frozen=True, kw_only=True)
class _Value:
    """A published value, and what of the run is set beside it."""

    finding: str
    group: str
    published: float
    reading_error: float
    ids: Sequence[str]
    """The checkpoints that it is a mean of; of pairs the post-trained ones."""
    size_b: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """The run's value of the same thing, over those of the checkpoints that it has."""

    values: Sequence[float]
    """One of each checkpoint."""
    slugs: frozenset[str]
    """The checkpoints that were measured; of pairs both."""
    interval: tuple[float | None, float | None] = (None, None)
    reason: str | None = None
    """Why it is not comparable, besides checkpoints and data."""


def published(
    findings: Findings, checkpoints: Sequence[CheckpointFacts], *, parity: bool | None = None
) -> pl.DataFrame:
    """The table `published`: a row of each published value of which the run has a checkpoint.

    The verdict is `agrees` within the reading error, `differs` beyond it, and `not comparable`, with the reason, where
    the run has not all of the checkpoints, where their responses are not those of the test set, or where `parity`, the
    setting of the run, is false. The test set is taken to be there where a checkpoint was scored under plain on 90 % of
    its studies, with the test set's number of participants where that is known, and on at most 100 in every study.
    """
    slug_of = {facts.id.partition("@")[0]: facts.slug for facts in checkpoints}
    other_data = _other_data(findings.by_study)
    rows = []
    for value, measured in _both(findings, slug_of):
        if not measured.values:
            continue
        ours = sum(measured.values) / len(measured.values)
        reason = _not_comparable(value, measured, other_data, parity)
        low, high = measured.interval
        verdict, reason = _verdict(value, ours, low, high) if reason is None else ("not comparable", reason)
        rows.append(
            {
                "finding": value.finding,
                "group": value.group,
                "size_b": value.size_b,
                "value": ours,
                "low": low,
                "high": high,
                "published": value.published,
                "difference": ours - value.published,
                "reading_error": value.reading_error,
                "verdict": verdict,
                "reason": reason,
            }
        )
    return table("published", pl.DataFrame(rows, infer_schema_length=None))


def _verdict(value: _Value, ours: float, low: float | None, high: float | None) -> tuple[str, str | None]:
    if abs(ours - value.published) <= value.reading_error:
        return "agrees", None
    if low is None or high is None:
        return "differs", "by more than the reading error"
    if low - value.reading_error <= value.published <= high + value.reading_error:
        return "differs", "by more than the reading error; the interval of this run covers the published value"
    return "differs", "by more than the reading error, and the interval of this run does not cover the published value"


def _not_comparable(
    value: _Value, measured: _Measured, other_data: Mapping[str, str | None], parity: bool | None
) -> str | None:
    if len(measured.values) < len(value.ids):
        return f"the published value is of {len(value.ids)} checkpoints, of which this run has {len(measured.values)}"
    for slug in sorted(measured.slugs):
        if reason := other_data.get(slug, "it has no responses under plain"):
            return f"{slug}: {reason}"
    if parity is False:
        return "scored with scoring.parity=false, so other responses are cut off than in the study"
    return measured.reason


def _other_data(by_study: pl.DataFrame) -> dict[str, str | None]:
    """Of each checkpoint under plain, why its responses are not those of the test set; None: they are."""
    studies = {study for study in load_domains().of_study if study not in TASKS and not is_excluded(study)}
    known: Mapping[str, int] = _data()["participants"]
    at_most: int = _data()["at_most"]
    found: dict[str, str | None] = {}
    plain = by_study.filter(pl.col("condition") == "plain")
    for (slug,), rows in plain.group_by("checkpoint", maintain_order=True):
        participants = dict(rows.select("study", "n_participants").iter_rows())
        present = len(studies & participants.keys())
        reasons = [
            f"it has {present} of the {len(studies)} studies of the test set"
            * (present < ENOUGH_STUDIES * len(studies)),
            *(
                f"it has {n} participants of {study}, more than the test set" * (n > at_most)
                for study, n in participants.items()
            ),
            *(
                f"it has {participants[study]} participants of {study}, the test set has {n}"
                * (participants[study] != n)
                for study, n in known.items()
                if study in participants
            ),
        ]
        found[str(slug)] = next(filter(None, reasons), None)
    return found


def _both(findings: Findings, slug_of: Mapping[str, str]) -> Iterator[tuple[_Value, _Measured]]:
    yield from _checkpoints(findings, slug_of)
    yield from _pairs(findings, slug_of)
    yield _persona(findings, slug_of)
    for value in _values("behavioural", {(post, None): [post] for post in _data()["behavioural"]}):
        rows = findings.behavioural.filter((pl.col("studies") == "psych201") & (pl.col("condition") == "plain"))
        own = rows.filter(pl.col("post").is_in([slug_of.get(id_, id_) for id_ in value.ids]))
        yield value, _of_pairs(own)


def _checkpoints(findings: Findings, slug_of: Mapping[str, str]) -> Iterator[tuple[_Value, _Measured]]:
    """NLL under plain and accuracy under discrete, of checkpoints; accuracy under plain where the other is missing."""
    ids_of = {(group, size): ids for group, sizes in _data()["checkpoints"].items() for size, ids in sizes.items()}
    plain, discrete = (findings.by_checkpoint.filter(pl.col("condition") == name) for name in ("plain", "discrete"))
    swept = set(findings.coverage.filter(pl.col("condition") == "discrete")["checkpoint"])
    accuracy = pl.concat([discrete, plain]).filter(pl.col("accuracy").is_not_null())
    tables = {
        "nll": plain.select("checkpoint", "nll", "low", "high").drop_nulls("nll"),
        "accuracy": accuracy.unique("checkpoint", keep="first", maintain_order=True).select(
            "checkpoint", "accuracy", "accuracy_low", "accuracy_high"
        ),
    }
    for finding, rows in tables.items():
        for value in _values(finding, ids_of):
            own = rows.filter(pl.col("checkpoint").is_in([slug_of.get(id_, id_) for id_ in value.ids]))
            whole = finding == "nll" or swept >= set(own["checkpoint"])
            yield (
                value,
                _Measured(
                    values=own[finding].to_list(),
                    slugs=frozenset(own["checkpoint"]),
                    interval=own.row(0)[2:] if len(own) == 1 else (None, None),
                    reason=None if whole else "the condition discrete was not swept, in which the study has accuracy",
                ),
            )


def _pairs(findings: Findings, slug_of: Mapping[str, str]) -> Iterator[tuple[_Value, _Measured]]:
    """Cohen's d of pairs by stage, generation and domain."""
    by_pair = findings.misalignment.filter(pl.col("condition") == "plain")
    for finding, name in (("by_stage", "stage"), ("by_generation", "generation")):
        means = findings.tables()[finding].filter(pl.col("condition") == "plain")
        for value in _values(finding, {(group, None): _flat(_data()["pairs"][group]) for group in _data()[finding]}):
            own = by_pair.filter(pl.col("post").is_in([slug_of.get(id_, id_) for id_ in value.ids]))
            yield value, _of_pairs(own, means.filter(pl.col(name) == value.group))
    posts = _flat(_data()["pairs"]["by_domain"])
    cells = findings.by_pair_and_domain.filter(pl.col("condition") == "plain")
    domains = findings.by_domain.filter(pl.col("condition") == "plain")
    for value in _values("by_domain", {(domain, None): posts for domain in _data()["by_domain"]}):
        slugs = [slug_of.get(id_, id_) for id_ in value.ids]
        own = cells.filter(pl.col("post").is_in(slugs) & (pl.col("domain") == value.group))
        yield value, _of_pairs(own, domains.filter(pl.col("domain") == value.group))


def _persona(findings: Findings, slug_of: Mapping[str, str]) -> tuple[_Value, _Measured]:
    """Mean over checkpoints of the study's persona benefit, the negative of persona minus plain."""
    known = _data()["persona_benefit"]
    low, high = known["between"]
    value = _Value(
        finding="persona_benefit",
        group="all",
        published=(low + high) / 2,
        reading_error=_data()["reading_error"]["persona_benefit"],
        ids=known["checkpoints"],
    )
    contrast = (
        (pl.col("condition") == "persona") & (pl.col("reference") == "plain") & (pl.col("studies") == "published")
    )
    slugs = [slug_of.get(id_, id_) for id_ in value.ids]
    own = findings.contrasts.filter(contrast & pl.col("checkpoint").is_in(slugs) & pl.col("d").is_not_null())
    mean = findings.contrast_summary.filter(contrast & pl.col("stage").is_null())
    interval: tuple[float | None, float | None] = (None, None)
    if _same_mean(own, mean, "n_checkpoints") and mean["low"][0] is not None:
        interval = -mean["high"][0], -mean["low"][0]
    return value, _Measured(values=(-own["d"]).to_list(), slugs=frozenset(own["checkpoint"]), interval=interval)


def _of_pairs(own: pl.DataFrame, means: pl.DataFrame | None = None) -> _Measured:
    """`own`: a row of each pair; `means`: the rows of which one may be their mean, with its interval."""
    own = own.filter(pl.col("d").is_not_null())
    row = own if means is None else means
    same = len(own) == 1 if means is None else _same_mean(own, means, "n_pairs")
    interval = row.select("low", "high").row(0) if same else (None, None)
    return _Measured(values=own["d"].to_list(), slugs=frozenset([*own["post"], *own["base"]]), interval=interval)


def _same_mean(own: pl.DataFrame, means: pl.DataFrame, count: str) -> bool:
    """Whether `means` is one row, the mean of exactly the rows of `own`."""
    if len(means) != 1 or len(own) == 0 or means[count][0] != len(own) or means["d"][0] is None:
        return False
    difference: float = own["d"].sum() / len(own) - means["d"][0]
    return abs(difference) < 1e-9


def _values(finding: str, ids_of: Mapping[tuple[str, float | None], Sequence[str]]) -> Iterator[_Value]:
    """The published values of a finding; `ids_of`: checkpoints by group and size."""
    errors = _data()["reading_error"]
    for group, value in _data()[finding].items():
        for size, one in value.items() if isinstance(value, dict) else [(None, value)]:
            yield _Value(
                finding=finding,
                group=group,
                size_b=None if size is None else float(size),
                published=one,
                reading_error=errors["misalignment"] if finding.startswith("by_") else errors[finding],
                ids=ids_of[group, size],
            )


def _flat(ids: Sequence[Any]) -> list[str]:
    return [each for one in ids for each in (_flat(one) if isinstance(one, list) else [one])]


@cache
def _data() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(
        resources.files("psych_ray.study").joinpath("published.yaml").read_text("utf-8")
    )
    return found
