"""The tables of effects: which comparisons and studies each row is over.

The formulas are in `over_studies` and `effects`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from psych_ray.config import Stage
from psych_ray.study import lineage
from psych_ray.study.comparison import Compared
from psych_ray.study.domains import Domains
from psych_ray.study.draws import Draws
from psych_ray.study.many_tests import benjamini_hochberg
from psych_ray.study.over_studies import Mask, OverStudies
from psych_ray.study.tallies import Tallies

NOT_IN_PERSONA = ("evangelidis2023upscaling", "gunadi2021deferral")
"""Studies that the authors leave out of the effect of persona."""
Rows = list[dict[str, Any]]
Groups = Sequence[tuple[dict[str, Any], list[int]]]
"""What a row is over, and the comparisons of it."""
_SIDES = {"mean_a": "nll_post", "mean_b": "nll_base", "sd_a": "sd_post", "sd_b": "sd_base"}


def pairs_by_study(effects: pl.DataFrame) -> pl.DataFrame:
    """`Findings.misalignment_by_study` without domains, from `comparison.effects_table`."""
    if effects.is_empty():
        return effects
    return effects.rename({"first": "post", "second": "base", "only_a": "only_post", "only_b": "only_base"} | _SIDES)


def contrasts_by_study(effects: pl.DataFrame) -> pl.DataFrame:
    """`Findings.contrasts_by_study`."""
    if effects.is_empty():
        return effects
    names = {"mean_a": "nll", "mean_b": "nll_reference", "only_a": "only_condition", "only_b": "only_reference"}
    return effects.rename({"first": "checkpoint"} | names)


def of_pairs(
    over: OverStudies, of: Compared, facts: pl.DataFrame, domains: Domains, studies: Sequence[str]
) -> Iterator[tuple[str, pl.DataFrame]]:
    """Tables of pairs of a post-trained checkpoint and its base."""
    known = facts_by_slug(facts)
    pairs = [
        {"post": one.first.checkpoint, "base": one.second.checkpoint, "condition": one.first.condition}
        | known[one.first.checkpoint]
        for one in of.comparisons
    ]
    everywhere = over.all_studies
    yield "misalignment", lineage.ordered(_effects(over, _each(pairs), everywhere), facts, checkpoint="post")
    stages = _grouped([pair | {"stage": _published_stage(pair["stage"])} for pair in pairs], "condition", "stage")
    yield "by_stage", lineage.stages_ordered(_effects(over, stages, everywhere))
    of_stages = _grouped(pairs, "condition", "family", "generation", "stage")
    yield "by_stage_and_generation", _in_order_of(_effects(over, of_stages, everywhere), facts)
    generations = _one_stage_each(of_stages)
    yield (
        "by_generation",
        _with_changes(over, _in_order_of(_effects(over, generations, everywhere), facts), generations),
    )
    yield "influence", _influence(over, stages, studies)
    yield from _by_domain(over, pairs, domains, studies)
    yield "behavioural", _behavioural(over, pairs, domains, studies)


def of_conditions(
    over: OverStudies, of: Compared, facts: pl.DataFrame, domains: Domains, studies: Sequence[str]
) -> Iterator[tuple[str, pl.DataFrame]]:
    """Tables of conditions against the reference."""
    known = facts_by_slug(facts)
    keys = [
        {"checkpoint": one.first.checkpoint, "condition": one.first.condition, "reference": one.second.condition}
        | known[one.first.checkpoint]
        for one in of.comparisons
    ]
    rows: Rows = []
    summary: Rows = []
    for name, mask in _subsets(domains, studies).items():
        published = name == "published"
        chosen = [(key, [at]) for at, key in enumerate(keys) if not published or key["condition"] == "persona"]
        for (key, members), row in zip(chosen, _rows(over, chosen, mask, population_sd=published), strict=True):
            if row is not None:
                used = mask & of.usable_CS[members[0]]
                difference = float(of.effects[members[0]].difference[used].mean())
                rows.append(key | row | {"studies": name, "difference": difference})
        staged = [(key, members) for key, members in chosen if key["stage"] is not None]
        sized = [(key, members) for key, members in chosen if key["stage"] is not None or key["size_b"] is not None]
        groups = [*_grouped(sized, "condition", "reference"), *_grouped(staged, "condition", "reference", "stage")]
        for (key, members), row in zip(groups, _rows(over, groups, mask, population_sd=published), strict=True):
            if row is not None:
                summary.append(
                    {"stage": None} | key | row | {"studies": name, "n_checkpoints": over.n_with_d(members, mask)}
                )
    yield "contrasts", lineage.ordered(_frame(rows), facts, then="studies")
    yield "contrast_summary", _frame(summary)


def accuracy(tallies: Tallies, of: Compared, drawn: Draws, facts: pl.DataFrame) -> pl.DataFrame:
    """`Findings.accuracy`."""
    known = facts_by_slug(facts)
    low, high = drawn.over_all_studies(drawn.accuracy["pairs"])
    rows: Rows = []
    for at, one in enumerate(of.comparisons):
        sums = {
            name: tallies.by_study(tallies.comparisons[one].sums[name]) for name in ("letters", "letter_a", "letter_b")
        }
        has = sums["letters"] > 0
        if not has.any():
            continue
        post, base = (sums[name][has] / sums["letters"][has] for name in ("letter_a", "letter_b"))
        rows.append(
            {"post": one.first.checkpoint, "base": one.second.checkpoint, "condition": one.first.condition}
            | known[one.first.checkpoint]
            | {"accuracy_post": post.mean(), "accuracy_base": base.mean(), "difference": (post - base).mean()}
            | {"low": low[at], "high": high[at], "n_studies": int(has.sum()), "n_letters": int(sums["letters"].sum())}
        )
    return lineage.ordered(_frame(rows), facts, checkpoint="post")


def transcript_differences(tallies: Tallies, of: Compared) -> pl.DataFrame:
    """`Findings.transcript_differences`."""
    frames = []
    for condition in dict.fromkeys(one.first.condition for one in of.comparisons):
        total, n_pairs, n_responses = (np.zeros(len(tallies.study_T)) for _ in range(3))
        for one in of.comparisons:
            if one.first.condition != condition:
                continue
            tally = tallies.comparisons[one]
            n_T = tally.sums["n"]
            centre_T = (tally.centres_S[0] - tally.centres_S[1])[tallies.study_T]
            total += np.where(n_T > 0, (tally.sums["a"] - tally.sums["b"]) / np.maximum(n_T, 1) + centre_T, 0)
            n_pairs += n_T > 0
            n_responses = np.maximum(n_responses, n_T)
        columns = {
            "difference": total / np.maximum(n_pairs, 1),
            "n_pairs": n_pairs.astype(np.int64),
            "n_responses": n_responses.astype(np.int64),
        }
        of_condition = tallies.transcripts.drop("n_responses").with_columns(
            pl.lit(condition).alias("condition"), **{name: pl.Series(values) for name, values in columns.items()}
        )
        frames.append(of_condition.filter(pl.col("n_pairs") > 0).sort(pl.col("difference").abs(), descending=True))
    return pl.concat(frames).sort(pl.col("condition") != "plain", maintain_order=True) if frames else pl.DataFrame()


def _by_domain(
    over: OverStudies, pairs: Rows, domains: Domains, studies: Sequence[str]
) -> Iterator[tuple[str, pl.DataFrame]]:
    rows: Rows = []
    cells: Rows = []
    masks = {
        domain: np.array([domains.of_study.get(study) == domain for study in studies], dtype=np.bool_)
        for domain in sorted({domains.of_study[study] for study in studies if study in domains.of_study})
    }
    for domain, mask in masks.items():
        about = {"domain": domain, "published": domain not in domains.not_in_heat_map}
        groups = _grouped(_each(pairs), "condition")
        for (key, members), row in zip(groups, _rows(over, groups, mask, population_sd=True), strict=True):
            if row is not None:
                rows.append(key | about | row | {"p": over.test(members, mask), "n_pairs": len(members)})
        for at, pair in enumerate(pairs):
            d = over.cohens_d(at, mask, population_sd=True)
            if len(d):
                key = {name: pair[name] for name in ("post", "base", "condition")}
                cells.append(key | about | {"d": d.mean(), "p": over.test([at], mask), "n_studies": len(d)})
    yield "by_domain", _adjusted(_frame(rows))
    yield "by_pair_and_domain", _adjusted(_frame(cells))


def _adjusted(rows: pl.DataFrame) -> pl.DataFrame:
    """With q, by Benjamini and Hochberg over the rows of a condition."""
    parts = rows.partition_by("condition", maintain_order=True) if rows.height else []
    adjusted = [
        part.with_columns(pl.Series("q", benjamini_hochberg(part["p"].to_list()), pl.Float64)) for part in parts
    ]
    return pl.concat(adjusted) if adjusted else rows


def _behavioural(over: OverStudies, pairs: Rows, domains: Domains, studies: Sequence[str]) -> pl.DataFrame:
    trained = [(key, members) for key, members in _each(pairs) if key["stage"] == Stage.behavioural.value]
    newer = np.array([study not in domains.psych101 for study in studies], dtype=np.bool_)
    rows: Rows = []
    for name, mask in (("all", over.all_studies), ("psych201", newer)):
        for (key, _), row in zip(trained, _rows(over, trained, mask, sign=-1), strict=True):
            if row is not None:
                rows.append(key | row | {"studies": name})
    return _frame(rows)


def _influence(over: OverStudies, stages: Groups, studies: Sequence[str]) -> pl.DataFrame:
    """D of a stage without each study; largest changes first."""
    rows: Rows = []
    for key, members in stages:
        whole = over.mean_d(members, over.all_studies)
        for at, study in enumerate(studies):
            others = over.all_studies
            others[at] = False
            without = over.mean_d(members, others)
            if whole is not None and without is not None and over.mean_d(members, ~others) is not None:
                rows.append(key | {"study": study, "d": whole, "d_without": without, "change": without - whole})
    frame = _frame(rows)
    return frame.sort(pl.col("change").abs(), descending=True, maintain_order=True) if rows else frame


def _subsets(domains: Domains, studies: Sequence[str]) -> Mapping[str, Mask]:
    """Studies over which conditions are contrasted, by name."""
    return {
        "all": np.ones(len(studies), np.bool_),
        "developmental": np.array([study in domains.developmental for study in studies], dtype=np.bool_),
        "published": np.array([study not in NOT_IN_PERSONA for study in studies], dtype=np.bool_),
    }


def _published_stage(stage: str | None) -> str | None:
    """The stage under which the authors count a pair: thinking vision checkpoints are vision."""
    return Stage.vision.value if stage == Stage.vision_reasoning.value else stage


def _one_stage_each(groups: Groups) -> Groups:
    """Of each generation the pairs of one stage: instruct, or else reasoning, or else the first."""
    order = [Stage.instruct.value, Stage.reasoning.value]
    chosen: dict[tuple[object, ...], tuple[dict[str, Any], list[int]]] = {}
    for key, members in sorted(groups, key=lambda group: [group[0]["stage"] != stage for stage in order]):
        chosen.setdefault((key["condition"], key["family"], key["generation"]), (key, members))
    return list(chosen.values())


def _with_changes(over: OverStudies, rows: pl.DataFrame, generations: Groups) -> pl.DataFrame:
    """With the change from the first generation of the family; null in the first."""
    members_of = {(key["condition"], key["family"], key["generation"]): members for key, members in generations}
    first: dict[tuple[str, str], list[int]] = {}
    changes = []
    for key in rows.select("condition", "family", "generation").iter_rows():
        before = first.setdefault(key[:2], members_of[key])
        own = members_of[key]
        changes.append({} if own is before else over.change(before, own))
    schema = dict.fromkeys(("change", "change_low", "change_high"), pl.Float64)
    return pl.concat([rows, pl.DataFrame(changes, schema=schema)], how="horizontal") if changes else rows


def facts_by_slug(facts: pl.DataFrame) -> Mapping[str, dict[str, Any]]:
    """family, generation, size_b and stage of each checkpoint."""
    columns = ("family", "generation", "size_b", "stage")
    return {row["checkpoint"]: {name: row[name] for name in columns} for row in facts.iter_rows(named=True)}


def _each(keys: Sequence[dict[str, Any]]) -> Groups:
    return [(key, [at]) for at, key in enumerate(keys)]


def _grouped(keys: Sequence[dict[str, Any]] | Groups, *by: str) -> Groups:
    """Comparisons that share `by`."""
    members: dict[tuple[Any, ...], list[int]] = {}
    for at, key in enumerate(keys):
        own, numbers = key if isinstance(key, tuple) else (key, [at])
        members.setdefault(tuple(own[name] for name in by), []).extend(numbers)
    return [(dict(zip(by, values, strict=True)), numbers) for values, numbers in members.items()]


def _rows(
    over: OverStudies, groups: Groups, mask: Mask, *, sign: float = 1.0, population_sd: bool = False
) -> list[dict[str, Any] | None]:
    return [over.effect(members, mask, sign=sign, population_sd=population_sd) for _, members in groups]


def _effects(over: OverStudies, groups: Groups, mask: Mask) -> pl.DataFrame:
    rows = zip(groups, _rows(over, groups, mask), strict=True)
    return _frame([key | row | {"n_pairs": over.n_with_d(members, mask)} for (key, members), row in rows if row])


def _frame(rows: Rows) -> pl.DataFrame:
    return pl.DataFrame(rows, infer_schema_length=None)


def _in_order_of(rows: pl.DataFrame, facts: pl.DataFrame) -> pl.DataFrame:
    """Rows by condition (plain first), then family, generation and stage in the order of `facts`."""
    rank = facts.unique(["family", "generation", "stage"], keep="first", maintain_order=True).with_row_index("rank")
    if rows.is_empty():
        return rows
    ranked = rows.join(rank.select("family", "generation", "stage", "rank"), on=["family", "generation", "stage"])
    return ranked.sort(pl.col("condition") != "plain", "condition", "rank").drop("rank")
