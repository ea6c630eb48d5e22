"""What a scorer prepares while its engine works, in which order results and errors come, and that no thread is left."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from small_tokenizers import byte_tokenizer

from psych_ray.errors import TranscriptError
from psych_ray.scoring import scorer as scorers
from psych_ray.scoring.engines.base import TokenScores
from psych_ray.scoring.scorer import LanguageModelScorer, Truncation
from psych_ray.scoring.work import Work
from psych_ray.transcripts.conditions import Condition, condition_named
from psych_ray.transcripts.record import Transcript

PLAIN = condition_named("plain")


class SlowEngine:
    """Calls `meanwhile` with the number of sequences that it was given so far."""

    name, batch_tokens = "slow", 100

    def __init__(self, meanwhile=lambda _: None) -> None:
        self.asked: list[list[int]] = []
        self._meanwhile = meanwhile

    def score(self, batch):
        self.asked.append([query.length for query in batch])
        self._meanwhile(sum(map(len, self.asked)))
        return [TokenScores(np.zeros(len(q.at_R), np.float32), np.ones(len(q.at_R), bool)) for q in batch]


class FailsAt(Condition):
    """Plain, but for one participant."""

    name = "fails at"

    def __init__(self, participant: str) -> None:
        self._participant = participant

    def render(self, transcript, template):
        if transcript.participant == self._participant:
            raise TranscriptError("cannot be written")
        time.sleep(0.01)  # the others are done later
        return PLAIN.render(transcript, template)


def transcripts(n: int, *, characters: int = 50) -> list[Transcript]:
    """Each of another length, a token for each character."""
    return [
        Transcript(study="s", experiment="e", participant=str(k), text=f"{k:04d}{'.' * (characters + k % 7)}<<A>>")
        for k in range(n)
    ]


def test_two_windows_are_prepared_while_one_is_scored(monkeypatch):
    monkeypatch.setattr(scorers, "_LEAST_PREFETCHED", 0)
    everybody, work = transcripts(100), Work()

    def wait_for_two_windows(n_given: int) -> None:
        wanted, tokens = n_given, 0
        while tokens < 2 * 8 * engine.batch_tokens and wanted < len(everybody):
            tokens += len(everybody[wanted].text) - 2  # from the last scored token on none is read
            wanted += 1
        end = time.monotonic() + 20
        while work.done < wanted:
            assert time.monotonic() < end, f"{work.done} of {wanted} are prepared"
            time.sleep(0.001)
        time.sleep(0.02)
        bound = 16 * engine.batch_tokens // 50 + scorers.preparation_threads() + 2
        assert work.done <= n_given + bound, "memory is bounded"

    engine = SlowEngine(wait_for_two_windows)
    scorer = LanguageModelScorer(engine, byte_tokenizer(), Truncation(), work=work)
    assert [scored.transcript for scored in scorer.score(everybody, PLAIN)] == everybody
    tokens = [sum(lengths) for lengths in engine.asked]
    assert 100 <= tokens[0] < 200, "the engine begins with one pass"
    assert [800 <= n < 900 for n in tokens[3:-1]] == [True] * len(tokens[3:-1])
    assert len(tokens) > 5


def test_a_transcript_larger_than_all_that_is_prepared_ahead_is_scored(monkeypatch):
    monkeypatch.setattr(scorers, "_LEAST_PREFETCHED", 0)
    large = transcripts(5, characters=5_000)
    scorer = LanguageModelScorer(SlowEngine(), byte_tokenizer(), Truncation())
    assert [scored.transcript for scored in scorer.score(large, PLAIN)] == large


def test_an_error_of_one_comes_after_the_results_before_it_and_names_it():
    everybody, found = transcripts(12), []
    scorer = LanguageModelScorer(SlowEngine(), byte_tokenizer(), Truncation())
    with pytest.raises(TranscriptError, match="cannot be written") as raised:
        found.extend(scorer.score(everybody, FailsAt("8")))
    assert raised.value.transcript_id == everybody[8].id
    n_scored = sum(map(len, scorer.engine.asked))
    assert n_scored > 0
    scorer = LanguageModelScorer(SlowEngine(), byte_tokenizer(), Truncation())
    results = scorer.score(everybody, FailsAt("8"))
    assert [next(results).transcript for _ in range(n_scored)] == everybody[:n_scored]


def test_no_thread_is_left_whether_all_was_scored_or_not():
    scorer = LanguageModelScorer(SlowEngine(), byte_tokenizer(), Truncation())
    results = scorer.score(transcripts(500), PLAIN)
    next(results)
    results.close()
    asked = iter([True, True, False])
    assert 0 < len(list(scorer.score(transcripts(500), PLAIN, lambda: next(asked)))) < 500
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("psych-ray-pre")]
