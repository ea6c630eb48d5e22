"""The scorer against a slow reference that shares no code with it, on real transcripts with real tokenizers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from psych_ray.checkpoints.find import find_checkpoints
from psych_ray.config import (
    CheckpointsConfig,
    CheckpointSource,
    Normalise,
    ScoringConfig,
    TranscriptsConfig,
    TranscriptSource,
)
from psych_ray.scoring.loading import load_scorer
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.sources import read_transcripts
from psych_ray.transcripts.status import Status

STUDIES = {  # short ones whole; markers before newlines, commas, hyphens and after brackets are among them
    "franke2024bayesian": 2,
    "guenther2023associations_individual": 2,
    "guenther2024substitutions": 2,
    "thoma2025riskychoice": 2,
    "busch2024_stroop": 1,
    "alsobay2025publicGoodsGame": 1,
}


def read(shared: Path, study: str, limit: int) -> list[Transcript]:
    config = TranscriptsConfig(
        source=TranscriptSource.files,
        path=str(shared / "data/psych-201"),
        studies=[study],
        limit=limit,
        normalise=Normalise.none,
    )
    return list(read_transcripts(config))


def scorer_of(directory: Path, **settings):
    (checkpoint,) = find_checkpoints(CheckpointsConfig(source=CheckpointSource.local, paths=[str(directory)]))
    return load_scorer(checkpoint, ScoringConfig(**settings))


def reference(directory: Path, text: str) -> list[tuple[float, bool, int]]:
    """NLL, top-1 and number of tokens of each response: all logits, a loop over tokens and responses, float64."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    encoded = tokenizer(text, return_offsets_mapping=True)
    ids = encoded["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    answers = []
    for match in re.finditer(r"<<(.*?)>>", text, re.DOTALL):
        nll, top1, n = 0.0, True, 0
        for t, (start, end) in enumerate(encoded["offset_mapping"]):
            if start < match.end(1) and end > match.start(1):
                nll -= logits[t - 1].double().log_softmax(-1)[ids[t]].item()
                top1 &= int(logits[t - 1].argmax()) == ids[t]
                n += 1
        answers.append((nll, top1, n))
    return answers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "tokenizer"), [("Qwen3", "qwen3"), ("Olmo3", "olmo3"), ("Llama", "qwen3"), ("Llama", "olmo3")]
)
def test_equals_the_slow_reference_on_real_transcripts(shared, tiny_checkpoint, architecture, tokenizer):
    directory = tiny_checkpoint(architecture, shared / "tokenizers" / tokenizer)
    scorer = scorer_of(directory)
    plain = condition_named("plain")
    worst, responses = 0.0, 0
    for study, limit in STUDIES.items():
        for scored in scorer.score(read(shared, study, limit), plain):
            expected = reference(directory, scored.transcript.text)
            assert len(expected) == len(scored.nll_R) == len(scored.transcript.responses)
            assert (scored.status_R == Status.scored.code).all()
            assert scored.n_tokens_R.tolist() == [n for _, _, n in expected]
            assert scored.top1_R.tolist() == [top1 for _, top1, _ in expected]
            worst = max(worst, np.abs(scored.nll_R - [nll for nll, _, _ in expected]).max())
            responses += len(expected)
    assert responses > 250
    assert worst < 1e-4


def test_uniform_logits_score_exactly_n_ln_v(model_of, shared, tiny_checkpoint):
    directory = tiny_checkpoint("Qwen3", shared / "tokenizers/qwen3")
    scorer = scorer_of(directory)
    head = model_of(scorer).get_output_embeddings()
    torch.nn.init.zeros_(head.weight)
    for scored in scorer.score(read(shared, "guenther2024substitutions", 3), condition_named("plain")):
        np.testing.assert_allclose(scored.nll_R, scored.n_tokens_R * np.log(head.weight.shape[0]), rtol=1e-5)


@pytest.mark.slow
def test_what_lies_beyond_the_cut_is_cut_and_the_rest_unchanged(shared, tiny_checkpoint):
    directory = tiny_checkpoint("Qwen3", shared / "tokenizers/qwen3")
    (transcript,) = read(shared, "busch2024_stroop", 1)
    (whole,) = scorer_of(directory).score([transcript], condition_named("plain"))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    offsets = tokenizer(transcript.text, return_offsets_mapping=True)["offset_mapping"]
    for settings, end_of_text in [({"cut_at": 1000}, offsets[999][1]), ({"cut": "characters", "cut_at": 5000}, 4998)]:
        (cut,) = scorer_of(directory, **settings).score([transcript], condition_named("plain"))
        kept = np.array([response.end <= end_of_text for response in transcript.responses])
        assert kept.any()
        assert not kept.all()
        assert (cut.status_R == np.where(kept, Status.scored.code, Status.cut.code)).all()
        assert np.isnan(cut.nll_R[~kept]).all()
        np.testing.assert_allclose(cut.nll_R[kept], whole.nll_R[kept], atol=1e-5)
