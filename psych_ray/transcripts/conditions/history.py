"""Conditions that remove a part of the transcript: `zero_shot` the history, `history_only` the task.

They separate two explanations of a score: a checkpoint may predict a response from the participant's earlier ones
without the task. Sources do not mark trials, so trials are found by line breaks. Does not depend on tokens.
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
    """The responses alone, one per line, markers included."""

    name = "history_only"

    def render(self, transcript: Transcript, template: ChatTemplate | None) -> Rendering:
        """Render the responses in their order, each with its markers on a line of its own."""
        answers = [transcript.response_text(response) for response in transcript.responses]
        lengths = np.array([len(text) for text in answers], dtype=np.int64)
        around = len(OPEN) + len(CLOSE) + 1
        starts = np.cumsum(lengths + around) - lengths - around + len(OPEN)
        text = "".join(f"{OPEN}{answer}{CLOSE}\n" for answer in answers)
        return Rendering(text, starts, starts + lengths, scored_unless_empty(starts, starts + lengths))


class ZeroShot(Condition):
    """The instructions and the current trial: one text per response.

    A trial begins on the line after the previous response, or right after that response where both are on one line.
    The rest of the previous response's line (mostly its outcome) is history and is omitted; later lines are kept. The
    first trial begins at the last line before the first response that is equal, except for numbers, to the first line
    of the second trial; where there is none, at the line of the first response. The text before the first trial is
    the instructions.
    """

    name = "zero_shot"

    def render(self, transcript: Transcript, template: ChatTemplate | None) -> Rendering:
        """Raise UnsupportedError: there is no single text."""
        raise UnsupportedError("zero_shot renders one text per response; use `renderings`")

    def renderings(self, transcript: Transcript, template: ChatTemplate | None) -> Iterator[Rendering]:
        """Render the instructions, the trial and its response, for one response after the other."""
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
            spans = np.zeros((2, len(starts)), np.int64)
            spans[:, number] = start, start + response.end - response.start
            status = final.copy()
            status[number] = Status.scored.code
            yield Rendering(instructions + trial, spans[0], spans[1], status)


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
        first_line = transcript.text[second : transcript.responses[1].start - len(OPEN)].strip().split("\n", 1)[0]
        for line, begin in zip(reversed(lines), begins.tolist(), strict=True):
            if first_line and _without_numbers(line) == _without_numbers(first_line):
                return int(begin)
    return int(begins[0]) if not lines[-1].endswith("\n") else opened


def _without_numbers(line: str) -> str:
    return _DIGITS.sub("0", line.strip())
