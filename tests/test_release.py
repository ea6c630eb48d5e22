"""What a release says of itself: one version everywhere, and checks that are those of .ci/run."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import psych_ray

ROOT = Path(__file__).resolve().parents[1]


def test_the_version_is_the_same_everywhere():
    newest = re.findall(r"^## (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert newest == citation["version"] == psych_ray.__version__
    assert citation["license"] in (ROOT / "pyproject.toml").read_text()


def test_the_workflow_runs_the_checks_of_a_submission():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
