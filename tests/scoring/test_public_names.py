"""What a notebook imports, pinned; and that asking for names alone imports no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

import psych_ray.scoring

NAMES = [
    "Checkpoint",
    "LanguageModelScorer",
    "ScoredTranscript",
    "Scorer",
    "find_checkpoints",
    "load_scorer",
    "load_scorers",
]


def test_these_are_the_public_names():
    assert sorted(psych_ray.scoring.__all__) == NAMES
    for name in NAMES:
        assert getattr(psych_ray.scoring, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'loadscorer'"):
        psych_ray.scoring.loadscorer  # noqa: B018


def test_importing_the_packages_imports_no_torch():
    code = "import sys, psych_ray.scoring, psych_ray.transcripts; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
