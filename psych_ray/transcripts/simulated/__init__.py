"""Simulated participants of four small studies: transcripts whose every response has a known probability.

They replace the hub's data where there is no network. The simulator's own likelihood is the highest expected one of any
checkpoint, so they bound the scores. Text and numpy only; not a model of real people.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from psych_ray.transcripts.record import Transcript
from psych_ray.transcripts.simulated import bandit, discounting, recall, risky

_SIMULATORS = {
    "demo_bandit": bandit.simulate,
    "demo_risky": risky.simulate,
    "demo_recall": recall.simulate,
    "demo_discounting": discounting.simulate,
}
TASKS: tuple[str, ...] = tuple(_SIMULATORS)
"""Names of the demo studies. Their order is part of every participant's seed."""


def simulated_transcripts(*, participants: int, seed: int, normative: bool = False) -> Iterator[Transcript]:
    """`participants` of each task, study by study.

    A participant depends on seed, task and number only, not on `participants`. With `normative` the same problems are
    answered by an agent that is right except for a small lapse rate, and `true_nll_nats` is that agent's.
    """
    for number, (study, simulate) in enumerate(_SIMULATORS.items()):
        for participant in range(participants):
            session = simulate(np.random.default_rng([seed, number, participant]), normative=normative)
            yield Transcript(
                study=study,
                experiment="exp1",
                participant=str(participant),
                text=session.text,
                metadata=session.metadata,
                true_nll_nats=session.true_nll_nats,
            )
