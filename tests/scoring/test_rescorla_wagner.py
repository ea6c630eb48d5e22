"""The model of learning against a scalar re-statement, the truth of simulated participants, and on real bandits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from psych_ray.config import TranscriptsConfig, TranscriptSource
from psych_ray.scoring.references import reference_scorer
from psych_ray.scoring.rescorla_wagner import MAX_INVERSE_TEMPERATURE, Fit, fit
from psych_ray.transcripts.conditions import condition_named
from psych_ray.transcripts.options import option_index
from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.rewards import rewards_of
from psych_ray.transcripts.simulated import simulated_transcripts
from psych_ray.transcripts.simulated.bandit import Casino, QLearner, play
from psych_ray.transcripts.sources import read_transcripts
from psych_ray.transcripts.status import Status


def slow_nll(rate, inverse, choices, rewards, begins, n_arms) -> list[float]:
    """NLL of each choice, one number at a time."""
    values, found = [0.5] * n_arms, []
    for choice, reward, begin in zip(choices, rewards, begins, strict=True):
        if begin:
            values = [0.5] * n_arms
        weights = [math.exp(inverse * value) for value in values]
        found.append(-math.log(weights[choice] / sum(weights)))
        if not math.isnan(reward):
            values[choice] = values[choice] + rate * (reward - values[choice])
    return found


def random_session(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    rng = np.random.default_rng(seed)
    n_arms, n = int(rng.integers(2, 5)), int(rng.integers(5, 60))
    rewards = np.where(rng.random(n) < 0.1, np.nan, rng.random(n))
    return rng.integers(0, n_arms, n), rewards, rng.random(n) < 0.05, n_arms


def fitted(transcript: Transcript) -> Fit:
    rewards = rewards_of(transcript)
    assert rewards is not None
    choices = option_index(transcript).astype(np.int64)
    return fit(choices, rewards.reward_R, rewards.begins_block_R, n_arms=choices.max() + 1)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_best_of_a_grid_and_its_nll_that_of_its_parameters(seed):
    choices, rewards, begins, n_arms = random_session(seed)
    found = fit(choices, rewards, begins, n_arms=n_arms)
    assert 0 <= found.learning_rate <= 1
    assert 0 <= found.inverse_temperature <= MAX_INVERSE_TEMPERATURE
    again = slow_nll(found.learning_rate, found.inverse_temperature, choices, rewards, begins, n_arms)
    assert found.nll_N == pytest.approx(again, abs=1e-9)
    of_grid = [
        sum(slow_nll(rate, inverse, choices, rewards, begins, n_arms))
        for rate in np.linspace(0, 1, 41)
        for inverse in [0.0, *np.geomspace(0.05, MAX_INVERSE_TEMPERATURE, 25)]
    ]
    assert found.nll_N.sum() <= min(of_grid) + 1e-6
    assert found.nll_N.sum() <= len(choices) * math.log(n_arms) + 1e-6, "inverse temperature 0 is chance"


def test_the_extremes_are_the_ends_of_the_range():
    greedy = fit(np.array([0, 0, 0]), np.array([1.0, 1, 1]), np.zeros(3, bool), n_arms=2)
    assert greedy.inverse_temperature == MAX_INVERSE_TEMPERATURE
    contrary = fit(np.array([0, 1, 0, 1]), np.array([1.0, 1, 1, 1]), np.array([1, 0, 1, 0], bool), n_arms=2)
    assert contrary.inverse_temperature == 0
    assert contrary.nll_N == pytest.approx([math.log(2)] * 4)


@pytest.fixture(scope="module")
def bandits() -> list[Transcript]:
    everybody = simulated_transcripts(participants=150, seed=11)
    return [t for t in everybody if t.study == "demo_bandit" and len(set(option_index(t))) == 2]


def test_simulated_participants_are_fitted_better_than_by_the_truth_by_what_two_parameters_explain(bandits):
    """Twice the gain in log-likelihood is about chi-squared with 2 degrees of freedom (Wilks 1938): a mean of 1 nat."""
    gains = [sum(t.true_nll_nats or ()) - fitted(t).nll_N.sum() for t in bandits]
    assert min(gains) > -1e-6, "the true parameters are among those that are searched"
    assert np.mean(gains) == pytest.approx(1, abs=3 * np.std(gains) / math.sqrt(len(gains)))


@pytest.mark.parametrize(("rate", "inverse"), [(0.2, 6.0), (0.5, 3.0), (0.8, 2.0)])
def test_the_generating_parameters_are_found_in_long_sessions(rate, inverse):
    rng = np.random.default_rng(3)
    casino = Casino(names=("F", "J"), pays=(0.7, 0.4), trials=3000)
    person = QLearner(learning_rate=rate, inverse_temperature=inverse)
    text = play(person, casino, rng).text
    found = fitted(Transcript(study="demo_bandit", experiment="e", participant="p", text=text))
    assert found.learning_rate == pytest.approx(rate, abs=0.07)
    assert found.inverse_temperature == pytest.approx(inverse, rel=0.1)


def test_the_reference_scores_bandits_only(bandits):
    others = [t for t in simulated_transcripts(participants=1, seed=11) if t.study != "demo_bandit"]
    found = list(reference_scorer("rescorla_wagner").score([bandits[0], *others], condition_named("plain")))
    assert found[0].nll_R == pytest.approx(fitted(bandits[0]).nll_N, rel=1e-6)
    assert all((one.status_R == Status.not_applicable.code).all() for one in found[1:])


def test_responses_that_are_no_choice_are_left_out_of_the_fit():
    trial = "You press <<{}>> and get {} points.\n"
    choices = [("A", 1), ("B", 0), ("A", 0), ("B", 1), ("A", 1), ("A", 1)]
    text = "".join(trial.format(*one) for one in choices)
    asked = text.replace("You press <<B", "How sure are you? <<very>>. You press <<B")
    plain, longer = (
        next(reference_scorer("rescorla_wagner").score([one], condition_named("plain")))
        for one in (Transcript(study="demo_bandit", experiment="e", participant="p", text=t) for t in (text, asked))
    )
    assert longer.status_R.tolist().count(Status.not_applicable.code) == 2
    assert longer.nll_R[np.isfinite(longer.nll_R)].tolist() == plain.nll_R.tolist()


def test_real_bandits_are_predicted_better_than_by_frequencies(shared):
    path = str(shared / "data/psych-201/dezfouli2019")
    config = TranscriptsConfig(source=TranscriptSource.files, path=path, limit=6)
    transcripts, plain = list(read_transcripts(config)), condition_named("plain")
    assert {t.study for t in transcripts} == {"dezfouli2019"}
    found = {
        name: np.concatenate([one.nll_R for one in reference_scorer(name).score(transcripts, plain)])
        for name in ("chance", "frequencies", "rescorla_wagner")
    }
    assert all(np.isfinite(nll).all() for nll in found.values())
    means = {name: nll.mean() for name, nll in found.items()}
    assert means["rescorla_wagner"] < means["frequencies"] < means["chance"]
    one = transcripts[0]
    rewards, best = rewards_of(one), fitted(one)
    assert rewards is not None
    again = slow_nll(
        best.learning_rate, best.inverse_temperature, option_index(one), rewards.reward_R, rewards.begins_block_R, 2
    )
    assert best.nll_N == pytest.approx(again, abs=1e-9)
