"""Groups sequences into passes of an engine. Does not import torch."""

from __future__ import annotations

from collections.abc import Sequence

PASS_TOKENS = 16_384
"""What an engine on a GPU reads at a time if left alone; a longer sequence is read whole."""


def packs(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Group the places of `sizes` so that no group of two or more exceeds `budget`; first fit, longest first.

    A size beyond the budget is a group of its own. Within a group the places ascend.
    """
    groups: list[list[int]] = []
    room: list[int] = []
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        fits = next((k for k, left in enumerate(room) if left >= sizes[place]), None)
        if fits is None:
            groups.append([place])
            room.append(budget - sizes[place])
        else:
            groups[fits].append(place)
            room[fits] -= sizes[place]
    return [sorted(group) for group in groups]
