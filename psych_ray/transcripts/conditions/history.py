"""Conditions that take something away, to ask what a score rests on: `zero_shot` the history, `history_only` the task.

Critics of scoring whole transcripts ask for both: a checkpoint may predict a response from the participant's earlier
ones without having understood the task. Only the text is known here, so what a trial is follows from line breaks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from psych_ray.errors import UnsupportedError
from psych_ray.transcripts.conditions.rendering import (
    ChatTemplate,
    Condition,
    Rendering,
    response_spans,
    scored_unless_empty,
)
from psych_ray.transcripts.markers import CLOSE, OPEN
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.status import Status

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_DIGITS = re.compile(r"\d+")


class HistoryOnly(Condition):
    """The responses alone, one a line, markers included: what they tell without the task."""

    name = "history_only"

    def render(self, transcript: Transcript, template: ChatTemplate | None) -> Rendering:
        """Render the responses in their order, each with its markers on a line of its own."""
        said = [transcript.response_text(response) for response in transcript.responses]
        lengths = np.array([len(text) for text in said], dtype=np.int64)
        around = len(OPEN) + len(CLOSE) + 1
        starts = np.cumsum(lengths + around) - lengths - around + len(OPEN)
        text = "".join(f"{OPEN}{response}{CLOSE}\n" for response in said)
        return Rendering(text, starts, starts + lengths, scored_unless_empty(starts, starts + lengths))


class ZeroShot(Condition):
    """The instructions and the present trial, for each response a text of its own.

    A trial begins on the line after the previous response, or right after that response where both share a line.
    What else stood on the line of the previous response (its outcome, mostly) is history and left out; what stood on
    lines of its own is told. The first trial begins at the last line before the first response that reads like the
    first line of the second trial, numbers aside; where there is none, at the line of the first response. What
    stands before the first trial are the instructions.
    """

    name = "zero_shot"

    def render(self, transcript: Transcript, template: ChatTemplate | None) -> Rendering:
        """Refuse: there is no one text."""
        raise UnsupportedError("zero_shot reads a text for each response; ask for its renderings")

    def renderings(self, transcript: Transcript, template: ChatTemplate | None) -> Iterator[Rendering]:
        """Render the instructions, a trial and its response, response after response."""
        starts, ends = response_spans(transcript)
        final = scored_unless_empty(starts, ends)
        to_score = np.flatnonzero(final == Status.scored.code)
        final[to_score] = Status.not_applicable.code
        begins = _trial_begins(transcript)
        instructions = transcript.text[: begins[0]] if begins else transcript.text
        if len(to_score) == 0:
            yield Rendering(instructions, np.zeros_like(starts), np.zeros_like(ends), final)
        for number in to_score.tolist():
            response = transcript.responses[number]
            trial = transcript.text[begins[number] : response.end + len(CLOSE)]
            start = len(instructions) + response.start - begins[number]
            places = np.zeros((2, len(starts)), np.int64)
            places[:, number] = start, start + response.end - response.start
            status = final.copy()
            status[number] = Status.scored.code
            yield Rendering(instructions + trial, places[0], places[1], status)


def _trial_begins(transcript: Transcript) -> list[int]:
    """First character of the trial of each response."""
    text, responses = transcript.text, transcript.responses
    begins = []
    for before, response in pairwise(responses):
        closed = before.end + len(CLOSE)
        begins.append(text.find("\n", closed, response.start - len(OPEN)) + 1 or closed)
    return [_first_trial_begins(transcript, begins[0] if begins else None), *begins] if responses else []


def _first_trial_begins(transcript: Transcript, second: int | None) -> int:
    opened = transcript.responses[0].start - len(OPEN)
    lines = _LINE.findall(transcript.text[:opened]) or [""]
    begins = opened - np.cumsum([len(line) for line in reversed(lines)])
    if second is not None and transcript.text[second - 1] == "\n":
        stands = transcript.text[second : transcript.responses[1].start - len(OPEN)].strip().split("\n", 1)[0]
        for line, begin in zip(reversed(lines), begins.tolist(), strict=True):
            if stands and _read(line) == _read(stands):
                return int(begin)
    return int(begins[0]) if not lines[-1].endswith("\n") else opened


def _read(line: str) -> str:
    return _DIGITS.sub("0", line.strip())
