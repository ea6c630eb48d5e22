"""`chat`: the transcript as a conversation in the checkpoint's own chat template; responses are the assistant's turns.

Source: the study's chat control (arXiv 2605.07632), with faults of its scripts corrected: every response is scored
after the template's generation prompt, and a response that the template alters is not scored. Does not depend on
tokens; dates and thinking switches are handled by the template.
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
from psych_ray.transcripts.conditions.turns import (
    END_OF_CONVERSATION,
    concatenate,
    content_spans,
    separators,
    turns_of,
)
from psych_ray.transcripts.markers import CLOSE, OPEN
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.status import Status


class Chat(Condition):
    """A response is a turn of the assistant, the text between two responses one of the user, empty texts included.

    There is one text per transcript, as the conversation would have been generated turn by turn: each response follows
    the turns before it as the template writes them, and then its generation prompt, thinking off. What a generation
    prompt adds stays in the text before later responses (Qwen3's empty think block, which its template removes from
    earlier turns), so that a single pass serves all responses. White space that the template writes between its
    generation prompt and a turn's content is kept; a template without generation prompt is used with the header that
    it writes before the assistant's turns. The text begins with one begin-of-text where the checkpoint's tokenizer or
    its template has any, and ends where the turn after the last response would begin. For a checkpoint without
    template all responses are not applicable.
    """

    name = "chat"

    def render(self, transcript: Transcript, template: ChatTemplate | None) -> Rendering:
        """Render the conversation.

        ConditionError where the template cannot write conversations, TranscriptError where it cannot write this one.
        """
        if template is None or not transcript.responses:
            return nothing_to_score(transcript)
        starts, ends = response_spans(transcript)
        contents, written, between = _conversation(transcript, template)
        pieces = [piece for pair in zip(between, written, strict=False) for piece in pair]
        if not pieces[0].startswith(template.begin_of_text):
            pieces[0] = template.begin_of_text + pieces[0]
        text, span_of_piece = concatenate([*pieces, between[-1]])
        spans = np.array(span_of_piece[3::4], dtype=np.int64)
        altered = [content != in_text for content, in_text in zip(contents[1::2], written[1::2], strict=True)]
        status = scored_unless_empty(starts, ends)
        status[np.array(altered) & (ends > starts)] = Status.altered.code
        return Rendering(text, spans[:, 0], spans[:, 1], status, special_tokens_in_text=True, in_turns=True)


def _conversation(transcript: Transcript, template: ChatTemplate) -> tuple[list[str], list[str], list[str]]:
    """Contents of the turns, the same as the template writes them, and the text before, between and after them."""
    contents = _contents(transcript)
    with_end = [*contents, END_OF_CONVERSATION]
    roles = ("user", "assistant") * len(transcript.responses) + ("user",)
    try:
        between = separators(template, roles, generation_prompt=True)
        prompted = _with_generation_prompts(template, between)
    except ValueError as error:
        raise ConditionError(
            f"{template.name}: its chat template cannot write a conversation of user and assistant ({error}); sweep it "
            "without chat"
        ) from error
    try:
        text = template.render(turns_of(roles, with_end), generation_prompt=True)
        spans = content_spans(text, between, with_end)
    except ValueError as error:
        raise TranscriptError(
            f"{transcript.study}, participant {transcript.participant}: the chat template of {template.name} cannot "
            f"write this transcript ({error}); sweep it without chat"
        ) from error
    return contents, [text[start:end] for start, end in spans[:-1]], prompted


def _with_generation_prompts(template: ChatTemplate, between: Sequence[str]) -> list[str]:
    """`between` without its last entry, and with the generation prompt before the assistant's turns."""
    prompt = between[-1]
    without, with_prompt = (separators(template, ("user",), generation_prompt=add)[-1] for add in (False, True))
    prompted = list(between[:-1])
    for number in range(1, len(prompted), 2):
        after_prompt = prompted[number].removeprefix(prompt)
        if without != with_prompt and after_prompt.strip():
            prompted[number] = prompt
    return prompted


def _contents(transcript: Transcript) -> list[str]:
    """Texts of user and assistant, alternating, up to the last response."""
    contents = []
    position = 0
    for response in transcript.responses:
        contents += [transcript.text[position : response.start - len(OPEN)], transcript.response_text(response)]
        position = response.end + len(CLOSE)
    return contents
