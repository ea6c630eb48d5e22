"""From places in a text to places among its tokens, by the character offsets that a fast tokenizer reports.

The rule for edges, the only one: **a token is scored for a response when it covers at least one of its characters.**
A token that also covers characters outside (`->>` in `<<non->>`) is scored whole and counted as straddling; a token
that covers characters of two responses belongs to the first. Tokens are never looked up by their ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from psych_ray.errors import CheckpointError
from psych_ray.transcripts.conditions import Rendering
from psych_ray.transcripts.status import Status


@dataclass(frozen=True, slots=True)
class Alignment:
    """Tokens of one rendering [T] and, for each response [R], the half-open range of tokens that are scored for it."""

    token_ids_T: NDArray[np.int64]
    first_R: NDArray[np.int64]
    last_R: NDArray[np.int64]
    """One past the last token; equal to `first_R` where the response is not scored."""
    status_R: NDArray[np.int8]
    straddling_edges: int
    """Edges of responses that a scored token reaches over."""


def align(rendering: Rendering, tokenizer: PreTrainedTokenizerBase, limit: int | None) -> Alignment:
    """Tokenize a rendering and find the tokens of each response; tokens from `limit` on are cut."""
    encoded = tokenizer(
        rendering.text,
        add_special_tokens=not rendering.special_tokens_in_text,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    ids_T = np.asarray(encoded["input_ids"], dtype=np.int64)
    starts_T, ends_T = _extents(np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2))
    first_R = np.searchsorted(ends_T, rendering.starts, side="right")
    last_R = np.searchsorted(starts_T, rendering.ends, side="left")
    status_R = rendering.status.copy()
    wanted_R = status_R == Status.scored.code
    _give_shared_tokens_to_the_first(first_R, last_R, wanted_R)

    def set_status(where: NDArray[np.bool_], status: Status) -> None:
        status_R[where & (status_R == Status.scored.code)] = status.code

    set_status(first_R >= last_R, Status.empty)
    set_status(first_R == 0, Status.cut)
    if limit is not None:
        set_status(last_R > limit, Status.cut)
        ids_T = ids_T[:limit]
    scored_R = status_R == Status.scored.code
    last_R = np.where(scored_R, last_R, first_R)
    straddling = int((starts_T[first_R[scored_R]] < rendering.starts[scored_R]).sum())
    straddling += int((ends_T[last_R[scored_R] - 1] > rendering.ends[scored_R]).sum())
    return Alignment(ids_T, first_R, last_R, status_R, straddling)


def require_offsets(tokenizer: PreTrainedTokenizerBase, checkpoint: str) -> None:
    """Raise CheckpointError for a tokenizer that cannot say which characters a token covers."""
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"{checkpoint}: its tokenizer reports no character offsets, so responses cannot be found among tokens; "
            "use a checkpoint with a tokenizer.json"
        )


def _extents(offsets_T2: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and one-past-last character of each token, both non-decreasing.

    A gap that a tokenizer leaves (it trims spaces off its offsets) belongs to the token that follows. A special token
    covers nothing. Several tokens of one character (an emoji in bytes) all cover it.
    """
    starts, ends = offsets_T2[:, 0], np.maximum.accumulate(offsets_T2[:, 1])
    before = np.concatenate([[0], ends[:-1]])
    covers_nothing = (offsets_T2[:, 0] == offsets_T2[:, 1]) & (ends == before)
    starts = np.where(covers_nothing, before, np.minimum(starts, before))
    return np.maximum.accumulate(starts), ends


def _give_shared_tokens_to_the_first(
    first_R: NDArray[np.int64], last_R: NDArray[np.int64], wanted_R: NDArray[np.bool_]
) -> None:
    first, last = first_R[wanted_R], last_R[wanted_R]
    first[1:] = np.maximum(first[1:], np.maximum.accumulate(last)[:-1])
    first_R[wanted_R] = first
