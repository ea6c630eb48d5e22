"""The findings in sentences, each with its numbers, derived from the tables and from nothing else.

Where the data say the opposite of what one expects, so does the sentence; where they say nothing, it says that. Plain
text, for the terminal as for the page.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from psych_ray.report.style import two_digits
from psych_ray.study import Findings
from psych_ray.transcripts.status import Status

_NOT_SCORED = {
    Status.cut: "beyond the cut",
    Status.empty: "empty",
    Status.altered: "altered by the chat template",
    Status.not_applicable: "with nothing for the condition to add",
}


def headlines(found: Findings) -> tuple[str, ...]:
    """What was found under the main condition, then what other conditions say; at least one sentence."""
    if found.main_condition is None:
        return ("No response has been read, so there is nothing to tell.",)
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
        yield (
            "No post-trained checkpoint can be compared with its base here, "
            "so nothing can be told about what post-training did."
        )
        return
    n, worse, better = len(d), int((d > 0).sum()), int((d < 0).sum())
    if worse > better:
        told = f"Base checkpoints predict people better than their post-trained descendants in {worse} of {n}"
    elif better > worse:
        told = f"Post-trained checkpoints predict people better than their bases in {better} of {n}"
    else:
        told = f"Base and post-trained checkpoints predict people better equally often, {worse} to {better} of {n}"
    yield f"{told} {_s(n, 'pair')} (mean d = {two_digits(_mean(d))})."


def _stages(found: Findings, condition: str) -> Iterator[str]:
    rows = _under(found.by_stage, condition).sort("d", descending=True, maintain_order=True)
    if rows.is_empty():
        return
    told = ", ".join(
        f"{stage.replace('_', ' ')} {_with_error(d, se)}"
        for stage, d, se in rows.select("stage", "d", "se").iter_rows()
    )
    yield f"Misalignment by stage (mean d ± standard error over studies): {told}."


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
        way = "grows" if change > 0 else "shrinks" if change < 0 else "stays the same,"
        start, *_, end = (_with_error(d, se) for _, _, d, se in steps)
        told = f"From {first} to {last} misalignment {way} from {start} to {end}"
        if between:
            told += f", by way of {', '.join(f'{name} {two_digits(d)}' for _, name, d, _ in between)}"
        if stages[family, first] != stages[family, last]:
            told += ", though not with the same stages"
        yield f"{told}."


def _best(found: Findings, condition: str) -> Iterator[str]:
    rows = _under(found.by_checkpoint, condition)
    special = pl.col("stage").is_null() & pl.col("size_b").is_null()
    lines, compared = rows.filter(special), rows.filter(~special)
    if compared.is_empty():
        lines, compared = compared, rows
    n_studies = _under(found.by_study, condition)["study"].n_unique()
    whole = compared.filter(pl.col("n_studies") == n_studies)
    if compared.height > 1 and whole.is_empty():
        yield f"No checkpoint is scored on all {n_studies} studies, so none is called the best."
        return
    if compared.is_empty():
        yield "No response is scored."
        return
    best = whole.sort("nll", maintain_order=True).row(0, named=True) if whole.height else compared.row(0, named=True)
    numbers = f"{two_digits(best['nll'])} nats per response"
    if best["accuracy"] is not None:
        numbers += f", accuracy {two_digits(best['accuracy'])}"
    others = "; ".join(f"{name} {two_digits(nll)}" for name, nll in lines.select("id", "nll").iter_rows())
    told = f"{numbers} (for comparison: {others})" if others else numbers
    if compared.height == 1:
        yield f"{best['id']}: {told}."
    else:
        which = f"{whole.height} checkpoints" + (
            f" scored on all {n_studies} studies" if whole.height < compared.height else ""
        )
        yield f"Of {which}, {best['id']} predicts people best: {told}."


def _other_conditions(found: Findings, main: str) -> Iterator[str]:
    for condition in found.conditions:
        d = _under(found.misalignment, condition)["d"]
        if condition != main and not d.is_empty():
            over = f"{len(d)} {_s(len(d), 'pair')}"
            yield f"Under the condition {condition}: mean d = {two_digits(_mean(d))} over {over}."


def _coverage(found: Findings, condition: str) -> Iterator[str]:
    sums = _under(found.coverage, condition).sum()
    asked, scored = int(sums["responses"][0]), int(sums["scored"][0])
    lost = [f"{sums[status.value][0]:,} {text}" for status, text in _NOT_SCORED.items() if sums[status.value][0]]
    what = f"{scored:,} of {asked:,} responses, counted once for each checkpoint, are scored"
    yield f"{what}; not scored: {', '.join(lost)}." if lost else f"{what}."


def _under(table: pl.DataFrame, condition: str) -> pl.DataFrame:
    return table.filter(pl.col("condition") == condition)


def _mean(values: pl.Series) -> float:
    return float(values.mean())  # type: ignore[arg-type]


def _with_error(d: float, se: float | None) -> str:
    return two_digits(d) if se is None else f"{two_digits(d)} ± {two_digits(se)}"


def _s(n: int, noun: str) -> str:
    return noun if n == 1 else f"{noun}s"
