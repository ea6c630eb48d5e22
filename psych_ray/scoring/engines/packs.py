"""Groups sequences into packs by their lengths. Does not import torch, so that planning can use it."""

from __future__ import annotations

from collections.abc import Sequence

PASS_TOKENS = 16_384
"""Tokens in one forward pass of an engine on a GPU by default; a longer sequence is run whole."""


def packs(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Group the indices of `sizes` so that no group of two or more exceeds `budget`; first fit, longest first.

    A size beyond the budget is a group of its own. Within a group the indices ascend.
    """
    groups: list[list[int]] = []
    remaining: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        fits = next((k for k, size in enumerate(remaining) if size >= sizes[index]), None)
        if fits is None:
            groups.append([index])
            remaining.append(budget - sizes[index])
        else:
            groups[fits].append(index)
            remaining[fits] -= sizes[index]
    return [sorted(group) for group in groups]
