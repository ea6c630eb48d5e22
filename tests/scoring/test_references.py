"""Chance and running frequencies against slow re-statements, on made transcripts and on real ones."""

from __future__ import annotations

import math
import re
from collections import Counter
from fractions import Fraction
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psych_ray.config import Reference, TranscriptsConfig, TranscriptSource
from psych_ray.scoring.references import reference_scorer
from psych_ray.scoring.scored import ScoredTranscript, SimulatorScorer
from psych_ray.scoring.work import Work
from psych_ray.transcripts.conditions import Condition
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.simulated import simulated_transcripts
from psych_ray.transcripts.sources import read_transcripts
from psych_ray.transcripts.status import Status


class Unread(Condition):
    """References must not depend on a condition."""

    name = "unread"

    def render(self, transcript, template):
        raise AssertionError("a reference rendered a condition")


def scored(reference: str, *transcripts: Transcript) -> list[ScoredTranscript]:
    return list(reference_scorer(reference).score(transcripts, Unread()))


def made(*answers: str, study: str = "made") -> Transcript:
    text = "".join(f"Trial {number}: you press <<{answer}>>.\n" for number, answer in enumerate(answers))
    return Transcript(study=study, experiment="e", participant="p", text=text)


def slowly(reference: str, transcript: Transcript) -> list[tuple[str, float | None]]:
    """Status and NLL of each response, response by response, from the text."""
    answers = re.findall(r"<<(.*?)>>", transcript.text, re.DOTALL)
    options = {answer for answer in answers if re.fullmatch("[A-Z]", answer)}
    found: list[tuple[str, float | None]] = []
    earlier: Counter[str] = Counter()
    for answer in answers:
        if answer == "":
            found.append(("empty", None))
        elif answer not in options or len(options) == 1:
            found.append(("not_applicable", None))
        else:
            chance = Fraction(1, len(options))
            frequency = Fraction(earlier[answer] + 1, sum(earlier.values()) + len(options))
            found.append(("scored", -math.log(chance if reference == "chance" else frequency)))
            earlier[answer] += 1
    return found


def assert_as_slowly(reference: str, transcript: Transcript) -> None:
    (one,) = scored(reference, transcript)
    expected = slowly(reference, transcript)
    assert [list(Status)[code].value for code in one.status_R] == [status for status, _ in expected]
    for nll, (_, slow) in zip(one.nll_R, expected, strict=True):
        assert math.isnan(nll) if slow is None else nll == pytest.approx(slow, rel=1e-6)
    assert one.top1_R is None
    assert (one.tokens_read, one.n_tokens_R.sum()) == (0, 0)


ANSWERS = st.lists(st.sampled_from(["A", "B", "C", "Z", "a", "AB", "7", "", " A", "É"]), max_size=30)


@given(ANSWERS)
def test_made_transcripts_are_scored_as_slowly(answers):
    for reference in ("chance", "frequencies"):
        assert_as_slowly(reference, made(*answers))


def test_chance_is_log_k():
    (one,) = scored("chance", made(*"ABCABCAAB", "twelve"))
    assert one.nll_R[:9] == pytest.approx([math.log(3)] * 9, rel=1e-6)
    assert math.isnan(one.nll_R[9])


def test_nothing_is_chosen_where_there_is_one_option():
    for reference in Reference:
        (one,) = scored(reference.value, made("A", "A", "no", ""))
        not_applicable = [Status.not_applicable.code] * 3
        assert one.status_R.tolist() == [*not_applicable, Status.empty.code]
        assert np.isnan(one.nll_R).all()


def test_real_transcripts_are_scored_as_slowly(shared):
    config = TranscriptsConfig(source=TranscriptSource.files, path=str(shared / "data/psych-201"), limit=2)
    transcripts = list(read_transcripts(config))
    assert len({transcript.study for transcript in transcripts}) == 13
    for transcript in transcripts:
        for reference in ("chance", "frequencies"):
            assert_as_slowly(reference, transcript)
    n_scored = Counter(one.transcript.study for one in scored("chance", *transcripts) if np.isfinite(one.nll_R).any())
    assert len(n_scored) == 8, "the others have no capital letters as responses"


def test_on_the_demo_nobody_predicts_better_than_the_simulator_and_frequencies_predict_better_than_chance():
    transcripts = list(simulated_transcripts(participants=40, seed=5))
    of_choices = [t for t in transcripts if t.study != "demo_recall"]
    true = np.concatenate([np.asarray(t.true_nll_nats) for t in of_choices])
    chance, frequencies = (
        np.concatenate([one.nll_R for one in scored(reference, *of_choices)]) for reference in ("chance", "frequencies")
    )
    both = np.isfinite(chance)
    assert true[both].mean() < frequencies[both].mean() < chance[both].mean()
    assert both.mean() > 0.95


def test_scoring_ends_when_it_is_told_to_and_counts_its_work():
    work, left = Work(), [True, True, False]
    scorer = reference_scorer("chance", work)
    found = list(scorer.score([made(*"AB")] * 5, Unread(), lambda: left.pop(0)))
    assert len(found) == work.done == 2


def test_every_reference_has_a_scorer_that_bears_its_name():
    assert {reference_scorer(reference.value).engine_name for reference in Reference} == set(Reference)
    assert isinstance(reference_scorer("simulator"), SimulatorScorer)
    with pytest.raises(ValueError, match="chanse"):
        reference_scorer("chanse")


def test_options_of_one_participant_are_not_those_of_another():
    first, second = scored("chance", made(*"ABCD"), made(*"AB"))
    assert set(chain(first.nll_R, second.nll_R)) == {np.float32(math.log(4)), np.float32(math.log(2))}
