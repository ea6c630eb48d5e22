"""The columns of calibration of whole transcripts, under every kind of condition, against a loop over responses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support_calibration import slow_columns
from transformers import AutoModelForCausalLM, AutoTokenizer

from psych_ray.config import ScoringConfig
from psych_ray.scoring.calibration import COLUMNS, NLL_AT
from psych_ray.scoring.engines.base import Query, TokenScores
from psych_ray.scoring.loading import load_scorer
from psych_ray.scoring.score_cache import QueryKey, ScoreCache
from psych_ray.scoring.tokens.alignment import align
from psych_ray.scoring.tokens.chat_templates import template_of
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.status import Status
from tests.golden.sweeps import byte_tokenizer, random_model

ANSWERS = ["B", "A", "12", "B", "", "maybe", "C", "A", "b", "A"]
CONDITIONS = ["plain", "chat", "persona", "discrete", "zero_shot", "history_only"]


def transcript(answers: list[str], participant: str = "p", **more) -> Transcript:
    lines = [f"Trial {k}: choose A, B or C.\nYou press <<{answer}>>.\n" for k, answer in enumerate(answers)]
    text = "You will see boxes.\n" + "".join(lines)
    return Transcript(
        study="s", experiment="e", participant=participant, text=text, metadata={"age": "30", "gender": "f"}, **more
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    tokenizer = byte_tokenizer()
    random_model("Qwen3", len(tokenizer), 1).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def scorer(directory):
    return load_scorer(directory, ScoringConfig(device="cpu"))


def slowly(directory: Path, one: Transcript, condition: str, limit: int = 1024) -> list[dict[str, float]]:
    """Columns of each response, empty where it is not scored: a loop over renderings, responses and tokens."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    letters = sorted({a for a in ANSWERS if a in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" and a and f"<<{a}>>" in one.text})
    options = [tokenizer(letter)["input_ids"][0] for letter in letters]
    found: list[dict[str, float]] = [{} for _ in one.responses]
    for rendering in condition_named(condition).renderings(one, template_of(tokenizer)):
        encoded = tokenizer(rendering.text, return_offsets_mapping=True, add_special_tokens=False)
        ids = encoded["input_ids"][:limit]
        with torch.inference_mode():
            logits_TV = model(input_ids=torch.tensor([ids])).logits[0].numpy()
        for number in np.flatnonzero(rendering.status == Status.scored.code).tolist():
            start, end = rendering.starts[number], rendering.ends[number]
            tokens = [t for t, (a, b) in enumerate(encoded["offset_mapping"]) if a < end and b > start]
            if tokens[-1] >= limit:
                continue
            of_options = options if one.response_text(one.responses[number]) in letters else []
            rows = [slow_columns(logits_TV[t - 1], ids[t], of_options) for t in tokens]
            found[number] = {name: sum(row[name] for row in rows) for name in COLUMNS}
    return found


