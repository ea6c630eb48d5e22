"""Conditions: how a transcript is put before a checkpoint.

A condition turns a transcript into a `Rendering`: the text to be read and the place of every response in it. It sees
text only. What needs the checkpoint (its chat template) reaches it through `ChatTemplate`; tokens are not its concern.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from psych_ray.errors import ConfigError, UnsupportedError
from psych_ray.transcripts.markers import CLOSE, OPEN
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.status import Status


@dataclass(frozen=True, slots=True)
class Rendering:
    """What a checkpoint reads for one transcript. Arrays have one entry a response of the source text [R]."""

    text: str
    starts: NDArray[np.int64]
    """First character of each response in `text`; only meaningful where the status is `scored`."""
    ends: NDArray[np.int64]
    """One past its last character."""
    status: NDArray[np.int8]
    """`Status.scored.code` where the response is to be scored, else why it is not."""
    special_tokens_in_text: bool = False
    """The text already holds the special tokens (a chat template wrote them): the tokenizer must add none."""


class ChatTemplate(Protocol):
    """The chat template of a checkpoint, as a condition may use it."""

    def render(self, turns: Sequence[Mapping[str, str]], *, generation_prompt: bool) -> str:
        """Text of the turns (`role`, `content`), thinking off, the date fixed."""


class Condition(Protocol):
    """A way to put transcripts before checkpoints."""

    name: str

    def render(self, transcript: Transcript, template: ChatTemplate | None) -> Rendering:
        """Render the text to be read and where the responses stand in it."""


class Plain:
    """The transcript as it is, markers included: the checkpoint completes a document (study, main analysis)."""

    name = "plain"

    def render(self, transcript: Transcript, template: ChatTemplate | None) -> Rendering:
        """Render the source text unchanged; responses stand where they stand in it."""
        starts, ends = response_places(transcript)
        status = np.where(ends > starts, Status.scored.code, Status.empty.code).astype(np.int8)
        return Rendering(transcript.text, starts, ends, status)


_CONDITIONS: dict[str, Condition] = {"plain": Plain()}
_PLANNED = ("chat", "persona", "discrete", "zero_shot", "history_only")


def condition_named(name: str) -> Condition:
    """Find the condition of that name. UnsupportedError for a planned one, ConfigError for an unknown one."""
    if name in _CONDITIONS:
        return _CONDITIONS[name]
    if name in _PLANNED:
        raise UnsupportedError(f"conditions=[{name}]: this version scores {', '.join(_CONDITIONS)} only")
    raise ConfigError(f"conditions=[{name}]: no such condition; there is {', '.join([*_CONDITIONS, *_PLANNED])}")


def response_places(transcript: Transcript) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and one-past-last character of every response in the source text, int64 [R] each."""
    places = np.array([(r.start, r.end) for r in transcript.responses], dtype=np.int64).reshape(-1, 2)
    return places[:, 0], places[:, 1]


def cut_characters(rendering: Rendering, n_characters: int) -> Rendering:
    """Keep the first `n_characters`; a response whose closing marker lies beyond them is cut, with its marker."""
    if len(rendering.text) <= n_characters:
        return rendering
    open_at_cut = rendering.ends + len(CLOSE) > n_characters
    keep = n_characters
    if open_at_cut.any():
        keep = min(keep, int(rendering.starts[open_at_cut][0]) - len(OPEN))
    status = np.where(open_at_cut, Status.cut.code, rendering.status).astype(np.int8)
    return replace(rendering, text=rendering.text[:keep], status=status)
