"""The seam between transcripts and checkpoints: what a condition is, what it gives, what it may ask a checkpoint.

A condition sees text only. What needs the checkpoint (its chat template) reaches it through `ChatTemplate`; tokens,
cuts at a context and batches are not its concern.
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
    in_turns: bool = False
    """The responses are turns that a chat template wrote; no markers stand around them."""


class ChatTemplate(Protocol):
    """The chat template of a checkpoint, as a condition may use it."""

    name: str
    """Of the checkpoint, for messages."""
    begin_of_text: str
    """What the checkpoint's tokenizer puts before every text; empty where it puts nothing."""

    def __hash__(self) -> int: ...

    def render(self, turns: Sequence[Mapping[str, str]], *, generation_prompt: bool) -> str:
        """Text of the turns (`role`, `content`), thinking off, the date fixed.

        ValueError, with the template's own words, where it refuses them.
        """


class Condition(ABC):
    """A way to put transcripts before checkpoints. Whoever adds one derives from this class."""

    name: str
    """As it stands in `conditions=[…]` and in the results."""

    @abstractmethod
    def render(self, transcript: Transcript, template: ChatTemplate | None) -> Rendering:
        """Render the text to be read and where the responses stand in it."""

    def renderings(self, transcript: Transcript, template: ChatTemplate | None) -> Iterable[Rendering]:
        """All texts to be read for a transcript, at least one; most conditions need only one.

        A response is `scored` in at most one of them. One that is scored in none has the same status in all.
        """
        return (self.render(transcript, template),)


def response_spans(transcript: Transcript) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and one-past-last character of every response in the source text, int64 [R] each."""
    places = np.array([(r.start, r.end) for r in transcript.responses], dtype=np.int64).reshape(-1, 2)
    return places[:, 0], places[:, 1]


def scored_unless_empty(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int8]:
    """Status of responses of which all are to be scored, int8 [R]."""
    return np.where(ends > starts, Status.scored.code, Status.empty.code).astype(np.int8)


def nothing_to_score(transcript: Transcript) -> Rendering:
    """Nothing to read: the condition does not apply to this transcript."""
    n = len(transcript.responses)
    status = np.full(n, Status.not_applicable.code, np.int8)
    return Rendering("", np.zeros(n, np.int64), np.zeros(n, np.int64), status)


def truncate_characters(rendering: Rendering, n_characters: int) -> Rendering:
    """Keep the first `n_characters`; a response whose closing marker lies beyond them is cut, with its marker."""
    if len(rendering.text) <= n_characters:
        return rendering
    marked = rendering.status != Status.not_applicable.code
    open_at_cut = marked & (rendering.ends + len(CLOSE) > n_characters)
    keep = n_characters
    if open_at_cut.any():
        keep = min(keep, int(rendering.starts[open_at_cut][0]) - len(OPEN))
    status = np.where(open_at_cut, Status.cut.code, rendering.status).astype(np.int8)
    return replace(rendering, text=rendering.text[:keep], status=status)