def compare(found, expected: list[dict[str, float]]) -> None:
    for row, slow in zip(found.calibration_RC, expected, strict=True):
        np.testing.assert_allclose(row, [slow.get(name, np.nan) for name in COLUMNS], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_condition_has_them(condition, scorer, directory):
    one = transcript(ANSWERS)
    (scored,) = scorer.score([one], condition_named(condition))
    expected = slowly(directory, one, condition)
    compare(scored, expected)
    has_options = [int(np.isfinite(row[-1])) for row in scored.calibration_RC]
    assert has_options == [int(answer in ("A", "B", "C")) for answer in ANSWERS]
    has_nll = np.isfinite(scored.calibration_RC[:, : len(NLL_AT)]).all(-1)
    assert has_nll.tolist() == (scored.status_R == Status.scored.code).tolist()
    assert has_nll.sum() >= 6


@pytest.mark.parametrize("condition", CONDITIONS)
def test_they_change_no_score(condition, scorer, directory):
    one = [transcript(ANSWERS), transcript(["A", "B", "A"], "q"), transcript(["A", "A"], "r")]
    without = load_scorer(directory, ScoringConfig(device="cpu", calibration=False))
    pairs = zip(
        scorer.score(one, condition_named(condition)), without.score(one, condition_named(condition)), strict=True
    )
    for found, plain in pairs:
        assert plain.calibration_RC is None
        assert np.array_equal(found.nll_R, plain.nll_R, equal_nan=True)
        assert np.array_equal(found.top1_R, plain.top1_R)


def test_an_option_beyond_the_cut_counts(directory):
    answers = ["A", "B"] * 10 + ["C", "A"]
    one = transcript(answers)
    scorer = load_scorer(directory, ScoringConfig(device="cpu", cut_at=700))
    (scored,) = scorer.score([one], condition_named("plain"))
    assert scored.status_R[-2] == Status.cut.code
    assert np.isnan(scored.calibration_RC[-2]).all()
    compare(scored, slowly(directory, one, "plain", limit=700))
    assert np.isfinite(scored.calibration_RC[0]).all()


@pytest.mark.parametrize("answers", [["A", "A", "A"], ["one", "two"], ["", ""], []])
def test_there_are_no_options_without_two_letters(answers, scorer):
    (scored,) = scorer.score([transcript(answers)], condition_named("plain"))
    assert scored.calibration_RC.shape == (len(answers), len(COLUMNS))
    assert np.isnan(scored.calibration_RC[:, len(NLL_AT) :]).all()


def test_an_option_that_is_several_tokens_leaves_no_options(directory, monkeypatch):
    one = transcript(["A", "B", "A", "B"])

    def two_tokens_for_a(rendering, tokenizer, limit):
        alignment = align(rendering, tokenizer, limit)
        only_token_R = alignment.only_token_R.copy()
        only_token_R[2] += 1
        return replace(alignment, only_token_R=only_token_R)

    other = load_scorer(directory, ScoringConfig(device="cpu"))
    monkeypatch.setattr(other, "_align", two_tokens_for_a)
    (scored,) = other.score([one], condition_named("plain"))
    assert np.isnan(scored.calibration_RC[:, len(NLL_AT) :]).all()
    assert np.isfinite(scored.calibration_RC[:, : len(NLL_AT)]).all()


class Counting:
    """An engine whose NLLs count the queries that it has scored."""

    name, batch_tokens = "counting", 1

    def __init__(self) -> None:
        self.calls: list[int] = []

    def score(self, batch):
        self.calls.append(len(batch))
        value = float(sum(self.calls))
        return [TokenScores(np.full(3, value + k, np.float32), np.ones(3, bool)) for k in range(len(batch))]


def query(seed: int, options: list[int]) -> Query:
    ids = np.random.default_rng(seed).integers(0, 9, 5)
    return Query(ids, np.array([1, 2, 3]), np.array(options, np.int64))


def score(cache: ScoreCache, batch: list[Query], engine: Counting) -> list[TokenScores]:
    return cache.score(batch, [QueryKey.of(query) for query in batch], engine)


def test_queries_with_other_options_keep_the_nll_and_do_not_share_a_call():
    engine, cache = Counting(), ScoreCache()
    batch = [query(0, [1, 2]), query(1, [1, 2]), query(0, [1, 3]), query(0, [1, 2])]
    found = score(cache, batch, engine)
    assert engine.calls == [2, 1]
    assert found[0].nll_R.tolist() == found[2].nll_R.tolist() == found[3].nll_R.tolist()
    assert found[1].nll_R.tolist() != found[0].nll_R.tolist()
    assert [one.nll_R.tolist() for one in score(cache, batch, engine)] == [one.nll_R.tolist() for one in found]
    assert engine.calls == [2, 1]
    score(cache, [query(1, [5, 6])], engine)
    assert engine.calls == [2, 1, 1]


def test_the_cache_is_bounded_in_bytes():
    engine, cache = Counting(), ScoreCache(n_bytes=5_000)
    for seed in range(10):
        score(cache, [query(seed, [1, 2])], engine)
        assert sum(len(options) for options in cache._scores.values()) <= 4
    score(cache, [query(9, [1, 2])], engine)
    assert len(engine.calls) == 10
    score(cache, [query(0, [1, 2])], engine)
    assert len(engine.calls) == 11
