"""The spans of the contents of turns in the text of a chat template, and what the template writes around them.

A template can write, drop or change any text, so nothing is assumed: it is also rendered with contents that occur
nowhere else, which shows the text between them, and the text of the actual contents must have the same text between
them. Does not depend on transcripts.
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
    """Turns in the form that templates take."""
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]


@lru_cache(maxsize=8)
def separators(template: ChatTemplate, roles: tuple[str, ...], *, generation_prompt: bool) -> tuple[str, ...]:
    """Text that the template writes before, between and after the contents of such turns: one more than turns.

    ValueError where it raises an error, omits a turn or changes their order.
    """
    contents = [_SENTINEL.format(number) for number in range(len(roles))]
    text = template.render(turns_of(roles, contents), generation_prompt=generation_prompt)
    ends = [0]
    starts = []
    for content in contents:
        start = text.find(content, ends[-1])
        if start < 0:
            raise ValueError("it omits a turn, or changes their order")
        starts.append(start)
        ends.append(start + len(content))
    return tuple(text[end:start] for end, start in zip(ends, [*starts, len(text)], strict=True))


def content_spans(text: str, between: Sequence[str], contents: Sequence[str]) -> list[tuple[int, int]]:
    """First and one-past-last character of each content in `text`, whose separators are `between`.

    A content can be without white space at its edges, or be changed. ValueError where `text` has other separators.
    """
    if not text.startswith(between[0]) or not text.endswith(between[-1]):
        raise ValueError("it writes something else around these contents than around others")
    spans: list[tuple[int, int]] = []
    start = len(between[0])
    for content, separator in zip(contents, between[1:], strict=True):
        is_last = len(spans) + 1 == len(contents)
        end = len(text) - len(separator) if is_last else _end(text, start, content, separator)
        if end < start:
            raise ValueError("it writes something else around these contents than around others")
        spans.append((start, end))
        start = end + len(separator)
    return spans


def _end(text: str, start: int, content: str, separator: str) -> int:
    """End of the content that begins at `start` and is followed by `separator`; -1 where there is none."""
    for written in (content, content.strip(), content.lstrip(), content.rstrip()):
        if text.startswith(written, start) and text.startswith(separator, start + len(written)):
            return start + len(written)
    return text.find(separator, start) if separator else -1


def concatenate(pieces: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """All pieces as one text, and the span of each piece in it."""
    ends = list(_running_lengths(pieces))
    return "".join(pieces), list(pairwise([0, *ends]))


def _running_lengths(pieces: Sequence[str]) -> Iterator[int]:
    length = 0
    for piece in pieces:
        length += len(piece)
        yield length
