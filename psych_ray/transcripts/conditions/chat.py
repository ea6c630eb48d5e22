"""`chat`: the transcript as a conversation in the checkpoint's own chat template; responses are the assistant's turns.

Source: the study's chat control (arXiv 2605.07632), with what its scripts get wrong set right: every response is
scored after what the template writes when it asks for one, and a response that the template alters is not scored.
Tokens, dates and thinking switches are the template's concern.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from psych_ray.errors import ConditionError, TranscriptError
from psych_ray.transcripts.conditions.rendering import (
    ChatTemplate,
    Condition,
    Rendering,
    nothing_to_score,
    response_spans,
    scored_unless_empty,
)
from psych_ray.transcripts.conditions.turns import END_OF_CONVERSATION, frames, joined, places, turns_of
from psych_ray.transcripts.markers import CLOSE, OPEN
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.status import Status


class Chat(Condition):
    """All else is the user's turn, a response the assistant's, strictly in turn: an empty text is an empty turn.

    One text for the transcript, as the conversation would have been generated turn by turn: before each response
    stand the turns so far as the template writes them, and then its generation prompt, thinking off. What a
    generation prompt adds stays in the text that later responses follow (Qwen3's empty think block, which its
    template would take out of earlier turns), so that a single pass serves all responses. White space that the
    template itself puts between its generation prompt and a turn's content is kept; a template without generation
    prompt is taken by the header that it gives the assistant's turns. The text begins with one begin-of-text
    where the checkpoint's tokenizer or its template has any, and ends where the turn after the last response would
    begin. On a checkpoint without template nothing is applicable.
    """

    name = "chat"

    def render(self, transcript: Transcript, template: ChatTemplate | None) -> Rendering:
        """Render the conversation.

        ConditionError where the template cannot write conversations; TranscriptError where it refuses this one.
        """
        if template is None or not transcript.responses:
            return nothing_to_score(transcript)
        starts, ends = response_spans(transcript)
        contents, written, between = _conversation(transcript, template)
        pieces = [piece for pair in zip(between, written, strict=False) for piece in pair]
        if not pieces[0].startswith(template.begin_of_text):
            pieces[0] = template.begin_of_text + pieces[0]
        text, at = joined([*pieces, between[-1]])
        spans = np.array(at[3::4], dtype=np.int64)
        altered = [had != has for had, has in zip(contents[1::2], written[1::2], strict=True)]
        status = scored_unless_empty(starts, ends)
        status[np.array(altered) & (ends > starts)] = Status.altered.code
        return Rendering(text, spans[:, 0], spans[:, 1], status, special_tokens_in_text=True, in_turns=True)


def _conversation(transcript: Transcript, template: ChatTemplate) -> tuple[list[str], list[str], list[str]]:
    """Contents as they should be, as the template writes them, and what stands before, between and after them."""
    contents = _contents(transcript)
    asked = [*contents, END_OF_CONVERSATION]
    roles = ("user", "assistant") * len(transcript.responses) + ("user",)
    try:
        between = frames(template, roles, generation_prompt=True)
        prompted = _prompted(template, between)
    except ValueError as error:
        raise ConditionError(
            f"{template.name}: its chat template cannot write a conversation of user and assistant ({error}); sweep it "
            "without chat"
        ) from error
    try:
        text = template.render(turns_of(roles, asked), generation_prompt=True)
        found = places(text, between, asked)
    except ValueError as error:
        raise TranscriptError(
            f"{transcript.study}, participant {transcript.participant}: the chat template of {template.name} refuses "
            f"this transcript ({error}); sweep it without chat"
        ) from error
    return contents, [text[start:end] for start, end in found[:-1]], prompted


def _prompted(template: ChatTemplate, between: Sequence[str]) -> list[str]:
    """`between`, with the generation prompt in front of the assistant's turns, up to where the last turn begins."""
    prompt = between[-1]
    unasked, asked = (frames(template, ("user",), generation_prompt=wanted)[-1] for wanted in (False, True))
    prompted = list(between[:-1])
    for number in range(1, len(prompted), 2):
        adds = prompted[number].removeprefix(prompt)
        if unasked != asked and adds.strip():
            prompted[number] = prompt
    return prompted


def _contents(transcript: Transcript) -> list[str]:
    """Texts of user and assistant in turn, up to the last response."""
    contents = []
    read = 0
    for response in transcript.responses:
        contents += [transcript.text[read : response.start - len(OPEN)], transcript.response_text(response)]
        read = response.end + len(CLOSE)
    return contents
