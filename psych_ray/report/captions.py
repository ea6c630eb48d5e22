"""Captions of the figures: the definition of the metric, then what is in the figure and what is not.

A caption describes the figure; results are in the headlines.
"""

from __future__ import annotations

from psych_ray.report.nll_figure import reference_checkpoints, sized_checkpoints
from psych_ray.study import Findings

_D = (
    "Cohen's d of a pair: in each study, mean NLL of the post-trained checkpoint minus that of its base over the "
    "responses scored in both, divided by the root mean square of the two standard deviations; then the mean over "
    "studies. Above zero, the NLL of the post-trained checkpoint is higher than that of its base."
)


def nll_by_size(found: Findings) -> str:
    """Caption of the figure of NLL against size."""
    rows, lines = sized_checkpoints(found), reference_checkpoints(found)
    sentences = [
        "Negative log-likelihood of people's responses, in nats per response: the mean over the responses of a study, "
        "then over studies. Lower is better: people's responses have a higher probability."
    ]
    if lines.height:
        noun = "Dashed lines" if lines.height > 1 else "Dashed line"
        sentences.append(f"{noun}: {', '.join(lines['id'])}, without stage and size.")
    in_tables_only = found.in_main_condition(found.by_checkpoint).height - rows.height - lines.height
    if in_tables_only:
        noun = "checkpoint is" if in_tables_only == 1 else "checkpoints are"
        sentences.append(f"{in_tables_only} {noun} in the tables only.")
    return " ".join([*sentences, *_condition(found)])


def misalignment_by_stage(found: Findings) -> str:
    """Caption of the figure of d by stage."""
    markers = (
        "Large markers: mean over the pairs of a stage, with the standard error over studies. Small markers: the "
        "pairs, where there are several."
    )
    return " ".join([_D, markers, *_condition(found)])


def misalignment_by_generation(found: Findings) -> str:
    """Caption of the figure of d by generation."""
    text = (
        "Cohen's d as in the figure by stage, with generations in the order of the numbers in their names. Lines join "
        "generations of one family. Generations may differ in the sizes of their checkpoints."
    )
    return " ".join([text, *_condition(found)])


def _condition(found: Findings) -> list[str]:
    return [f"Condition: {found.main_condition}."] if len(found.conditions) > 1 else []
