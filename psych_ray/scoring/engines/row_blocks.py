"""Runs the decoder layers of a model over blocks of a pack's tokens, so that what a layer computes fits in caches.

All but attention treats every token alone, and attention needs of the tokens before only their keys and values, which
are kept for one layer at a time. So memory beside them does not grow with the length of a sequence. Does not depend on
an architecture: a layer that is given anything else than values for each token runs over all of them at once.
Shapes: P tokens of a pack, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from psych_ray.scoring.engines.block_attention import QUERIES
from psych_ray.scoring.engines.packed_attention import running_pack

ROWS = 512
"""Tokens per block: the products of fewer are slower."""


@contextmanager
def layers_in_blocks(body: nn.Module, rows: int) -> Iterator[None]:
    """Within the context, the layers of a decoder run over `rows` tokens of the running pack at a time.

    Layers of experts do not: each expert's products would have few rows.
    """
    layers = [
        layer
        for layer in dict.fromkeys(getattr(body, "layers", ()))
        if "forward" not in vars(layer) and all(parameter.ndim < 3 for parameter in layer.parameters())
    ]
    for layer in layers:
        layer.forward = partial(_in_blocks, layer.forward, rows)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _in_blocks(forward: Callable[..., Any], rows: int, *hidden: Tensor, **given: Any) -> Any:
    """As `forward`, which maps hidden states [1, P, D] to others."""
    running = running_pack()
    n_tokens = hidden[0].shape[1] if len(hidden) == 1 else 0
    if running is None or n_tokens <= rows or not _of_each_token((*hidden, *given.values()), n_tokens):
        return forward(*hidden, **given)
    output_1PD = torch.empty_like(hidden[0])
    for block in _blocks(running.pack.cu_seqlens_N1.tolist(), rows):
        with running.given(block):
            output = forward(hidden[0][:, block], **{name: _slice(value, block) for name, value in given.items()})
        if not isinstance(output, Tensor):
            return forward(*hidden, **given)
        output_1PD[:, block] = output
    return output_1PD


def _blocks(bounds_N1: list[int], rows: int) -> Iterator[slice]:
    """Blocks of at most so many rows of a pack of sequences, cut where a sequence's blocks of queries begin.

    So attention computes the same products whether or not layers run in blocks, and scores are equal to the last bit.
    """
    step = min(rows, QUERIES)
    cuts = [cut for first, last in itertools.pairwise(bounds_N1) for cut in range(first, last, step)]
    start = 0
    for cut, after in itertools.pairwise([*cuts, bounds_N1[-1]]):
        if after > start + rows:
            yield slice(start, cut)
            start = cut
    yield slice(start, bounds_N1[-1])


def _of_each_token(value: Any, n_tokens: int) -> bool:
    if isinstance(value, Tensor):
        return value.ndim > 1 and value.shape[:2] == (1, n_tokens)
    if isinstance(value, tuple):
        return all(_of_each_token(part, n_tokens) for part in value)
    return value is None or isinstance(value, bool)


def _slice(value: Any, block: slice) -> Any:
    if isinstance(value, Tensor):
        return value[:, block]
    return tuple(_slice(part, block) for part in value) if isinstance(value, tuple) else value
