"""The options of a participant: the capital letters that the responses of a transcript consist of.

Sources do not list what a participant could choose from, so an option that was never chosen is not found. Text only:
does not depend on conditions or tokens.
"""

from __future__ import annotations

import string

import numpy as np
from numpy.typing import NDArray

from psych_ray.transcripts.record import Transcript

_NUMBERS = {letter: number for number, letter in enumerate(string.ascii_uppercase)}


def is_option(answer: str) -> bool:
    """Whether the text of a response is one capital letter A-Z and nothing else."""
    return answer in _NUMBERS


def option_letters(transcript: Transcript) -> tuple[str, ...]:
    """The distinct responses that are one capital letter A-Z, sorted."""
    return tuple(string.ascii_uppercase[number] for number in np.unique(_numbers(transcript)).tolist() if number >= 0)


def option_index(transcript: Transcript) -> NDArray[np.int16]:
    """Index in `option_letters` of each response, int16 [R]; -1 where it is not one capital letter."""
    number_R = _numbers(transcript)
    used = np.unique(number_R[number_R >= 0])
    return np.where(number_R >= 0, np.searchsorted(used, number_R), -1).astype(np.int16)


def option_counts(transcript: Transcript) -> NDArray[np.int16]:
    """The number of options, for each response that is one of them, int16 [R]; 0 for the others."""
    index_R = option_index(transcript)
    return np.where(index_R >= 0, index_R.max(initial=-1) + 1, 0).astype(np.int16)


def _numbers(transcript: Transcript) -> NDArray[np.int16]:
    """Number in the alphabet of each response, from 0, int16 [R]; -1 where it is not one capital letter."""
    text = transcript.text
    return np.array([_NUMBERS.get(text[start:end], -1) for _, start, end in transcript.responses], np.int16)
