import pytest
from hypothesis import given
from hypothesis import strategies as st

from psych_ray.errors import MarkerError, TranscriptError
from psych_ray.transcripts.markers import find_responses


def slow_responses(text: str) -> list[tuple[int, int, int]] | None:
    """The rules read one character at a time; None where the markers do not pair up."""
    found: list[tuple[int, int, int]] = []
    at, opened = 0, -1
    while at < len(text):
        pair = text[at : at + 2]
        if pair == "<<":
            if opened >= 0:
                return None
            opened = at + 2
        elif pair == ">>" and opened >= 0:
            found.append((len(found), opened, at))
            opened = -1
        elif pair == ">>" and not text[:at].endswith("More Details "):
            return None
        at += 2 if pair in ("<<", ">>") else 1
    return None if opened >= 0 else found


def fast_responses(text: str) -> list[tuple[int, int, int]] | None:
    try:
        return [(r.number, r.start, r.end) for r in find_responses(text)]
    except MarkerError:
        return None


pieces = st.sampled_from(["<", ">", "<<", ">>", "a", " ", "\n", "<<a>>"])


@given(st.text(alphabet="<>a \n", max_size=14))
def test_as_the_slow_reading_over_any_brackets(text: str) -> None:
    assert fast_responses(text) == slow_responses(text)


@given(st.lists(pieces, max_size=12).map("".join))
def test_as_the_slow_reading_over_pieces(text: str) -> None:
    assert fast_responses(text) == slow_responses(text)


@given(st.lists(st.sampled_from(["More Details ", "More ", ">>", "<<", ">", "a"]), max_size=8).map("".join))
def test_as_the_slow_reading_around_the_button(text: str) -> None:
    assert fast_responses(text) == slow_responses(text)


@given(st.lists(st.text(alphabet="<>a \n", max_size=5), max_size=6))
def test_responses_are_in_order_and_stand_between_markers(texts: list[str]) -> None:
    text = "".join(texts)
    responses = fast_responses(text) or []
    for number, start, end in responses:
        assert start <= end
        assert text[start - 2 : start] == "<<"
        assert text[end : end + 2] == ">>"
        assert number == 0 or responses[number - 1][2] + 2 <= start - 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("no response", []),
        ("I say <<yes>>.", ["yes"]),
        ("<<A>><<B>>", ["A", "B"]),
        ("<<>><<>>", ["", ""]),
        ("<< >>", [" "]),
        ("<<a\nb>>", ["a\nb"]),
        ("<<<A>>", ["<A"]),
        ("<<A>>>", ["A"]),
        ("<<<>>>", ["<"]),
        ("<<->>", ["-"]),
        ("<<5 > 3>> and 3 < 5", ["5 > 3"]),
        ("< <A> >", []),
        ("press More Details >> then <<A>>", ["A"]),
        ("<<More Details >>", ["More Details "]),
        ("<<A>>More Details >>", ["A"]),
    ],
)
def test_what_is_a_response(text: str, expected: list[str]) -> None:
    responses = find_responses(text)
    assert [text[r.start : r.end] for r in responses] == expected
    assert [r.number for r in responses] == list(range(len(expected)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a <<b", "character 2: `<<` opens a response that is never closed"),
        ("<<<<A>>", "character 2: `<<` inside the response opened at 0"),
        ("<<a<<b>>", "character 3: `<<` inside the response opened at 0"),
        ("a>>", "character 1: `>>` closes a response that was not opened"),
        ("<<A>>>>", "character 5: `>>` closes a response that was not opened"),
        ("more details >>", "character 13: `>>` closes a response that was not opened"),
        ("More Details>>", "character 12: `>>` closes a response that was not opened"),
    ],
)
def test_what_does_not_pair_up(text: str, message: str) -> None:
    with pytest.raises(MarkerError) as raised:
        find_responses(text)
    assert str(raised.value) == message
    assert isinstance(raised.value, TranscriptError)
