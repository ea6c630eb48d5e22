"""The interface between transcripts and checkpoints: `Condition`, and the `Rendering` that it returns.

A condition works on text. The chat template of a checkpoint is available as a `ChatTemplate`; tokens, truncation at the
context of a checkpoint and batches are handled elsewhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from psych_ray.transcripts.markers import CLOSE, OPEN
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.status import Status


@dataclass(frozen=True, slots=True)
class Rendering:
    """The text of one transcript for a checkpoint. Arrays have one entry per response of the source text [R]."""

    text: str
    starts: NDArray[np.int64]
    """First character of each response in `text`; only valid where the status is `scored`."""
    ends: NDArray[np.int64]
    """One past its last character."""
    status: NDArray[np.int8]
    """`Status.scored.code` where the response is to be scored, else the reason why not."""
    special_tokens_in_text: bool = False
    """The text already has the special tokens (a chat template wrote them): the tokenizer must add none."""
    in_turns: bool = False
    """The responses are turns that a chat template wrote, without markers around them."""


class ChatTemplate(Protocol):
    """The chat template of a checkpoint, as a condition may use it."""

    name: str
    """Name of the checkpoint, for messages."""
    begin_of_text: str
    """Text of the token that the checkpoint's tokenizer adds before every text; empty where it adds none."""

    def __hash__(self) -> int: ...

    def render(self, turns: Sequence[Mapping[str, str]], *, generation_prompt: bool) -> str:
        """Text of the turns (`role`, `content`), thinking off, the date fixed.

        ValueError, with the template's message, where it raises an error.
        """


class Condition(ABC):
    """How a transcript is presented to a checkpoint. Base class of all conditions."""

    name: str
    """Its name in `conditions=[…]` and in the results."""

    @abstractmethod
    def render(self, transcript: Transcript, template: ChatTemplate | None) -> Rendering:
        """Render the text to be scored and the spans of the responses in it."""

    def renderings(self, transcript: Transcript, template: ChatTemplate | None) -> Iterable[Rendering]:
        """All texts to be scored for a transcript, at least one; most conditions need only one.

        A response is `scored` in at most one of them. One that is scored in none has the same status in all.
        """
        return (self.render(transcript, template),)


def response_spans(transcript: Transcript) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and one-past-last character of every response in the source text, int64 [R] each."""
    spans = np.array([(r.start, r.end) for r in transcript.responses], dtype=np.int64).reshape(-1, 2)
    return spans[:, 0], spans[:, 1]


def scored_unless_empty(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int8]:
    """Status `scored` for all responses but the empty ones, int8 [R]."""
    return np.where(ends > starts, Status.scored.code, Status.empty.code).astype(np.int8)


def nothing_to_score(transcript: Transcript) -> Rendering:
    """An empty text: the condition is not applicable to this transcript."""
    n = len(transcript.responses)
    status = np.full(n, Status.not_applicable.code, np.int8)
    return Rendering("", np.zeros(n, np.int64), np.zeros(n, np.int64), status)


def truncate_characters(rendering: Rendering, n_characters: int) -> Rendering:
    """Keep the first `n_characters`. A response whose closing marker is not among them is removed with its marker.

    Its status becomes `cut`.
    """
    if len(rendering.text) <= n_characters:
        return rendering
    is_marked = rendering.status != Status.not_applicable.code
    is_truncated = is_marked & (rendering.ends + len(CLOSE) > n_characters)
    keep = n_characters
    if is_truncated.any():
        keep = min(keep, int(rendering.starts[is_truncated][0]) - len(OPEN))
    status = np.where(is_truncated, Status.cut.code, rendering.status).astype(np.int8)
    return replace(rendering, text=rendering.text[:keep], status=status)
