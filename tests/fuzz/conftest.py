"""Prints the seed and the counts of the fuzz tests."""

from __future__ import annotations

import pytest
from support_fuzz import EXAMPLES, SEED, counts


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not counts:
        return
    terminalreporter.section(f"fuzz: PSYCH_RAY_FUZZ={EXAMPLES} PSYCH_RAY_FUZZ_SEED={SEED}")
    for test in sorted({name for name, _ in counts}):
        n = {kind: counts[test, kind] for kind in ("accepted", "refused")}
        terminalreporter.write_line(f"{test}: {sum(n.values())} examples, {n['refused']} refused in one line")
    terminalreporter.write_line(f"all: {counts.total()} examples")
