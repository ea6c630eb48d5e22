"""The options of a participant: the capital letters that the responses of a transcript consist of.

Sources do not list what a participant could choose from, so an option that was never chosen is not found. Text only:
does not depend on conditions or tokens.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from psych_ray.transcripts.record import Transcript

_CAPITAL_LETTER = re.compile(r"[A-Z]")


def is_option(answer: str) -> bool:
    """Whether the text of a response is one capital letter A-Z and nothing else."""
    return _CAPITAL_LETTER.fullmatch(answer) is not None


def option_letters(transcript: Transcript) -> tuple[str, ...]:
    """The distinct responses that are one capital letter A-Z, sorted."""
    return tuple(sorted(set(filter(is_option, map(transcript.response_text, transcript.responses)))))


def option_index(transcript: Transcript) -> NDArray[np.int16]:
    """Index in `option_letters` of each response, int16 [R]; -1 where it is not one capital letter."""
    index_of = {letter: index for index, letter in enumerate(option_letters(transcript))}
    answers = map(transcript.response_text, transcript.responses)
    return np.array([index_of.get(answer, -1) for answer in answers], dtype=np.int16)


def option_counts(transcript: Transcript) -> NDArray[np.int16]:
    """The number of options, for each response that is one of them, int16 [R]; 0 for the others."""
    n_options = len(option_letters(transcript))
    return np.where(option_index(transcript) >= 0, n_options, 0).astype(np.int16)
