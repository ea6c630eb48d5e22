"""Simulated participants: their stated probabilities, told again slowly from the text alone, and what they are like."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np
import pytest

from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.simulated import TASKS, bandit, discounting, recall, risky, simulated_transcripts


def people(participants: int = 20, *, seed: int = 5, normative: bool = False) -> dict[str, list[Transcript]]:
    by_task: dict[str, list[Transcript]] = {task: [] for task in TASKS}
    for person in simulated_transcripts(participants=participants, seed=seed, normative=normative):
        by_task[person.study].append(person)
    return by_task


def answers(text: str) -> list[str]:
    return re.findall("<<(.*?)>>", text)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# --- what every participant must be -----------------------------------------------------------------------------------


def test_as_many_as_asked_study_by_study() -> None:
    found = list(simulated_transcripts(participants=3, seed=1))
    assert [t.study for t in found] == [task for task in TASKS for _ in range(3)]
    assert [t.participant for t in found] == ["0", "1", "2"] * len(TASKS)
    assert len({t.id for t in found}) == len(found)


@pytest.mark.parametrize("normative", [False, True])
def test_every_response_has_its_price(normative: bool) -> None:
    for person in simulated_transcripts(participants=20, seed=2, normative=normative):
        assert person.true_nll_nats is not None
        assert len(person.responses) == len(person.true_nll_nats)
        assert [person.response_text(r) for r in person.responses] == answers(person.text)
        assert all(math.isfinite(nll) and nll >= 0 for nll in person.true_nll_nats)


def test_same_seed_same_people_other_seed_other_people() -> None:
    first, again, other = (list(simulated_transcripts(participants=4, seed=seed)) for seed in (7, 7, 8))
    assert first == again
    assert not {t.text for t in first} & {t.text for t in other}


@pytest.mark.parametrize("normative", [False, True])
def test_a_participant_does_not_depend_on_how_many_there_are(normative: bool) -> None:
    few, many = (people(n, normative=normative) for n in (2, 9))
    assert all(few[task] == many[task][:2] for task in TASKS)


def test_choices_are_one_capital_letter_and_words_are_words() -> None:
    for task, persons in people().items():
        for answer in (answer for person in persons for answer in answers(person.text)):
            assert (
                answer in (*recall.VOCABULARY, recall.STOP) if task == "demo_recall" else re.fullmatch("[A-Z]", answer)
            )


def test_only_the_age_of_discounters_is_known() -> None:
    for task, persons in people().items():
        for person in persons:
            if task == "demo_discounting":
                assert re.fullmatch(r"\d\d\.0", person.metadata["age"])
            else:
                assert not person.metadata


def test_letters_of_the_machines_differ_between_participants() -> None:
    pairs = {tuple(re.findall(r"\((.)\)", person.text)) for person in people(40)["demo_bandit"]}
    assert len(pairs) > 30
    assert all(first != second for first, second in pairs)


def test_no_word_begins_another() -> None:
    words = (*recall.VOCABULARY, recall.STOP)
    assert not [(a, b) for a in words for b in words if a != b and b.startswith(a)]


# --- probabilities, told again ----------------------------------------------------------------------------------------


def bandit_again(text: str, learning_rate: float, inverse_temperature: float) -> Iterator[float]:
    first, second = re.findall(r"\((.)\)", text)
    q = {first: 0.5, second: 0.5}
    for letter, points in re.findall(r"<<(.)>> and get (\d) point", text):
        weight = {name: math.exp(inverse_temperature * value) for name, value in q.items()}
        yield weight[letter] / sum(weight.values())
        q[letter] = (1 - learning_rate) * q[letter] + learning_rate * int(points)


def test_bandit_probabilities() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        person, casino = bandit.QLearner.draw(rng), bandit.Casino.draw(rng)
        session = bandit.play(person, casino, rng)
        again = list(bandit_again(session.text, person.learning_rate, person.inverse_temperature))
        assert np.exp(-np.array(session.true_nll_nats)) == pytest.approx(again)


def risky_again(text: str, person: risky.Person) -> Iterator[float]:
    def weight(p: float) -> float:
        g = person.probability_weighting
        return p**g / (p**g + (1 - p) ** g) ** (1 / g)

    def worth(verb: str, points: str, percent: str) -> float:
        value = int(points) ** person.curvature * weight(int(percent) / 100)
        return value if verb == "win" else -person.loss_aversion * value

    gamble = r"(win|lose) (\d+) at (\d+)%"
    for *options, letter in re.findall(rf"{gamble} or {gamble}\. You press <<(.)>>", text):
        p_sure = sigmoid(person.inverse_temperature * (worth(*options[:3]) - worth(*options[3:])))
        yield p_sure if letter == "S" else 1 - p_sure


def test_risky_probabilities() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        person = risky.Person.draw(rng)
        session = risky.play(person, risky.draw_pairs(rng), rng)
        assert np.exp(-np.array(session.true_nll_nats)) == pytest.approx(list(risky_again(session.text, person)))


def discounting_again(text: str, rate_per_day: float, inverse_temperature: float) -> Iterator[float]:
    offers = r"(\d+) dollars now or (\d+) dollars in (\d+) days\. You press <<(.)>>"
    for now, later, days, letter in re.findall(offers, text):
        p_later = sigmoid(inverse_temperature * (int(later) / (1 + rate_per_day * int(days)) - int(now)))
        yield p_later if letter == "L" else 1 - p_later


def test_discounting_probabilities() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        person = discounting.Person.draw(rng)
        session = discounting.play(person, discounting.draw_offers(rng), person.age, rng)
        again = list(discounting_again(session.text, person.rate_per_day, person.inverse_temperature))
        assert np.exp(-np.array(session.true_nll_nats)) == pytest.approx(again)
        assert session.metadata == {"age": f"{person.age}.0"}


def recall_again(text: str, person: recall.Person) -> Iterator[float]:
    for block in text.split("Words:\n")[1:]:
        listing, typing = block.split("You type")
        shown, typed = listing.split(), []
        for answer in answers(typing):
            stop = sigmoid(2 * (len(typed) - person.capacity)) if set(shown) - set(typed) else 1.0
            weights = {}
            for i, word in enumerate(shown):
                from_end = len(shown) - 1 - i
                weights[word] = 1 + person.primacy / 2**i + person.recency / 2**from_end
                if typed and i and typed[-1] == shown[i - 1]:
                    weights[word] *= person.contiguity
            left = {word: weight for word, weight in weights.items() if word not in typed}
            if answer == "done":
                yield stop
            elif answer in left:
                yield (1 - stop) * (1 - person.intrusion) * left[answer] / sum(left.values())
            else:
                yield (1 - stop) * person.intrusion / len(set(recall.VOCABULARY) - set(shown) - set(typed))
            typed.append(answer)


def test_recall_probabilities() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        person = recall.Person.draw(rng)
        session = recall.play(person, recall.draw_lists(rng), rng)
        assert np.exp(-np.array(session.true_nll_nats)) == pytest.approx(list(recall_again(session.text, person)))


def test_recall_probabilities_sum_to_one() -> None:
    rng = np.random.default_rng(3)
    person, (shown, *_) = recall.Person.draw(rng), recall.draw_lists(rng)
    others = [word for word in recall.VOCABULARY if word not in shown]
    for typed in ([], [shown[2]], [shown[2], others[0]], [*shown], [*shown[1:], others[1]]):
        for rememberer in (person, recall.perfect_memory):
            probabilities = rememberer(shown, typed)
            assert sum(probabilities.values()) == pytest.approx(1)
            assert not set(probabilities) & set(typed)


@pytest.mark.parametrize("normative", [False, True])
def test_prices_are_calibrated(normative: bool) -> None:
    """Where p is said, p happens: over binary choices the mean of p(chosen) equals the mean of p² + (1-p)²."""
    for task, persons in people(300, normative=normative).items():
        if task == "demo_recall":
            continue
        p = np.exp(-np.concatenate([person.true_nll_nats for person in persons]))
        expected, sd = p**2 + (1 - p) ** 2, np.sqrt(np.mean(p * (1 - p) * (1 - 2 * p) ** 2) / len(p))
        assert abs(p.mean() - expected.mean()) < 5 * sd


# --- people and normative agents --------------------------------------------------------------------------------------


def bandit_points(text: str) -> float:
    return float(np.mean([int(points) for points in re.findall(r"get (\d) point", text)]))


def risky_points(text: str) -> float:
    trials = re.findall(r"(win|lose) 20 at 100% or \w+ (\d+) at (\d+)%\. You press <<(.)>>", text)
    gains = [20 if letter == "S" else int(points) * int(percent) / 100 for _, points, percent, letter in trials]
    return float(np.mean([gain if trial[0] == "win" else -gain for gain, trial in zip(gains, trials, strict=True)]))


def recall_points(text: str) -> float:
    blocks = [block.split("You type") for block in text.split("Words:\n")[1:]]
    return float(np.mean([len(set(listing.split()) & set(answers(typing))) for listing, typing in blocks]))


def discounting_points(text: str) -> float:
    trials = re.findall(r"now or (\d+) dollars in (\d+) days\. You press <<(.)>>", text)
    return float(
        np.mean([20 if letter == "N" else int(later) / (1 + 0.001 * int(days)) for later, days, letter in trials])
    )


@pytest.mark.parametrize(
    ("task", "points", "margin"),
    [
        ("demo_bandit", bandit_points, 0.03),
        ("demo_risky", risky_points, 1),
        ("demo_recall", recall_points, 1),
        ("demo_discounting", discounting_points, 3),
    ],
)
def test_normative_agents_earn_more(task: str, points: object, margin: float) -> None:
    assert callable(points)
    human, right = (
        np.mean([points(person.text) for person in people(150, normative=normative)[task]])
        for normative in (False, True)
    )
    assert right > human + margin


def test_normative_agents_are_nearly_certain_and_people_are_not() -> None:
    human, right = people(100), people(100, normative=True)
    for task in TASKS:
        human_nll, right_nll = (
            np.mean(np.concatenate([person.true_nll_nats for person in persons[task]])) for persons in (human, right)
        )
        assert right_nll < 0.15
        assert human_nll > right_nll + 0.2


def test_older_people_wait_more_often() -> None:
    old: dict[bool, list[float]] = {False: [], True: []}
    for person in people(300)["demo_discounting"]:
        old[float(person.metadata["age"]) > 49].append(answers(person.text).count("L") / len(person.responses))
    assert np.mean(old[True]) > np.mean(old[False]) + 0.1


def test_perfect_memory_types_the_list_in_order() -> None:
    shown = recall.VOCABULARY[:5]
    for k in range(5):
        assert recall.perfect_memory(shown, shown[:k])[shown[k]] == pytest.approx(0.99)
    assert recall.perfect_memory(shown, shown)[recall.STOP] == pytest.approx(0.99)
