"""Rewards of bandits, as the texts of their transcripts tell them: what a model of learning needs beside the choices.

Only of studies in which every letter is the same arm in every trial, all arms are offered in each, and a text after the
choice tells what it earned: the table below. Text only: does not depend on any model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psych_ray.transcripts.markers import CLOSE, OPEN
from psych_ray.transcripts.record import Transcript


@dataclass(frozen=True)
class _Feedback:
    """How a study tells rewards."""

    reward: re.Pattern[str]
    """Its group, in the text from a response to the next."""
    values: Mapping[str, float] | None = None
    """Of what the group may say; None: a number, to be scaled by the least and the most that the participant earned."""
    block: re.Pattern[str] | None = None
    """The arms have other rewards from where this finds, before a response, another text than it found last."""


_FEEDBACK = {
    "demo_bandit": _Feedback(re.compile(r" and get (\d+) points?\."), {"0": 0.0, "1": 1.0}),
    "dezfouli2019": _Feedback(
        re.compile(r" and received (a|no) food reward"), {"no": 0.0, "a": 1.0}, re.compile(r"Block \d+")
    ),
    "anvari2024armed_bandit": _Feedback(
        re.compile(r" and received (-?\d+) points\."), block=re.compile(r"(?:Practice|Incentivized) Block[ \d]*")
    ),
}
"""By study."""


@dataclass(frozen=True)
class Rewards:
    """What the responses of a transcript earned. Arrays have one entry per response [R]."""

    reward_R: NDArray[np.float64]
    """From 0 to 1; NaN where none is told."""
    begins_block_R: NDArray[np.bool_]
    """From this response on the arms have other rewards than before."""


def rewards_of(transcript: Transcript) -> Rewards | None:
    """The rewards of a transcript; None where its study is not in the table, or its text tells none."""
    feedback = _FEEDBACK.get(transcript.study)
    if feedback is None:
        return None
    texts = list(_texts_between(transcript))
    reward_R = np.array([_reward(text, feedback) for text in texts[1:]])
    if np.isnan(reward_R).all():
        return None
    if feedback.values is None:
        reward_R = _scaled(reward_R)
    return Rewards(reward_R, _begins_block(texts[:-1], feedback.block))


def _texts_between(transcript: Transcript) -> Iterator[str]:
    """The text before the first response, between each two, and after the last, without markers."""
    start = 0
    for response in transcript.responses:
        yield transcript.text[start : response.start - len(OPEN)]
        start = response.end + len(CLOSE)
    yield transcript.text[start:]


def _reward(text: str, feedback: _Feedback) -> float:
    match = feedback.reward.search(text)
    if match is None:
        return np.nan
    return float(match[1]) if feedback.values is None else feedback.values.get(match[1], np.nan)


def _scaled(reward_R: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 0, the least that was earned, to 1, the most; 0.5 where all is the same."""
    least, most = np.nanmin(reward_R), np.nanmax(reward_R)
    return (reward_R - least) / (most - least) if most > least else reward_R - least + 0.5


def _begins_block(before: list[str], block: re.Pattern[str] | None) -> NDArray[np.bool_]:
    begins = np.zeros(len(before), np.bool_)
    last = None
    for number, text in enumerate(before if block else []):
        assert block is not None
        for found in block.findall(text)[-1:]:
            begins[number], last = found != last, found
    return begins
