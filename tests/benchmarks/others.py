"""Scoring against lm-evaluation-harness and minicons, which run a forward pass for each response; part of `make bench`.

Neither is a dependency; each is left out, with the reason, where it is not installed:

    pip install --no-deps lm_eval==0.4.13 wonderwords minicons==0.3.39

A checkpoint of the shape with few layers reads the beginning of a real transcript, of which every response is scored.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from psych_ray.scoring.scorer import LanguageModelScorer, Truncation
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript
from tests.benchmarks.contender import fastest
from tests.benchmarks.shapes import SHAPES, SHARED, random_model, real_tokenizer, real_transcripts

_LAYERS, _CHARACTERS, _RESPONSES = 4, 2500, 20
"""Of the checkpoint, and of the transcript: at most, and at least."""
NllOf = Callable[[PreTrainedModel, PreTrainedTokenizerBase, Transcript], Callable[[], list[float]]]


def compare(shape: str, rounds: int) -> dict[str, Any]:
    """Seconds and largest difference of each, in turn; ratios to scoring are medians."""
    if not SHARED.is_dir():
        return {"left out": "no real transcripts"}
    SHAPES[shape]["num_hidden_layers"] = min(_LAYERS, SHAPES[shape]["num_hidden_layers"])
    model, tokenizer, transcript = (
        random_model(shape, dtype=torch.float32, device="cpu"),
        real_tokenizer(),
        _beginning(),
    )
    contenders = {"scoring": _scoring(model, tokenizer, transcript)}
    left_out = {}
    for name, nll_of in OTHERS.items():
        try:
            contenders[name] = nll_of(model, tokenizer, transcript)
        except ImportError as error:
            left_out[name] = str(error)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    nll: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, run in contenders.items():
            began = time.perf_counter()
            nll[name] = run()
            seconds[name].append(time.perf_counter() - began)
    ratio = {
        name: round(statistics.median(a / b for a, b in zip(seconds[name], seconds["scoring"], strict=True)), 1)
        for name in contenders
        if name != "scoring"
    }
    differences = {name: float(np.abs(np.subtract(nll[name], nll["scoring"])).max()) for name in ratio}
    return {
        "responses": len(transcript.responses),
        "characters": len(transcript.text),
        "layers": _LAYERS,
        "median_ratio": ratio,
        "largest_difference_nats": differences,
        "left out": left_out,
        "seconds": seconds,
    }


def _beginning() -> Transcript:
    """The beginning of a real transcript, up to the end of a response, with many responses."""
    for transcript in real_transcripts(1):
        within = [end for _, _, end in transcript.responses if end + 2 <= _CHARACTERS]
        if len(within) >= _RESPONSES:
            text = transcript.text[: within[-1] + 2]
            return Transcript(
                study=transcript.study, experiment=transcript.experiment, participant=transcript.participant, text=text
            )
    raise ValueError(f"no real transcript has {_RESPONSES} responses in {_CHARACTERS} characters")


def _scoring(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, one: Transcript) -> Callable[[], list[float]]:
    scorer = LanguageModelScorer(fastest(model), tokenizer, Truncation())

    def run() -> list[float]:
        scorer.clear_cache()
        (scored,) = scorer.score([one], condition_named("plain"))
        return scored.nll_R.tolist()

    return run


def _lm_eval(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, one: Transcript) -> Callable[[], list[float]]:
    """The tokens of each response after those before them."""
    from lm_eval.models.huggingface import HFLM

    scorer = LanguageModelScorer(fastest(model), tokenizer, Truncation())
    (alignment,) = scorer.align(one, condition_named("plain")).alignments
    ids = alignment.token_ids_T.tolist()
    requests = [
        (("", ""), ids[:first], ids[first:last])
        for first, last in zip(alignment.first_R.tolist(), alignment.last_R.tolist(), strict=True)
    ]
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, device="cpu")
    return lambda: [-nll for nll, _ in harness._loglikelihood_tokens(requests, disable_tqdm=True)]


def _minicons(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, one: Transcript) -> Callable[[], list[float]]:
    """The text of each response after the text before it."""
    from minicons.scorer import IncrementalLMScorer

    scorer = IncrementalLMScorer(model, "cpu", tokenizer=tokenizer)
    pairs = [(one.text[:start], one.text[start:end]) for _, start, end in one.responses]

    def run() -> list[float]:
        return [
            -scorer.conditional_score([before], [text], separator="", reduction=lambda x: x.sum().item())[0]
            for before, text in pairs
        ]

    return run


OTHERS: dict[str, NllOf] = {"lm-evaluation-harness": _lm_eval, "minicons": _minicons}
