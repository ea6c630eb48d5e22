"""The conditions as the study's authors carried them out, faults included: what `scoring.parity` asks for.

Source: github.com/marcelbinz/Psych-201, `0_analyses/`, commit c63dea18 (its evaluation scripts, and the script that
made the discrete set). The rules are theirs, told in our own words; how responses are found among tokens is not known
here. What cannot be matched: a chat template that prints today's date prints ours.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from psych_ray.errors import TranscriptError
from psych_ray.transcripts.conditions.plain import Plain
from psych_ray.transcripts.conditions.rendering import ChatTemplate, Condition, Rendering, nothing_to_score
from psych_ray.transcripts.conditions.turns import frames, places, turns_of
from psych_ray.transcripts.markers import CLOSE, OPEN
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.status import Status

CUT_CHARACTERS = 32_768
"""Their option is called max-seq-length, but it counts characters."""

# Text inserted so many characters into every occurrence of a string, in this order.
_INSERTED = (("<<skip>>", 8, "."), ("<<-", 2, " "), ("<<think>>", 2, " "))
_SPACE_BEFORE_CLOSE = re.compile(r"\s+(?=>>)")
_MARKER = re.compile(r"(<<|>>)")


class AsAuthors(Condition):
    """Another condition's text, cut and repaired as the authors did (`repaired`)."""

    def __init__(self, condition: Condition) -> None:
        self.name = condition.name
        self._condition = condition

    def render(self, transcript: Transcript, template: ChatTemplate | None) -> Rendering:
        """Render the repaired text; responses stand where they were moved to."""
        return repaired(self._condition.render(transcript, template))


class ChatAsAuthors(Condition):
    """Cut and repaired, a full stop added at the very end, split at the markers into turns.

    Text between markers that is empty makes no turn, so that turns of one role may follow each other. No generation
    prompt: a response follows the header of its turn. Our reading of "special tokens as published": the rendered text
    is tokenised like any other, so that a begin-of-text of the template and one of the tokenizer both stand there.
    Responses are scored as the template writes them, altered or not.
    """

    name = "chat"

    def render(self, transcript: Transcript, template: ChatTemplate | None) -> Rendering:
        """Render the conversation. TranscriptError where the template refuses it."""
        if template is None:
            return nothing_to_score(transcript)
        plain = repaired(Plain().render(transcript, None))
        begins, roles, contents = _turns(plain.text + ".")
        try:
            text = template.render(turns_of(roles, contents), generation_prompt=False)
            found = places(text, frames(template, tuple(roles), generation_prompt=False), contents)
        except ValueError as error:
            raise TranscriptError(
                f"{transcript.study}, participant {transcript.participant}: the chat template of {template.name} "
                f"refuses this transcript as the authors put it ({error}); sweep it without chat or scoring.parity"
            ) from error
        in_text = dict(zip(begins, found, strict=True))
        spans = [in_text.get(start, (0, 0)) for start in plain.starts.tolist()]
        # An empty response makes no turn: it stands where the one before it does.
        starts, ends = np.maximum.accumulate(np.array(spans, dtype=np.int64).reshape(-1, 2)).T
        return replace(plain, text=text, starts=starts, ends=ends, in_turns=True)


def repaired(rendering: Rendering) -> Rendering:
    """The first 32,768 characters, then the authors' repairs in their order.

    `<<skip>>` gets a full stop after it; a space is put into `<<-` and `<<think>>` after the marker; `More Details >>`
    becomes `More Details ->`. When more markers open than close, everything from the last opening one is dropped.
    Last, white space right before `>>` is dropped. A response that does not survive is cut, a blank one empty.
    """
    text = rendering.text[:CUT_CHARACTERS]
    starts, ends = rendering.starts, rendering.ends
    for broken, into, inserted in _INSERTED:
        at = np.array([found.start() + into for found in re.finditer(broken, text)], dtype=np.int64)
        starts, ends = (places + len(inserted) * np.searchsorted(at, places) for places in (starts, ends))
        text = text.replace(broken, broken[:into] + inserted + broken[into:])
    text = text.replace("More Details >>", "More Details ->")
    if text.count(OPEN) > text.count(CLOSE):
        text = text[: text.rfind(OPEN)]
    survives = starts <= len(text)
    blanks = np.array([found.span() for found in _SPACE_BEFORE_CLOSE.finditer(text)], dtype=np.int64).reshape(-1, 2)
    dropped = np.concatenate([[0], np.cumsum(blanks[:, 1] - blanks[:, 0])])
    starts, ends = (places - dropped[np.searchsorted(blanks[:, 0], places)] for places in (starts, ends))
    text = _SPACE_BEFORE_CLOSE.sub("", text)
    status = np.where(ends > starts, Status.scored.code, Status.empty.code)
    status = np.where(survives, status, Status.cut.code)
    status = np.where(rendering.status == Status.not_applicable.code, rendering.status, status)
    return replace(rendering, text=text, starts=starts, ends=ends, status=status.astype(np.int8))


def _turns(text: str) -> tuple[list[int], list[str], list[str]]:
    """First character, role and content of each turn: what a marker ends has the role that the marker says."""
    begins, roles, contents = [], [], []
    read = 0
    role_at_end = "user"
    for found in [*_MARKER.finditer(text), None]:
        content = text[read : found.start() if found else len(text)]
        role = role_at_end if found is None else "user" if found.group() == OPEN else "assistant"
        if content:
            begins.append(read)
            roles.append(role)
            contents.append(content)
        if found:
            read = found.end()
            role_at_end = "assistant" if found.group() == OPEN else "user"
    return begins, roles, contents
