"""The results in a few sentences, for the terminal and the top of the page: those of the first findings.

Plain text. No sentence says more than its interval allows: see `findings.wording`.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from psych_ray.report import findings
from psych_ray.study.tables import Findings
from psych_ray.transcripts.status import Status

_NOT_SCORED = {
    Status.cut: "beyond the cut",
    Status.empty: "empty",
    Status.altered: "altered by the chat template",
    Status.not_applicable: "to which the condition does not apply",
}
_OF = {
    "misalignment_by_stage": 7,
    "generations": 3,
    "nll_by_size": 1,
    "chat": 1,
    "persona": 1,
    "behavioural": 2,
    "overconfidence": 2,
}
"""Sentences by finding, at most."""


def headlines(found: Findings) -> tuple[str, ...]:
    """Results under the main condition, then contrasts with the others; at least one sentence."""
    if found.main_condition is None:
        return ("There are no responses.",)
    by_name = {finding.name: finding for finding in findings.ALL}
    sentences = [statement.text for name, most in _OF.items() for statement in by_name[name].statements(found)[:most]]
    if found.in_main_condition(found.misalignment).is_empty():
        sentences.insert(0, "No post-trained checkpoint could be compared with its base.")
    return (*sentences, *_coverage(found, found.main_condition))


def _coverage(found: Findings, condition: str) -> Iterator[str]:
    sums = found.coverage.filter(pl.col("condition") == condition).sum()
    n_responses, scored = int(sums["responses"][0]), int(sums["scored"][0])
    not_scored = [f"{sums[status.value][0]:,} {text}" for status, text in _NOT_SCORED.items() if sums[status.value][0]]
    what = f"{scored:,} of {n_responses:,} responses, counted once for each checkpoint, are scored"
    yield f"{what}; not scored: {', '.join(not_scored)}." if not_scored else f"{what}."
