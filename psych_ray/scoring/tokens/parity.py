"""Responses found among tokens as the study's authors found them: by token ids. Only for `scoring.parity`.

Source: github.com/marcelbinz/Psych-201, `0_analyses/`, commit c63dea18, told in our own words. A response is what
stands between the token ids of an opening and those of a closing marker. Where a tokenizer fuses a marker with its
neighbour, the response is lost or runs on into the prompt, and is scored like that: parity means their numbers. Of
texts this module knows nothing but where responses stand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from psych_ray.errors import ConditionError
from psych_ray.scoring.tokens.alignment import Alignment
from psych_ray.scoring.tokens.chat_templates import template_of
from psych_ray.transcripts.conditions import Rendering
from psych_ray.transcripts.status import Status

# Contents of a conversation that shows what a template writes around an assistant's turn; no transcript has them.
_ASSISTANT, _NEXT_USER = "\ue000assistant\ue001", "\ue000next\ue001"


def align_as_authors(rendering: Rendering, tokenizer: PreTrainedTokenizerBase, limit: int | None) -> Alignment:
    """Tokenize a rendering and find the tokens of each response by the ids of its markers; `limit` as in `align`.

    In a conversation (`rendering.in_turns`) the markers are what the chat template writes before and after the
    assistant's content. A span that was found goes to the response that starts nearest to where its opening marker
    ends, whatever that response holds; the first of several. A response that no span goes to is not applicable, unless
    it is cut or empty.
    """
    if rendering.in_turns:
        opening, closing = _turn_markers(tokenizer)
    else:
        opening, closing = _ids(tokenizer, " <<"), _ids(tokenizer, ">>")
    encoded = tokenizer(
        rendering.text,
        add_special_tokens=not rendering.special_tokens_in_text,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    ids_T = np.asarray(encoded["input_ids"], dtype=np.int64)
    offsets_T2 = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    first_R, last_R = _tokens_of_responses(rendering, _spans(ids_T, opening, closing), offsets_T2)
    found_R = last_R > first_R
    status_R = rendering.status.copy()
    status_R[~found_R & (status_R == Status.scored.code)] = Status.not_applicable.code
    status_R[found_R] = Status.scored.code
    if limit is not None:
        status_R[found_R & (last_R > limit)] = Status.cut.code
        ids_T = ids_T[:limit]
    scored_R = status_R == Status.scored.code
    last_R = np.where(scored_R, last_R, first_R)
    straddling = int((offsets_T2[first_R[scored_R], 0] < rendering.starts[scored_R]).sum())
    straddling += int((offsets_T2[last_R[scored_R] - 1, 1] > rendering.ends[scored_R]).sum())
    return Alignment(ids_T, first_R, last_R, status_R, straddling)


def _spans(ids_T: NDArray[np.int64], opening: Sequence[int], closing: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Half-open ranges of tokens between an opening and the next closing marker, or the end of the text."""
    opens, closes = _occurrences(ids_T, opening), _occurrences(ids_T, closing)
    read = 0
    while (number := np.searchsorted(opens, read)) < len(opens):
        first = int(opens[number]) + len(opening)
        closed = np.searchsorted(closes, first)
        last = int(closes[closed]) if closed < len(closes) else len(ids_T)
        if last > first:
            yield first, last
        read = last + len(closing)


def _occurrences(ids_T: NDArray[np.int64], wanted: Sequence[int]) -> NDArray[np.int64]:
    """Places where the ids of `wanted` follow each other, ascending."""
    n = max(0, len(ids_T) - len(wanted) + 1)
    here = np.ones(n, np.bool_)
    for after, token_id in enumerate(wanted):
        here &= ids_T[after : after + n] == token_id
    return np.flatnonzero(here)


def _tokens_of_responses(
    rendering: Rendering, spans: Iterator[tuple[int, int]], offsets_T2: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and one-past-last token of each response, both 0 where no span goes to it."""
    first_R = np.zeros(len(rendering.status), np.int64)
    last_R = first_R.copy()
    in_text = np.flatnonzero(~np.isin(rendering.status, [Status.cut.code, Status.not_applicable.code]))
    starts = rendering.starts[in_text]
    for first, last in spans:
        if len(starts) == 0:
            break
        opened = offsets_T2[first - 1, 1]
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
    begins = np.array(encoded["offset_mapping"])[:, 0]
    at = text.index(_ASSISTANT)
    content, after, following = (
        int(np.argmax(begins >= place)) for place in (at, at + len(_ASSISTANT), text.index(_NEXT_USER))
    )
    if ids[: len(ids_of_start)] != ids_of_start:
        raise ConditionError(
            f"{template.name}: its chat template writes a turn in another way once it is answered, where the authors' "
            "scripts stop; sweep it without chat, or without scoring.parity"
        )
    return ids[len(ids_of_start) : content], ids[after:following]


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
