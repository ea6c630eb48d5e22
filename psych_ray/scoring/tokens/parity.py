"""Responses found by token ids, as the study's authors do it. Used with `scoring.parity` only.

Source: github.com/marcelbinz/Psych-201, `0_analyses/`, commit c63dea18; implemented from its rules. A response is the
tokens between the token ids of an opening and of a closing marker. Where a tokenizer merges a marker with adjacent
text, the response is lost or extends into the prompt, and is scored like that, so that the numbers equal the authors'.
Does not import conditions beyond their renderings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from psych_ray.errors import ConditionError
from psych_ray.scoring.tokens.alignment import Alignment, TokenizedText, tokenize, truncated_alignment
from psych_ray.scoring.tokens.chat_templates import template_of
from psych_ray.transcripts.conditions import Rendering
from psych_ray.transcripts.status import Status

# Contents that occur in no transcript: they show what a template writes around an assistant's turn.
_ASSISTANT, _NEXT_USER = "\ue000assistant\ue001", "\ue000next\ue001"


def align_as_authors(rendering: Rendering, tokenizer: PreTrainedTokenizerBase, limit: int | None) -> Alignment:
    """Tokenize a rendering and find the tokens of each response by the ids of its markers; `limit` as in `align`.

    In a conversation (`rendering.in_turns`) the markers are what the chat template writes before and after the
    assistant's content. A span between markers is assigned to the response that starts nearest to the end of its
    opening marker, whatever that response holds; the first span where there are several. A response without span is not
    applicable, unless it is cut or empty.
    """
    if rendering.in_turns:
        opening, closing = _turn_markers(tokenizer)
    else:
        opening, closing = _ids(tokenizer, " <<"), _ids(tokenizer, ">>")
    tokens = tokenize(rendering, tokenizer)
    first_R, last_R = _assigned_spans(rendering, _marked_spans(tokens.ids_T, opening, closing), tokens)
    is_found_R = last_R > first_R
    status_R = rendering.status.copy()
    status_R[~is_found_R & (status_R == Status.scored.code)] = Status.not_applicable.code
    status_R[is_found_R] = Status.scored.code
    return truncated_alignment(rendering, tokens, first_R, last_R, status_R, limit)


def _marked_spans(
    ids_T: NDArray[np.int64], opening: Sequence[int], closing: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Half-open spans of tokens between an opening and the next closing marker, or the end of the text."""
    opens, closes = _occurrences(ids_T, opening), _occurrences(ids_T, closing)
    position = 0
    while (number := np.searchsorted(opens, position)) < len(opens):
        first = int(opens[number]) + len(opening)
        closed = np.searchsorted(closes, first)
        last = int(closes[closed]) if closed < len(closes) else len(ids_T)
        if last > first:
            yield first, last
        position = last + len(closing)


def _occurrences(ids_T: NDArray[np.int64], sequence: Sequence[int]) -> NDArray[np.int64]:
    """Indices at which `sequence` occurs in `ids_T`, ascending."""
    n = max(0, len(ids_T) - len(sequence) + 1)
    matches = np.ones(n, np.bool_)
    for offset, token_id in enumerate(sequence):
        matches &= ids_T[offset : offset + n] == token_id
    return np.flatnonzero(matches)


def _assigned_spans(
    rendering: Rendering, spans: Iterator[tuple[int, int]], tokens: TokenizedText
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and one-past-last token of each response [R], both 0 where no span is assigned to it."""
    first_R = np.zeros(len(rendering.status), np.int64)
    last_R = first_R.copy()
    in_text = np.flatnonzero(~np.isin(rendering.status, [Status.cut.code, Status.not_applicable.code]))
    starts = rendering.starts[in_text]
    for first, last in spans:
        if len(starts) == 0:
            break
        opened = tokens.ends_T[first - 1]
        after = min(int(np.searchsorted(starts, opened)), len(starts) - 1)
        before = max(after - 1, 0)
        nearest = before if abs(starts[before] - opened) <= abs(starts[after] - opened) else after
        response = in_text[nearest]
        if last_R[response] == 0:
            first_R[response], last_R[response] = first, last
    return first_R, last_R


def _turn_markers(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Token ids between a user's and an assistant's content, less the end of the user's turn, and those after it.

    ConditionError where the authors' scripts stop: the tokens of a conversation do not begin with those of its start.
    """
    template = template_of(tokenizer)
    assert template is not None, "a conversation was rendered without a template"
    start = [{"role": "user", "content": "u"}]
    turns = [*start, {"role": "assistant", "content": _ASSISTANT}, {"role": "user", "content": _NEXT_USER}]
    ids_of_start = _ids(tokenizer, template.render(start, generation_prompt=False))
    text = template.render(turns, generation_prompt=False)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = list(encoded["input_ids"])
    token_starts = np.array(encoded["offset_mapping"])[:, 0]
    content_start = text.index(_ASSISTANT)
    content, after, following = (
        int(np.argmax(token_starts >= character))
        for character in (content_start, content_start + len(_ASSISTANT), text.index(_NEXT_USER))
    )
    if ids[: len(ids_of_start)] != ids_of_start:
        raise ConditionError(
            f"{template.name}: its chat template writes a turn differently once an answer follows, where the authors' "
            "scripts stop; sweep it without chat, or without scoring.parity"
        )
    return ids[len(ids_of_start) : content], ids[after:following]


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
