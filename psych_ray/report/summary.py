"""All numbers of the findings as JSON, for other programs, and the schema of that file.

The schema is the file `summary.schema.json` of this package; a change of form changes `VERSION`. Independent of pages.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Final

from psych_ray.report.findings import Finding, Number, Statement
from psych_ray.study.tables import Findings

VERSION: Final = 1
FILE: Final = "summary.json"
SCHEMA_FILE: Final = "summary.schema.json"


def summary(
    found: Findings, told: Sequence[tuple[Finding, Sequence[Statement]]], *, title: str, about: Mapping[str, str]
) -> str:
    """The findings as JSON that `schema()` describes; a number that is not known is null."""
    content = {
        "version": VERSION,
        "title": title,
        "about": dict(about),
        "condition": found.main_condition,
        "findings": [_finding(finding, statements) for finding, statements in told if statements],
        "without_data": [
            {"name": finding.name, "needs": finding.needs} for finding, statements in told if not statements
        ],
    }
    return json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def schema() -> str:
    """JSON schema of the summary."""
    return resources.files("psych_ray.report").joinpath(SCHEMA_FILE).read_text("utf-8")


def _finding(finding: Finding, statements: Sequence[Statement]) -> dict[str, Any]:
    return {
        "name": finding.name,
        "title": finding.title,
        "definition": finding.ours,
        "definition_of_the_study": finding.authors or None,
        "tables": list(finding.tables),
        "statements": [
            {"sentence": statement.text, "numbers": [_number(number) for number in statement.numbers]}
            for statement in statements
        ],
    }


def _number(number: Number) -> dict[str, Any]:
    return {
        "of": number.of,
        "measure": number.measure,
        "estimate": _finite(number.estimate),
        "low": _finite(number.low),
        "high": _finite(number.high),
        "n": dict(number.n),
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
