"""From markers to responses: `<<` opens a human response, `>>` closes it. Does not depend on tokens.

Adjacent brackets are read from the left: `<<<A>>` is the response `<A`, and in `<<A>>>` the last
bracket belongs to the text that follows.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from psych_ray.errors import MarkerError

OPEN, CLOSE = "<<", ">>"
_MARKER = re.compile(r"<<|>>")
# A button that some contributed transcripts print; the study's authors treat it as text, not as a marker.
_PLAIN_CLOSE = re.compile(r"More Details \Z")


class Response(NamedTuple):
    """The span of one response in its transcript."""

    number: int
    """Index among the responses of the transcript, from 0."""
    start: int
    """First character of the response, after its opening marker."""
    end: int
    """One past its last character, before its closing marker."""


def find_responses(text: str) -> tuple[Response, ...]:
    """All marked responses of `text`, in order.

    Raises MarkerError, with the index of the character, for a marker opened twice, closed without being opened,
    or never closed.
    """
    found: list[Response] = []
    opened: int | None = None
    for match in _MARKER.finditer(text):
        if match.group() == OPEN:
            if opened is not None:
                raise MarkerError(f"character {match.start()}: `<<` inside the response opened at {opened - 2}")
            opened = match.end()
        elif opened is not None:
            found.append(Response(len(found), opened, match.start()))
            opened = None
        elif not _PLAIN_CLOSE.search(text, max(0, match.start() - 16), match.start()):
            raise MarkerError(f"character {match.start()}: `>>` closes a response that was not opened")
    if opened is not None:
        raise MarkerError(f"character {opened - 2}: `<<` opens a response that is never closed")
    return tuple(found)
