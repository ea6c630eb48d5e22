"""Rewards found in texts against what a line-by-line reading finds, and against the simulator that wrote them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from psych_ray.config import TranscriptsConfig, TranscriptSource
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.rewards import rewards_of
from psych_ray.transcripts.simulated import simulated_transcripts
from psych_ray.transcripts.sources import read_transcripts


def transcript(study: str, text: str) -> Transcript:
    return Transcript(study=study, experiment="e", participant="p", text=text)


def test_the_demo_s_bandit_tells_every_reward():
    bandits = [t for t in simulated_transcripts(participants=10, seed=3) if t.study == "demo_bandit"]
    for one in bandits:
        rewards = rewards_of(one)
        assert rewards is not None
        lines = re.findall(r"^You press <<[A-Z]>> and get ([01]) points?\.$", one.text, re.MULTILINE)
        assert rewards.reward_R.tolist() == [float(line) for line in lines]
        assert len(lines) == len(one.responses)
        assert not rewards.begins_block_R.any()


def test_other_studies_tell_none():
    for one in simulated_transcripts(participants=1, seed=3):
        assert (rewards_of(one) is None) is (one.study != "demo_bandit")
    assert rewards_of(transcript("demo_bandit", "You press <<A>>. You press <<B>>.")) is None
    assert rewards_of(transcript("demo_bandit", "nothing")) is None


def test_a_reward_is_that_of_the_response_before_it():
    text = "You press <<A>> and get 1 point.\nYou press <<B>>.\nYou press <<A>> and get 0 points.\nYou press <<B>>"
    rewards = rewards_of(transcript("demo_bandit", text))
    assert rewards is not None
    assert rewards.reward_R == pytest.approx([1, np.nan, 0, np.nan], nan_ok=True)


def test_numbers_are_scaled_by_what_the_participant_earned_and_blocks_begin_anew():
    """A text in the form of the generator that the study's contributors published."""
    lines = [
        *("Practice Block:\n", "Trial 1: You selected <<Q>> and received 12 points. Total points: 12."),
        *("Trial 2: You selected <<W>> and received 32 points. Total points: 44.", "\nIncentivized Block 1:\n"),
        *("Trial 1: You selected <<Q>> and received 22 points. Total points: 22.", "\nIncentivized Block 2:\n"),
        *("Trial 1: You selected <<E>> and received 12 points. Total points: 12.", "\nEnd of session.\n"),
    ]
    rewards = rewards_of(transcript("anvari2024armed_bandit", "\n".join(lines)))
    assert rewards is not None
    assert rewards.reward_R.tolist() == [0, 1, 0.5, 0]
    assert rewards.begins_block_R.tolist() == [True, False, True, True]
    same = rewards_of(transcript("anvari2024armed_bandit", "You selected <<A>> and received 7 points."))
    assert same is not None
    assert same.reward_R.tolist() == [0.5]


def test_every_reward_of_a_real_study_is_found(shared):
    path = str(shared / "data/psych-201/dezfouli2019")
    for one in read_transcripts(TranscriptsConfig(source=TranscriptSource.files, path=path, limit=10)):
        rewards = rewards_of(one)
        assert rewards is not None
        lines = [line for line in one.text.splitlines() if "<<" in line]
        assert rewards.reward_R.tolist() == [float("received a food" in line) for line in lines]
        assert sum("received no food" in line for line in lines) == (rewards.reward_R == 0).sum()
        blocks = [line.split(":")[0] for line in lines]
        starts = [number == 0 or blocks[number - 1] != block for number, block in enumerate(blocks)]
        assert rewards.begins_block_R.tolist() == starts
        assert sum(starts) == 12
