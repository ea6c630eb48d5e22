"""Conditions that need no template: what is read, where responses stand in it, and what becomes of each."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest
from hypothesis import given
from renderings import scored_answers, statuses, transcript, transcripts

from psych_ray.errors import ConfigError, UnsupportedError
from psych_ray.transcripts import conditions
from psych_ray.transcripts.conditions import Condition, Plain, condition_named, truncate_characters
from psych_ray.transcripts.conditions.persona import interview
from psych_ray.transcripts.markers import find_responses
from psych_ray.transcripts.status import Status


@given(transcripts())
def test_every_condition_finds_each_response_in_what_it_renders(made):
    answers = [made.response_text(response) for response in made.responses]
    for name in ("plain", "history_only"):
        rendering = condition_named(name).render(made, None)
        assert scored_answers(rendering) == [answer for answer in answers if answer]
        assert statuses(rendering) == ["scored" if answer else "empty" for answer in answers]
        assert len(find_responses(rendering.text)) == len(answers)


@given(transcripts())
def test_discrete_leaves_markers_around_single_capitals_only(made):
    answers = [made.response_text(response) for response in made.responses]
    letters = [answer in {"A", "B"} for answer in answers]
    rendering = condition_named("discrete").render(made, None)
    assert scored_answers(rendering) == [answer for answer, letter in zip(answers, letters, strict=True) if letter]
    assert statuses(rendering) == ["scored" if letter else "not_applicable" for letter in letters]
    for answer, start, end in zip(answers, rendering.starts, rendering.ends, strict=True):
        assert rendering.text[start:end] == answer
    assert len(rendering.text) == len(made.text) - 4 * letters.count(False)


def test_discrete_keeps_the_text_of_what_it_does_not_mark():
    rendering = condition_named("discrete").render(transcript("a <<A>> b <<bc>>, <<>>c <<é>> <<d>> <<Z>>."), None)
    assert rendering.text == "a <<A>> b bc, c é d <<Z>>."
    assert scored_answers(rendering) == ["A", "Z"]


@given(transcripts())
def test_zero_shot_reads_each_response_once_and_none_beside_it(made):
    answers = [made.response_text(response) for response in made.responses]
    renderings = list(condition_named("zero_shot").renderings(made, None))
    read = [answer for rendering in renderings for answer in scored_answers(rendering)]
    assert read == [answer for answer in answers if answer]
    assert len(renderings) == max(1, len(read))
    for rendering in renderings:
        assert len(find_responses(rendering.text)) == int((rendering.status == Status.scored.code).sum())
    scored = np.array([rendering.status == Status.scored.code for rendering in renderings])
    assert (scored.sum(axis=0) == [bool(answer) for answer in answers]).all()
    for number, answer in enumerate(answers):
        if not answer:
            assert {rendering.status[number] for rendering in renderings} == {Status.empty.code}


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (
            "Press.\nTwo keys.\n\nRed. You press <<A>>. Right!\nBlue. You press <<B>>.\n",
            ["Press.\nTwo keys.\n\nRed. You press <<A>>", "Press.\nTwo keys.\n\nBlue. You press <<B>>"],
        ),
        (  # the second trial shows where the first begins
            "Guess.\nGame 1\nrow 5\nYou say <<A>>.\nGame 2\nrow 7\nYou say <<B>>.\nThe end.",
            ["Guess.\nGame 1\nrow 5\nYou say <<A>>", "Guess.\nGame 2\nrow 7\nYou say <<B>>"],
        ),
        (  # no instructions at all
            "Game\nrow 5\nYou say <<A>>.\nGame\nrow 7\nYou say <<B>>.",
            ["Game\nrow 5\nYou say <<A>>", "Game\nrow 7\nYou say <<B>>"],
        ),
        ("Go.\nOne <<A>> two <<B>> three <<>> four <<C>>", ["Go.\nOne <<A>>", "Go.\n two <<B>>", "Go.\n four <<C>>"]),
        ("Go.\n<<A>><<B>>\n<<C>>", ["Go.\n<<A>>", "Go.\n<<B>>", "Go.\n<<C>>"]),
        ("<<A>>", ["<<A>>"]),
        ("Nothing is asked.", ["Nothing is asked."]),
        ("Go.\nOne <<>>", ["Go.\n"]),
    ],
)
def test_zero_shot_gives_the_instructions_and_the_present_trial(text, read):
    assert [rendering.text for rendering in condition_named("zero_shot").renderings(transcript(text), None)] == read


def test_zero_shot_has_no_one_text():
    with pytest.raises(UnsupportedError, match="renderings"):
        condition_named("zero_shot").render(transcript("<<A>>"), None)


def test_history_only_has_no_text_but_the_responses():
    rendering = condition_named("history_only").render(transcript("a <<A>> b <<>> c <<dé>> e"), None)
    assert rendering.text == "<<A>>\n<<>>\n<<dé>>\n"


def test_persona_asks_what_is_known_in_a_fixed_order():
    metadata = {"BIS-10": "60.0", "diagnosis": "Depression", "hair": "red", "gender": "female", "age": "23.0"}
    assert interview(metadata) == (
        "Interviewer: What is your age?\nInterviewee: 23.0\n\n"
        "Interviewer: What is your gender?\nInterviewee: female\n\n"
        "Interviewer: Do you have any clinical diagnoses?\nInterviewee: Depression\n\n"
        "Interviewer: What is your BIS-10 score?\nInterviewee: 60.0\n\n"
    )
    rendering = condition_named("persona").render(transcript("You press <<A>>.", **metadata), None)
    assert rendering.text == interview(metadata) + "You press <<A>>."
    assert scored_answers(rendering) == ["A"]


def test_persona_takes_the_hubs_name_of_a_field_before_another():
    assert "ee: hub" in interview({"clinical diagnosis": "hub", "diagnosis": "contributed"})


def test_persona_is_not_applicable_to_people_of_whom_nothing_is_known():
    rendering = condition_named("persona").render(transcript("You press <<A>> and <<>>.", hair="red"), None)
    assert statuses(rendering) == ["not_applicable", "not_applicable"]
    assert rendering.text == ""


def test_persona_knows_the_fields_of_the_hub(shared):
    pq = pytest.importorskip("pyarrow.parquet")
    columns = pq.read_schema(shared / "data/psych-201-test-sample.parquet").names
    known = [name for name in columns if interview({name: "x"})]
    assert known == columns[columns.index("gender") : columns.index("BIS-10") + 1]
    order = interview(dict.fromkeys(known, "x"))
    assert order.index("your age") < order.index("your gender") < order.index("nationality") < order.index("BIS-10")


def test_a_cut_leaves_what_is_not_applicable_alone():
    rendering = truncate_characters(condition_named("discrete").render(transcript("<<A>> <<no>> <<B>>"), None), 7)
    assert rendering.text == "<<A>> n"
    assert statuses(rendering) == ["scored", "not_applicable", "cut"]


def test_one_text_conditions_have_one_rendering():
    made = transcript("You press <<A>>.")
    for name in ("plain", "discrete", "history_only", "persona"):
        (rendering,) = condition_named(name).renderings(made, None)
        assert len(rendering.status) == 1


def test_the_documented_example_works(tmp_path, monkeypatch):
    lines = (conditions.__doc__ or "").splitlines()
    code = "\n".join(line for line in lines if line.startswith("    ") or not line)
    (tmp_path / "reminders.py").write_text(textwrap.dedent(code))
    assert len([line for line in textwrap.dedent(code).splitlines() if line]) <= 10
    monkeypatch.syspath_prepend(tmp_path)
    for path in ("reminders:Reminded", "reminders.Reminded"):
        condition = condition_named(path)
        assert condition.name == "reminded"
        (rendering,) = condition.renderings(transcript("You press <<A>>."), None)
        assert rendering.text == "You take part in an experiment.\n\nYou press <<A>>."
        assert scored_answers(rendering) == ["A"]


class Nameless(Condition):
    def render(self, transcript, template):
        return Plain().render(transcript, template)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("plane", "no such condition; there is plain, chat, persona, discrete, zero_shot, history_only, or"),
        ("", "no such condition"),
        ("no.such:Thing", "No module named 'no'"),
        ("os.path:nothing", "has no attribute 'nothing'"),
        ("os.path.join", "derive it from"),
        (":x", "package.module:attribute"),
        ("os:", "package.module:attribute"),
        (".os:path", "package.module:attribute"),
        (f"{Condition.__module__}:Condition", "abstract"),
        (f"{__name__}:Nameless", "has no name"),
    ],
)
def test_a_wrong_name_is_told_in_one_line(name, says):
    with pytest.raises(ConfigError, match=r"^conditions=\[") as raised:
        condition_named(name)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["zero_shot", "history_only", "reminders:Reminded", "plane"])
def test_the_authors_have_rules_for_four_conditions(name):
    with pytest.raises(ConfigError, match=r"scoring\.parity=true supports plain, chat, persona, discrete"):
        condition_named(name, parity=True)


def test_conditions_say_their_names():
    ours = ("plain", "chat", "persona", "discrete", "zero_shot", "history_only")
    for parity, names in ((False, ours), (True, ("plain", "chat"))):
        for name in names:
            assert condition_named(name, parity=parity).name == name
