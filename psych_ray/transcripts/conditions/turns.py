"""Where a chat template puts the contents of turns, and what it writes around them. Knows no transcript.

A template may write, drop or change whatever it likes, so nothing is assumed: it is rendered once more with contents
that occur nowhere else, which shows what stands between them, and the real text must have the same between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

from psych_ray.transcripts.conditions.rendering import ChatTemplate

# Private-use characters: no transcript and no template has them.
_SENTINEL = "\ue000{}\ue001"
END_OF_CONVERSATION = _SENTINEL.format("end")


def turns_of(roles: Sequence[str], contents: Sequence[str]) -> list[Mapping[str, str]]:
    """Turns as templates want them."""
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]


@lru_cache(maxsize=8)
def frames(template: ChatTemplate, roles: tuple[str, ...], *, generation_prompt: bool) -> tuple[str, ...]:
    """What the template writes before, between and after the contents of such turns: one more than turns.

    ValueError where it refuses them, leaves one out or changes their order.
    """
    contents = [_SENTINEL.format(number) for number in range(len(roles))]
    text = template.render(turns_of(roles, contents), generation_prompt=generation_prompt)
    ends = [0]
    starts = []
    for content in contents:
        start = text.find(content, ends[-1])
        if start < 0:
            raise ValueError("it leaves out a turn, or changes their order")
        starts.append(start)
        ends.append(start + len(content))
    return tuple(text[end:start] for end, start in zip(ends, [*starts, len(text)], strict=True))


def places(text: str, between: Sequence[str], contents: Sequence[str]) -> list[tuple[int, int]]:
    """First and one-past-last character of each content in `text`, which has `between` around them.

    A content may have lost white space at its edges, or be changed within. ValueError where `text` does not fit.
    """
    if not text.startswith(between[0]) or not text.endswith(between[-1]):
        raise ValueError("it writes something else around these contents than around others")
    found: list[tuple[int, int]] = []
    at = len(between[0])
    for content, frame in zip(contents, between[1:], strict=True):
        is_last = len(found) + 1 == len(contents)
        end = len(text) - len(frame) if is_last else _end(text, at, content, frame)
        if end < at:
            raise ValueError("it writes something else around these contents than around others")
        found.append((at, end))
        at = end + len(frame)
    return found


def _end(text: str, at: int, content: str, frame: str) -> int:
    """Where the content that begins at `at` ends, which `frame` follows; -1 where it does not."""
    for written in (content, content.strip(), content.lstrip(), content.rstrip()):
        if text.startswith(written, at) and text.startswith(frame, at + len(written)):
            return at + len(written)
    return text.find(frame, at) if frame else -1


def joined(pieces: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """All pieces as one text, and the place of each in it."""
    ends = list(_running_lengths(pieces))
    return "".join(pieces), list(pairwise([0, *ends]))


def _running_lengths(pieces: Sequence[str]) -> Iterator[int]:
    length = 0
    for piece in pieces:
        length += len(piece)
        yield length
