"""The conditions as the study's authors carried them out, faults included, for `scoring.parity`.

Source: github.com/marcelbinz/Psych-201, `0_analyses/`, commit c63dea18 (its evaluation scripts, and the script that
made the discrete set); implemented from its rules. Does not depend on tokens. One difference remains: a chat template
that prints the current date prints a fixed one here.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from psych_ray.errors import TranscriptError
from psych_ray.transcripts.conditions.plain import Plain
from psych_ray.transcripts.conditions.rendering import ChatTemplate, Condition, Rendering, nothing_to_score
from psych_ray.transcripts.conditions.turns import content_spans, separators, turns_of
from psych_ray.transcripts.markers import CLOSE, OPEN
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.status import Status

CUT_CHARACTERS = 32_768
"""The authors' limit. Their option is called max-seq-length, but counts characters."""

# String, offset in each of its occurrences, text that is inserted there; in this order.
_INSERTED = (("<<skip>>", 8, "."), ("<<-", 2, " "), ("<<think>>", 2, " "))
_SPACE_BEFORE_CLOSE = re.compile(r"\s+(?=>>)")
_MARKER = re.compile(r"(<<|>>)")


class AsAuthors(Condition):
    """Another condition's text, truncated and repaired as the authors did (`repaired`)."""

    def __init__(self, condition: Condition) -> None:
        self.name = condition.name
        self._condition = condition

    def render(self, transcript: Transcript, template: ChatTemplate | None) -> Rendering:
        """Render the repaired text, with the spans of the responses in it."""
        return repaired(self._condition.render(transcript, template))


class ChatAsAuthors(Condition):
    """Truncated and repaired, with a full stop added at the end, and split into turns at the markers.

    No turn is made of empty text between markers, so turns of one role can follow each other. There is no generation
    prompt: a response follows the header of its turn. The rendered text is tokenized like any other, so that it begins
    with both the template's and the tokenizer's begin-of-text; this is how "special tokens as published" is understood
    here. Responses are scored as the template writes them, altered or not.
    """

    name = "chat"

    def render(self, transcript: Transcript, template: ChatTemplate | None) -> Rendering:
        """Render the conversation. TranscriptError where the template raises an error for it."""
        if template is None:
            return nothing_to_score(transcript)
        plain = repaired(Plain().render(transcript, None))
        begins, roles, contents = _turns(plain.text + ".")
        try:
            text = template.render(turns_of(roles, contents), generation_prompt=False)
            spans = content_spans(text, separators(template, tuple(roles), generation_prompt=False), contents)
        except ValueError as error:
            raise TranscriptError(
                f"{transcript.study}, participant {transcript.participant}: the chat template of {template.name} "
                f"cannot write this transcript in the authors' form ({error}); sweep it without chat or scoring.parity"
            ) from error
        span_of_turn = dict(zip(begins, spans, strict=True))
        of_responses = [span_of_turn.get(start, (0, 0)) for start in plain.starts.tolist()]
        # There is no turn for an empty response: its span is that of the response before it.
        starts, ends = np.maximum.accumulate(np.array(of_responses, dtype=np.int64).reshape(-1, 2)).T
        return replace(plain, text=text, starts=starts, ends=ends, in_turns=True)


def repaired(rendering: Rendering) -> Rendering:
    """The first 32,768 characters, then the authors' repairs in their order.

    A full stop is inserted after `<<skip>>`, a space after the marker in `<<-` and `<<think>>`, and `More Details >>`
    becomes `More Details ->`. When more markers open than close, everything from the last opening one is dropped.
    Finally, white space right before `>>` is dropped. A response that is dropped has the status `cut`, a blank one
    `empty`.
    """
    text = rendering.text[:CUT_CHARACTERS]
    starts, ends = rendering.starts, rendering.ends
    for string, offset, inserted in _INSERTED:
        at = np.array([found.start() + offset for found in re.finditer(string, text)], dtype=np.int64)
        starts, ends = (edges + len(inserted) * np.searchsorted(at, edges) for edges in (starts, ends))
        text = text.replace(string, string[:offset] + inserted + string[offset:])
    text = text.replace("More Details >>", "More Details ->")
    if text.count(OPEN) > text.count(CLOSE):
        text = text[: text.rfind(OPEN)]
    is_kept = starts <= len(text)
    blanks = np.array([found.span() for found in _SPACE_BEFORE_CLOSE.finditer(text)], dtype=np.int64).reshape(-1, 2)
    dropped = np.concatenate([[0], np.cumsum(blanks[:, 1] - blanks[:, 0])])
    starts, ends = (edges - dropped[np.searchsorted(blanks[:, 0], edges)] for edges in (starts, ends))
    text = _SPACE_BEFORE_CLOSE.sub("", text)
    status = np.where(ends > starts, Status.scored.code, Status.empty.code)
    status = np.where(is_kept, status, Status.cut.code)
    status = np.where(rendering.status == Status.not_applicable.code, rendering.status, status)
    return replace(rendering, text=text, starts=starts, ends=ends, status=status.astype(np.int8))


def _turns(text: str) -> tuple[list[int], list[str], list[str]]:
    """First character, role and content of each turn. A marker ends a turn: `<<` a user's, `>>` an assistant's."""
    begins, roles, contents = [], [], []
    position = 0
    role_at_end = "user"
    for found in [*_MARKER.finditer(text), None]:
        content = text[position : found.start() if found else len(text)]
        role = role_at_end if found is None else "user" if found.group() == OPEN else "assistant"
        if content:
            begins.append(position)
            roles.append(role)
            contents.append(content)
        if found:
            position = found.end()
            role_at_end = "assistant" if found.group() == OPEN else "user"
    return begins, roles, contents
