"""Conditions that keep the transcript's own text: `plain` as it is, `discrete` with fewer markers.

Source: "Post-training makes large language models less human-like" (arXiv 2605.07632), main analysis and accuracy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psych_ray.transcripts.conditions.rendering import (
    ChatTemplate,
    Condition,
    Rendering,
    response_spans,
    scored_unless_empty,
)
from psych_ray.transcripts.markers import CLOSE, OPEN
from psych_ray.transcripts.options import is_option
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.status import Status


class Plain(Condition):
    """The transcript as it is, markers included: the checkpoint completes a document (study, main analysis)."""

    name = "plain"

    def render(self, transcript: Transcript, template: ChatTemplate | None) -> Rendering:
        """Render the source text unchanged, with the spans of the responses in it."""
        starts, ends = response_spans(transcript)
        return Rendering(transcript.text, starts, ends, scored_unless_empty(starts, ends))


class Discrete(Condition):
    """Markers stay only around a single capital letter (study, accuracy).

    Every other response, an empty one too, keeps its text, loses its markers and is not applicable.
    """

    name = "discrete"

    def render(self, transcript: Transcript, template: ChatTemplate | None) -> Rendering:
        """Render the source text without the markers of responses that are not a single capital letter."""
        starts, ends = response_spans(transcript)
        text = transcript.text
        is_letter = np.zeros(len(starts), np.bool_)
        pieces: list[str] = []
        position = 0
        for number, response in enumerate(transcript.responses):
            answer = transcript.response_text(response)
            is_letter[number] = is_option(answer)
            opening, closing = (OPEN, CLOSE) if is_letter[number] else ("", "")
            pieces += [text[position : response.start - len(OPEN)], opening, answer, closing]
            position = response.end + len(CLOSE)
        markers_before: NDArray[np.int64] = np.cumsum(~is_letter) - ~is_letter
        shift = markers_before * (len(OPEN) + len(CLOSE)) + ~is_letter * len(OPEN)
        status = np.where(is_letter, Status.scored.code, Status.not_applicable.code).astype(np.int8)
        return Rendering("".join([*pieces, text[position:]]), starts - shift, ends - shift, status)
