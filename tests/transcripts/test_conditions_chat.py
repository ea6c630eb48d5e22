"""The conversation that a chat template makes of a transcript, with small templates of every temper."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from renderings import scored_answers, statuses, transcript, transcripts

from psych_ray.errors import ConditionError, TranscriptError
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.conditions.turns import content_spans

Turns = Sequence[Mapping[str, str]]


class Template:
    """A chat template written in Python; counts how often it is asked."""

    name = "toy"

    def __init__(self, write: Callable[[Turns, bool], str], begin_of_text: str = "") -> None:
        self._write = write
        self.begin_of_text = begin_of_text
        self.asked = 0

    def render(self, turns: Turns, *, generation_prompt: bool) -> str:
        self.asked += 1
        return self._write(turns, generation_prompt)


def headers(turns: Turns, asks: bool) -> str:
    return "".join(f"[{t['role']}]{t['content']}[end]\n" for t in turns) + "[assistant]" * asks


def stripped(turns: Turns, asks: bool) -> str:
    return headers([{**turn, "content": turn["content"].strip()} for turn in turns], asks)


def chat(text: str, write: Callable[[Turns, bool], str], begin_of_text: str = ""):
    return condition_named("chat").render(transcript(text), Template(write, begin_of_text))


@given(transcripts())
def test_before_each_response_stands_what_the_template_writes_up_to_its_prompt(made):
    rendering = condition_named("chat").render(made, Template(headers))
    answers = [made.response_text(response) for response in made.responses]
    assert scored_answers(rendering) == [answer for answer in answers if answer]
    assert statuses(rendering) == ["scored" if answer else "empty" for answer in answers]
    turns: list[dict[str, str]] = []
    read = 0
    for response, start in zip(made.responses, rendering.starts, strict=True):
        turns.append({"role": "user", "content": made.text[read : response.start - 2]})
        assert rendering.text[:start] == headers(turns, True)
        turns.append({"role": "assistant", "content": made.response_text(response)})
        read = response.end + 2
    if turns:
        assert rendering.text == headers(turns, False) + "[user]"
        assert rendering.special_tokens_in_text
        assert rendering.in_turns


@given(transcripts())
def test_a_response_that_is_stripped_is_altered_and_told_as_the_template_has_it(made):
    rendering = condition_named("chat").render(made, Template(stripped))
    for response, start, end, word in zip(
        made.responses, rendering.starts, rendering.ends, statuses(rendering), strict=True
    ):
        answer = made.response_text(response)
        assert rendering.text[start:end] == answer.strip()
        assert word == ("empty" if not answer else "scored" if answer == answer.strip() else "altered")


def test_without_a_template_nothing_is_applicable():
    rendering = condition_named("chat").render(transcript("a <<A>> b <<>>"), None)
    assert statuses(rendering) == ["not_applicable", "not_applicable"]


def test_what_the_generation_prompt_adds_stands_before_every_response_and_stays():
    def thinks(turns: Turns, asks: bool) -> str:
        return headers(turns, asks) + "[no thoughts]" * asks

    rendering = chat("a <<A>> b <<B>> c", thinks)
    assert rendering.text == (
        "[user]a [end]\n[assistant][no thoughts]A[end]\n[user] b [end]\n[assistant][no thoughts]B[end]\n[user]"
    )
    assert scored_answers(rendering) == ["A", "B"]


def test_a_template_without_generation_prompt_is_taken_by_its_header():
    rendering = chat("a <<A>> b <<B>> c", lambda turns, asks: headers(turns, False))
    assert rendering.text == "[user]a [end]\n[assistant]A[end]\n[user] b [end]\n[assistant]B[end]\n[user]"


def test_white_space_that_the_template_puts_after_its_prompt_is_kept():
    def spaced(turns: Turns, asks: bool) -> str:
        return headers(turns, asks).replace("[assistant]", "[assistant] ").removesuffix(" " * asks)

    rendering = chat("a <<A>> b <<B>> c", spaced)
    assert rendering.text == "[user]a [end]\n[assistant] A[end]\n[user] b [end]\n[assistant] B[end]\n[user]"
    assert scored_answers(rendering) == ["A", "B"]


@pytest.mark.parametrize(("written", "adds"), [("", "<s>"), ("<s>", "<s>"), ("<s>", ""), ("", "")])
def test_there_is_one_begin_of_text_where_there_is_any(written, adds):
    rendering = chat("a <<A>>", lambda turns, asks: written + headers(turns, asks), adds)
    assert rendering.text == (written or adds) + "[user]a [end]\n[assistant]A[end]\n[user]"
    assert scored_answers(rendering) == ["A"]


def test_text_and_responses_that_are_empty_keep_their_turns():
    rendering = chat("<<A>><<>><<B>>", headers)
    assert rendering.text == (
        "[user][end]\n[assistant]A[end]\n[user][end]\n[assistant][end]\n[user][end]\n[assistant]B[end]\n[user]"
    )
    assert statuses(rendering) == ["scored", "empty", "scored"]


def test_a_response_that_is_changed_within_is_altered():
    def thoughtless(turns: Turns, asks: bool) -> str:
        return headers([{**turn, "content": turn["content"].split("</think>")[-1]} for turn in turns], asks)

    rendering = chat("a <<hm</think>A>> b</think>c <<B>>", thoughtless)
    assert statuses(rendering) == ["altered", "scored"]
    assert rendering.text == "[user]a [end]\n[assistant]A[end]\n[user]c [end]\n[assistant]B[end]\n[user]"


def test_the_error_of_a_template_names_the_template_and_has_its_message():
    def hungry(turns: Turns, asks: bool) -> str:
        if any(not turn["content"] for turn in turns):
            raise ValueError("Contents must not be empty!")
        return headers(turns, asks)

    assert scored_answers(chat("a <<A>>", hungry)) == ["A"]
    with pytest.raises(
        TranscriptError, match=r"s, participant p: .* toy cannot write this transcript \(Contents must not be empty!\)"
    ):
        chat("a <<>>", hungry)


def test_a_template_that_writes_something_else_for_these_contents_is_refused():
    def moody(turns: Turns, asks: bool) -> str:
        return headers(turns, asks).replace("[assistant]", "[tool]" if turns[0]["content"] == "a " else "[assistant]")

    with pytest.raises(TranscriptError, match="something else around"):
        chat("a <<A>>", moody)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda turns, asks: "".join(t["content"] for t in turns if t["role"] == "user"), "omits a turn"),
        (lambda turns, asks: headers(turns[::-1], asks), "changes their order"),
    ],
)
def test_a_template_that_can_write_no_conversation_is_a_fault_of_the_checkpoint(write, says):
    with pytest.raises(ConditionError, match=r"^toy: its chat template cannot write a conversation") as raised:
        chat("a <<A>> b <<B>>", write)
    assert says in str(raised.value)


def test_a_long_transcript_asks_the_template_a_fixed_number_of_times():
    template = Template(headers)
    text = "".join(f"Trial {number}. You press <<A>>.\n" for number in range(1300))
    for asked in (4, 5):
        rendering = condition_named("chat").render(transcript(text), template)
        assert template.asked == asked
    assert scored_answers(rendering) == ["A"] * 1300


def test_contents_that_repeat_the_separators_have_the_right_spans():
    between = ["[", "][", "][", "]"]
    assert content_spans("[][][ ][]]", between, ["][", " ", "]"]) == [(1, 3), (5, 6), (8, 9)]
    with pytest.raises(ValueError, match="something else"):
        content_spans("[a][b]", between, ["a", "b", "c"])


def test_the_authors_put_a_full_stop_at_the_end_and_leave_out_empty_turns():
    rendering = condition_named("chat", parity=True).render(transcript("<<A>><<B>> c <<>> d"), Template(headers, "<s>"))
    assert rendering.text == "[assistant]A[end]\n[assistant]B[end]\n[user] c [end]\n[user] d.[end]\n"
    assert statuses(rendering) == ["scored", "scored", "empty"]
    assert scored_answers(rendering) == ["A", "B"]
    assert not rendering.special_tokens_in_text


def test_the_authors_score_what_a_template_strips_and_stop_where_one_refuses():
    rendering = condition_named("chat", parity=True).render(transcript("a << A>> b"), Template(stripped))
    assert scored_answers(rendering) == ["A"]

    def strict(turns: Turns, asks: bool) -> str:
        if any(one["role"] == other["role"] for one, other in pairwise(turns)):
            raise ValueError("Roles must alternate!")
        return headers(turns, asks)

    with pytest.raises(TranscriptError, match="Roles must alternate!"):
        condition_named("chat", parity=True).render(transcript("a <<A>><<B>>"), Template(strict))
    assert scored_answers(chat("a <<A>><<B>>", strict)) == ["A", "B"]
    assert statuses(condition_named("chat", parity=True).render(transcript("<<A>>"), None)) == ["not_applicable"]
