"""The options of a participant are the capital letters of the responses, by their text alone."""

from __future__ import annotations

import numpy as np
import pytest

from psych_ray.transcripts.options import is_option, option_counts, option_index, option_letters
from psych_ray.transcripts.record import Transcript


def transcript(*answers: str) -> Transcript:
    text = "Choose A or X. " + " ".join(f"<<{answer}>>" for answer in answers)
    return Transcript(study="s", experiment="e", participant="p", text=text)


@pytest.mark.parametrize("answer", ["A", "Z", "M"])
def test_one_capital_letter_is_an_option(answer):
    assert is_option(answer)


@pytest.mark.parametrize("answer", ["", "a", " A", "A ", "A\n", "AB", "1", "Ä", "\N{GREEK CAPITAL LETTER ALPHA}", "A."])
def test_nothing_else_is_an_option(answer):
    assert not is_option(answer)


def test_letters_are_sorted_and_each_response_has_its_index():
    made = transcript("Q", "B", "left", "", "Q", "b", "B", "M")
    assert option_letters(made) == ("B", "M", "Q")
    index = option_index(made)
    assert index.dtype == np.int16
    assert index.tolist() == [2, 0, -1, -1, 2, -1, 0, 1]
    assert option_counts(made).dtype == np.int16
    assert option_counts(made).tolist() == [3, 3, 0, 0, 3, 0, 3, 3]


@pytest.mark.parametrize("answers", [(), ("left", "12")])
def test_a_transcript_without_letters_has_no_options(answers):
    made = transcript(*answers)
    assert option_letters(made) == ()
    assert option_index(made).dtype == np.int16
    assert option_index(made).tolist() == [-1] * len(answers)
    assert option_counts(made).tolist() == [0] * len(answers)
