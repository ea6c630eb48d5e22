"""Transcripts for the page's viewer, bounded in number and length, as JSON that is safe in an HTML page.

What is in them is untrusted text. Reads no sources and no results: see `app.viewed`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_CHECKPOINTS = 12
MAX_CHARACTERS = 20_000
MAX_RESPONSES = 800
_DECIMALS = 3


@dataclass(frozen=True, kw_only=True)
class ViewedTranscript:
    """A transcript, and what each checkpoint made of its responses under the main condition. R: its responses."""

    study: str
    experiment: str
    participant: str
    id: str
    text: str
    spans: Sequence[tuple[int, int]]
    """First character and one past the last of each response, markers excluded [R]."""
    nll: Mapping[str, Sequence[float | None]]
    """Nats by slug of the checkpoint [R]; None unless scored."""
    status: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    """Of the responses that are not scored, by slug [R]; None where scored or not known."""


def viewer_data(
    viewed: Sequence[ViewedTranscript], ids: Mapping[str, str], pair: tuple[str, str] | None = None
) -> dict[str, Any] | None:
    """The transcripts in their order, with the first `MAX_CHECKPOINTS` checkpoints; None where there is nothing.

    `pair`: slugs of those that are shown first, where both are there.
    """
    slugs = list(dict.fromkeys(slug for one in viewed for slug in one.nll))[:MAX_CHECKPOINTS]
    if not slugs:
        return None
    left, right = pair if pair is not None and set(pair) <= set(slugs) else (slugs[0], slugs[min(1, len(slugs) - 1)])
    return {
        "checkpoints": [ids.get(slug, slug) for slug in slugs],
        "left": slugs.index(left),
        "right": slugs.index(right),
        "transcripts": [_shortened(one, slugs) for one in viewed if one.spans],
    }


def json_in_html(value: object) -> str:
    """JSON in which no text can end, or comment out, the script element that it stands in."""
    content = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        content = content.replace(character, f"\\u{ord(character):04x}")
    return content


def _shortened(one: ViewedTranscript, slugs: Sequence[str]) -> dict[str, Any]:
    first, last, start, end = _window(one)
    return {
        "study": one.study,
        "experiment": one.experiment,
        "participant": one.participant,
        "id": one.id,
        "text": one.text[start:end],
        "n_characters": len(one.text),
        "n_responses": len(one.spans),
        "first": first,
        "spans": [[left - start, right - start] for left, right in one.spans[first:last]],
        "nll": [_rounded(one.nll.get(slug, ()), first, last) for slug in slugs],
        "status": [_reasons(one, slug, first, last) for slug in slugs],
    }


def _window(one: ViewedTranscript) -> tuple[int, int, int, int]:
    """First and one past the last response that are shown, and the characters around them.

    Of a text that is too long, the part of `MAX_CHARACTERS` that has most responses; the earliest of several.
    """
    n = len(one.spans)
    if len(one.text) <= MAX_CHARACTERS and n <= MAX_RESPONSES:
        return 0, n, 0, len(one.text)
    best, last = (0, 0), 0
    for first in range(n):
        last = max(last, first)
        while last < n and last - first < MAX_RESPONSES and one.spans[last][1] - one.spans[first][0] <= MAX_CHARACTERS:
            last += 1
        if last - first > best[1] - best[0]:
            best = (first, last)
    first, last = best if best[1] > best[0] else (0, 1)
    room = MAX_CHARACTERS - (one.spans[last - 1][1] - one.spans[first][0])
    after_previous = one.spans[first - 1][1] if first else 0
    before_next = one.spans[last][0] if last < n else len(one.text)
    start = max(after_previous, one.spans[first][0] - max(room // 2, 2))
    end = min(before_next, one.spans[last - 1][1] + max(room // 2, 2))
    return first, last, start, end


def _rounded(values: Sequence[float | None], first: int, last: int) -> list[float | None]:
    kept = list(values[first:last]) or [None] * (last - first)
    return [None if value is None or not math.isfinite(value) else round(float(value), _DECIMALS) for value in kept]


def _reasons(one: ViewedTranscript, slug: str, first: int, last: int) -> dict[str, str]:
    reasons = one.status.get(slug, ())[first:last]
    return {str(at): reason for at, reason in enumerate(reasons) if reason}
