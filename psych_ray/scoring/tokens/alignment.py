"""From spans of characters to spans of tokens, by the character offsets that a fast tokenizer reports.

The rule for edges: **a token is scored for a response when it covers at least one of its characters.** A token that
also covers characters outside (`->>` in `<<non->>`) is scored whole and counted as straddling; a token that covers
characters of two responses belongs to the first. Independent of token ids.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from psych_ray.errors import CheckpointError
from psych_ray.transcripts.conditions import Rendering
from psych_ray.transcripts.status import Status


@dataclass(frozen=True, slots=True)
class Alignment:
    """Tokens of one rendering [T] and, for each response [R], the half-open span of tokens that are scored for it."""

    token_ids_T: NDArray[np.int64]
    first_R: NDArray[np.int64]
    last_R: NDArray[np.int64]
    """One past the last token; equal to `first_R` where the response is not scored."""
    status_R: NDArray[np.int8]
    only_token_R: NDArray[np.int64]
    """Id of the token of a response that is one token, also where it is beyond the limit; else -1."""
    straddling_edges: int
    """Number of edges of responses that are inside a scored token."""


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """Token ids of a text and the half-open span of characters that each token covers, int64 [T] each."""

    ids_T: NDArray[np.int64]
    starts_T: NDArray[np.int64]
    ends_T: NDArray[np.int64]


def align(rendering: Rendering, tokenizer: PreTrainedTokenizerBase, limit: int | None) -> Alignment:
    """Tokenize a rendering and find the tokens of each response; the text is truncated to `limit` tokens."""
    tokens = _without_gaps(tokenize(rendering, tokenizer))
    first_R = np.searchsorted(tokens.ends_T, rendering.starts, side="right")
    last_R = np.searchsorted(tokens.starts_T, rendering.ends, side="left")
    status_R = rendering.status.copy()
    to_score_R = status_R == Status.scored.code
    _give_shared_tokens_to_the_first(first_R, last_R, to_score_R)
    is_empty_R = first_R >= last_R
    status_R[to_score_R & is_empty_R] = Status.empty.code
    # No token precedes the first one, so it has no prediction.
    status_R[to_score_R & ~is_empty_R & (first_R == 0)] = Status.cut.code
    return truncated_alignment(rendering, tokens, first_R, last_R, status_R, limit)


def tokenize(rendering: Rendering, tokenizer: PreTrainedTokenizerBase) -> TokenizedText:
    """Tokenize a rendering, with the special tokens of the tokenizer unless the text already has them."""
    encoded = tokenizer(
        rendering.text,
        add_special_tokens=not rendering.special_tokens_in_text,
        return_attention_mask=False,
        verbose=False,
    )
    offsets = encoded.encodings[0].offsets
    # Twice as fast as np.asarray, which looks at each pair; other threads wait meanwhile.
    offsets_T2 = np.fromiter(chain.from_iterable(offsets), np.int64, 2 * len(offsets)).reshape(-1, 2)
    return TokenizedText(np.asarray(encoded["input_ids"], dtype=np.int64), offsets_T2[:, 0], offsets_T2[:, 1])


def truncated_alignment(
    rendering: Rendering,
    tokens: TokenizedText,
    first_R: NDArray[np.int64],
    last_R: NDArray[np.int64],
    status_R: NDArray[np.int8],
    limit: int | None,
) -> Alignment:
    """Truncate a text to `limit` tokens and count straddling edges.

    A response that ends beyond the limit gets the status `cut`. `status_R` is changed in place.
    """
    ids_T = tokens.ids_T
    is_token_R = (status_R == Status.scored.code) & (last_R - first_R == 1)
    only_token_R = np.full(len(status_R), -1, np.int64)
    only_token_R[is_token_R] = ids_T[first_R[is_token_R]]
    if limit is not None:
        status_R[(status_R == Status.scored.code) & (last_R > limit)] = Status.cut.code
        ids_T = ids_T[:limit]
    is_scored_R = status_R == Status.scored.code
    last_R = np.where(is_scored_R, last_R, first_R)
    straddling_starts = tokens.starts_T[first_R[is_scored_R]] < rendering.starts[is_scored_R]
    straddling_ends = tokens.ends_T[last_R[is_scored_R] - 1] > rendering.ends[is_scored_R]
    straddling = int(straddling_starts.sum() + straddling_ends.sum())
    return Alignment(ids_T, first_R, last_R, status_R, only_token_R, straddling)


def require_offsets(tokenizer: PreTrainedTokenizerBase, checkpoint: str) -> None:
    """Raise CheckpointError for a tokenizer that does not report which characters a token covers."""
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"{checkpoint}: its tokenizer reports no character offsets, so responses cannot be found among tokens; "
            "use a checkpoint with a tokenizer.json"
        )


def _without_gaps(tokens: TokenizedText) -> TokenizedText:
    """Extend the spans of tokens so that they cover the whole text; starts and ends are non-decreasing.

    A gap between two tokens (some tokenizers exclude spaces from their offsets) belongs to the token after it. A
    special token covers nothing. Several tokens of one character (an emoji in bytes) all cover it.
    """
    ends = np.maximum.accumulate(tokens.ends_T)
    before = np.concatenate([[0], ends[:-1]])
    covers_nothing = (tokens.starts_T == tokens.ends_T) & (ends == before)
    starts = np.where(covers_nothing, before, np.minimum(tokens.starts_T, before))
    return replace(tokens, starts_T=np.maximum.accumulate(starts), ends_T=ends)


def _give_shared_tokens_to_the_first(
    first_R: NDArray[np.int64], last_R: NDArray[np.int64], to_score_R: NDArray[np.bool_]
) -> None:
    first, last = first_R[to_score_R], last_R[to_score_R]
    first[1:] = np.maximum(first[1:], np.maximum.accumulate(last)[:-1])
    first_R[to_score_R] = first
