"""Data of the transcript viewer: complete for short texts, bounded for long ones, harmless in HTML."""

from __future__ import annotations

import json

import pytest

from psych_ray.report.viewer import (
    MAX_CHARACTERS,
    MAX_CHECKPOINTS,
    MAX_RESPONSES,
    ViewedTranscript,
    json_in_html,
    viewer_data,
)
from psych_ray.transcripts.markers import find_responses


def viewed(text: str, slugs: list[str] | None = None) -> ViewedTranscript:
    spans = [(response.start, response.end) for response in find_responses(text)]
    nll = {slug: [float(at) for at in range(len(spans))] for slug in slugs or ["a", "b"]}
    return ViewedTranscript(study="s", experiment="e", participant="1", id="t", text=text, spans=spans, nll=nll)


def shown(text: str) -> dict:
    data = viewer_data([viewed(text)], {})
    assert data is not None
    (one,) = data["transcripts"]
    answers = [one["text"][start:end] for start, end in one["spans"]]
    spans = [(response.start, response.end) for response in find_responses(text)]
    expected = [text[start:end] for start, end in spans[one["first"] : one["first"] + len(answers)]]
    assert answers == expected  # spans follow the part that is shown
    assert one["nll"][0] == [float(one["first"] + at) for at in range(len(answers))]
    assert one["text"] in text
    return one


def test_a_short_text_is_whole() -> None:
    text = "You press <<A>>. Then <<>>, then <<BC>>."
    assert shown(text)["text"] == text


@pytest.mark.parametrize(
    ("text", "n", "first"),
    [
        ("x" * 30_000 + "<<A>> y <<B>>" + "z" * 30_000, 2, 0),
        ("<<A>>" + "x" * 30_000 + "<<B>> <<C>> <<D>>" + "z" * 30_000 + "<<E>>", 3, 1),
        ("<<" + "A" * 30_000 + ">>", 1, 0),
        ("<<A>> " * 3_000, MAX_RESPONSES, 0),
    ],
    ids=["two together", "the part of most responses", "one long response", "many responses"],
)
def test_a_long_text_is_shortened_to_the_part_of_most_responses(text: str, n: int, first: int) -> None:
    one = shown(text)
    assert len(one["spans"]) == n
    assert one["first"] == first
    assert one["n_responses"] == text.count("<<")
    assert one["n_characters"] == len(text)
    longest = max(end - start for start, end in one["spans"])
    assert len(one["text"]) <= max(MAX_CHARACTERS, longest) + 8


def test_markers_of_the_shown_part_are_never_half_shown() -> None:
    one = shown("<<A>>" + "x" * 25_000 + "<<B>> <<C>>" + "y" * 3)
    assert one["text"].count("<<") == one["text"].count(">>") == len(one["spans"])


def test_checkpoints_are_few_and_the_pair_is_first() -> None:
    slugs = [f"c{at}" for at in range(20)]
    data = viewer_data([viewed("<<A>>", slugs)], {"c3": "org/c3"}, ("c1", "c3"))
    assert data is not None
    assert len(data["checkpoints"]) == MAX_CHECKPOINTS
    assert data["checkpoints"][3] == "org/c3"
    assert (data["left"], data["right"]) == (1, 3)
    other = viewer_data([viewed("<<A>>", slugs)], {}, ("c1", "c19"))
    assert other is not None
    assert (other["left"], other["right"]) == (0, 1)
    assert viewer_data([], {}) is None


def test_no_text_ends_the_script_element_that_it_stands_in() -> None:
    evil = "</script><script>x</script><!-- & \u2028 ]]>"
    content = json_in_html({"text": evil})
    assert not set("<>&\u2028") & set(content)
    assert json.loads(content) == {"text": evil}


def test_values_that_are_not_scored_are_null_with_their_status() -> None:
    one = ViewedTranscript(
        study="s", experiment="e", participant="p", id="t", text="<<A>> <<B>>", spans=[(2, 3), (8, 9)],
        nll={"a": [None, float("nan")], "b": [0.12345, 2.0]}, status={"a": ["cut", None]},
    )  # fmt: skip
    data = viewer_data([one], {})
    assert data is not None
    (shown_,) = data["transcripts"]
    assert shown_["nll"] == [[None, None], [0.123, 2.0]]
    assert shown_["status"] == [{"0": "cut"}, {}]
