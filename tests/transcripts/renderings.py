"""Transcripts of arbitrary texts, and what a rendering contains, for the tests of conditions."""

from __future__ import annotations

from hypothesis import assume
from hypothesis import strategies as st

from psych_ray.errors import MarkerError
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.status import Status

PIECES = [
    "A",
    "B",
    "AB",
    "",
    " ",
    "-",
    "-0.5",
    "é",
    "🙂",
    "<",
    "skip",
    "think",
    " x ",
    "a\nb",
    "\n",
    "7",
    "Round 1:\n",
    "(",
    '"',
]


def transcript(text: str, **metadata: str) -> Transcript:
    return Transcript(study="s", experiment="e", participant="p", text=text, metadata=metadata)


@st.composite
def transcripts(draw) -> Transcript:
    pieces = st.lists(st.sampled_from(PIECES), max_size=4).map("".join)
    text = draw(pieces)
    for _ in range(draw(st.integers(0, 6))):
        text += "<<" + draw(pieces) + ">>" + draw(pieces)
    made = transcript(text)
    try:
        assume(made.responses is not None)
    except MarkerError:
        assume(False)
    return made


def statuses(rendering) -> list[str]:
    return [list(Status)[code].value for code in rendering.status]


def scored_answers(rendering) -> list[str]:
    """Text of every response that is to be scored."""
    scored = rendering.status == Status.scored.code
    return [rendering.text[a:b] for a, b in zip(rendering.starts[scored], rendering.ends[scored], strict=True)]
