"""The results in sentences with their numbers, derived from the tables alone.

Plain text, for the terminal and the page. No sentence assumes a direction of an effect.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from psych_ray.report.style import two_decimals
from psych_ray.study import Findings
from psych_ray.transcripts.status import Status

_NOT_SCORED = {
    Status.cut: "beyond the cut",
    Status.empty: "empty",
    Status.altered: "altered by the chat template",
    Status.not_applicable: "to which the condition does not apply",
}


def headlines(found: Findings) -> tuple[str, ...]:
    """Results under the main condition, then under the others; at least one sentence."""
    if found.main_condition is None:
        return ("There are no responses.",)
    main = found.main_condition
    return (
        *_pairs(found, main),
        *_stages(found, main),
        *_generations(found, main),
        *_best(found, main),
        *_other_conditions(found, main),
        *_coverage(found, main),
    )


def _pairs(found: Findings, condition: str) -> Iterator[str]:
    d = _under(found.misalignment, condition)["d"]
    if d.is_empty():
        yield "No post-trained checkpoint could be compared with its base."
        return
    n, positive, negative = len(d), int((d > 0).sum()), int((d < 0).sum())
    pairs, mean = _plural(n, "pair"), f"mean d = {two_decimals(_mean(d))}"
    if positive > negative:
        count = f"{positive} of {n} {pairs}"
        yield f"In {count} the base predicts people's responses better than its post-trained checkpoint ({mean})."
    elif negative > positive:
        count = f"{negative} of {n} {pairs}"
        yield f"In {count} the post-trained checkpoint predicts people's responses better than its base ({mean})."
    else:
        both = f"the base predicts people's responses better in {positive}, the post-trained checkpoint in {negative}"
        yield f"Of {n} {pairs}, {both} ({mean})."


def _stages(found: Findings, condition: str) -> Iterator[str]:
    rows = _under(found.by_stage, condition).sort("d", descending=True, maintain_order=True)
    if rows.is_empty():
        return
    means = ", ".join(
        f"{stage.replace('_', ' ')} {_with_error(d, se)}"
        for stage, d, se in rows.select("stage", "d", "se").iter_rows()
    )
    yield f"Misalignment by stage (mean d ± standard error over studies): {means}."


def _generations(found: Findings, condition: str) -> Iterator[str]:
    known = pl.col("generation") != "unknown"
    stages = {
        (family, generation): rows["stage"].to_list()
        for (family, generation), rows in _under(found.by_stage_and_generation, condition).group_by(
            ["family", "generation"], maintain_order=True
        )
    }
    for rows in _under(found.by_generation, condition).filter(known).partition_by("family", maintain_order=True):
        if rows.height < 2:
            continue
        (family, first, before, _), *between, (_, last, after, _) = steps = list(
            rows.select("family", "generation", "d", "se").iter_rows()
        )
        change = round(after, 2) - round(before, 2)
        verb = "rises" if change > 0 else "falls" if change < 0 else "does not change,"
        start, *_, end = (_with_error(d, se) for _, _, d, se in steps)
        sentence = f"From {first} to {last}, mean d {verb} from {start} to {end}"
        if between:
            sentence += f" (between them: {', '.join(f'{name} {two_decimals(d)}' for _, name, d, _ in between)})"
        if stages[family, first] != stages[family, last]:
            sentence += "; the stages of their pairs differ"
        yield f"{sentence}."


def _best(found: Findings, condition: str) -> Iterator[str]:
    rows = _under(found.by_checkpoint, condition)
    reference = pl.col("stage").is_null() & pl.col("size_b").is_null()
    references, compared = rows.filter(reference), rows.filter(~reference)
    if compared.is_empty():
        references, compared = compared, rows
    n_studies = _under(found.by_study, condition)["study"].n_unique()
    complete = compared.filter(pl.col("n_studies") == n_studies)
    if compared.height > 1 and complete.is_empty():
        yield f"No checkpoint has a mean NLL in all {n_studies} studies, so checkpoints are not ranked."
        return
    if compared.is_empty():
        yield "No response is scored."
        return
    best = (
        complete.sort("nll", maintain_order=True).row(0, named=True) if complete.height else compared.row(0, named=True)
    )
    numbers = f"{two_decimals(best['nll'])} nats per response"
    if best["accuracy"] is not None:
        numbers += f", accuracy {two_decimals(best['accuracy'])}"
    others = "; ".join(f"{name} {two_decimals(nll)}" for name, nll in references.select("id", "nll").iter_rows())
    result = f"{numbers} (for comparison: {others})" if others else numbers
    if compared.height == 1:
        yield f"{best['id']}: {result}."
    else:
        which = f"{complete.height} checkpoints" + (
            f" scored on all {n_studies} studies" if complete.height < compared.height else ""
        )
        yield f"Of {which}, {best['id']} has the lowest NLL: {result}."


def _other_conditions(found: Findings, main: str) -> Iterator[str]:
    for condition in found.conditions:
        d = _under(found.misalignment, condition)["d"]
        if condition != main and not d.is_empty():
            over = f"{len(d)} {_plural(len(d), 'pair')}"
            yield f"Under the condition {condition}: mean d = {two_decimals(_mean(d))} over {over}."


def _coverage(found: Findings, condition: str) -> Iterator[str]:
    sums = _under(found.coverage, condition).sum()
    n_responses, scored = int(sums["responses"][0]), int(sums["scored"][0])
    not_scored = [f"{sums[status.value][0]:,} {text}" for status, text in _NOT_SCORED.items() if sums[status.value][0]]
    what = f"{scored:,} of {n_responses:,} responses, counted once for each checkpoint, are scored"
    yield f"{what}; not scored: {', '.join(not_scored)}." if not_scored else f"{what}."


def _under(table: pl.DataFrame, condition: str) -> pl.DataFrame:
    return table.filter(pl.col("condition") == condition)


def _mean(values: pl.Series) -> float:
    return float(values.mean())  # type: ignore[arg-type]


def _with_error(d: float, se: float | None) -> str:
    return two_decimals(d) if se is None else f"{two_decimals(d)} ± {two_decimals(se)}"


def _plural(n: int, noun: str) -> str:
    return noun if n == 1 else f"{noun}s"
