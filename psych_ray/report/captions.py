"""What each figure's caption says: the metric before the picture, and what is not in it.

A caption tells what was drawn from these findings, no more; the findings themselves are told by the headlines.
"""

from __future__ import annotations

from psych_ray.report.nll_figure import drawn_at_size, references
from psych_ray.study import Findings

_D = (
    "Cohen's d of a pair: in each study, mean NLL of the post-trained checkpoint minus that of its base over the "
    "responses scored in both, divided by the root mean square of the two standard deviations; then the mean over "
    "studies. Above zero, the post-trained checkpoint predicts people worse than its base."
)


def nll_by_size(found: Findings) -> str:
    """For the figure of NLL against size."""
    rows, lines = drawn_at_size(found), references(found)
    under = found.main(found.by_checkpoint)
    told = [
        "Negative log-likelihood of people's responses, in nats per response: the mean over the responses of a study, "
        "then over studies. Lower is better: the checkpoint expected what people did."
    ]
    if lines.height:
        several = lines.height > 1
        told.append(f"Dashed line{'s' if several else ''}: {', '.join(lines['id'])}, without stage and size.")
    missing = under.height - rows.height - lines.height
    if missing:
        told.append(f"{missing} {'checkpoint is' if missing == 1 else 'checkpoints are'} not drawn, only listed.")
    return " ".join([*told, _condition(found)])


def misalignment_by_stage(found: Findings) -> str:
    """For the figure of d by stage."""
    return " ".join(
        [
            _D,
            "Large markers: mean over the pairs of a stage, with the standard error over studies. Small markers: "
            "the pairs, where there are several.",
            _condition(found),
        ]
    )


def misalignment_by_generation(found: Findings) -> str:
    """For the figure of d by generation."""
    return " ".join(
        [
            "As before, by generation, in the order of the numbers in their names; lines join generations of one "
            "family. Generations may differ in the sizes of their checkpoints.",
            _condition(found),
        ]
    )


def _condition(found: Findings) -> str:
    return f"Condition: {found.main_condition}." if len(found.conditions) > 1 else ""
