"""The findings of a report, in order. `config.FINDINGS` has the same names, which a test verifies.

One module for each group of findings; a new one is a `Finding` in `ALL`. Independent of pages and files.
"""

from __future__ import annotations

from collections.abc import Sequence

from psych_ray.report.findings.calibration import CALIBRATION_CURVE, OVERCONFIDENCE
from psych_ray.report.findings.conditions import BEHAVIOURAL, CHAT, OTHER_CONDITIONS, PERSONA
from psych_ray.report.findings.domains import DOMAINS
from psych_ray.report.findings.finding import Finding, Number, Statement
from psych_ray.report.findings.misalignment import BY_STAGE, FOREST, GENERATIONS, INFLUENCE
from psych_ray.report.findings.participants import GROUPS, LEARNING, REACTION_TIMES
from psych_ray.report.findings.published import PUBLISHED
from psych_ray.report.findings.size import ACCURACY, FLOORS, NLL_BY_SIZE

ALL = (
    NLL_BY_SIZE,
    BY_STAGE,
    GENERATIONS,
    DOMAINS,
    ACCURACY,
    CHAT,
    PERSONA,
    OTHER_CONDITIONS,
    BEHAVIOURAL,
    OVERCONFIDENCE,
    CALIBRATION_CURVE,
    FOREST,
    FLOORS,
    LEARNING,
    GROUPS,
    REACTION_TIMES,
    INFLUENCE,
    PUBLISHED,
)

__all__ = ["ALL", "Finding", "Number", "Statement", "chosen"]


def chosen(names: Sequence[str]) -> tuple[Finding, ...]:
    """The findings with these names, in their order here; all of them where none is named."""
    return tuple(finding for finding in ALL if not names or finding.name in names)
