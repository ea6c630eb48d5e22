"""What a results root tells of the rates of replicas: tokens and seconds in its footers, characters of its transcripts.

Reads nothing: all of it is in the snapshot already.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from psych_ray.checkpoints.find import Checkpoint
from psych_ray.checkpoints.shape import CheckpointShape
from psych_ray.config import ScoringConfig
from psych_ray.results.snapshot import Snapshot
from psych_ray.sweep.cost import most_characters_read
from psych_ray.sweep.plan import PlannedTranscripts
from psych_ray.sweep.rates import Rates

_Tasks = Mapping[tuple[str, str], NDArray[np.bool_]]


def measured_rates(
    snapshot: Snapshot,
    checkpoints: Iterable[Checkpoint],
    shapes: Mapping[str, CheckpointShape],
    planned: PlannedTranscripts,
    committed: _Tasks,
    scoring: ScoringConfig,
) -> Rates:
    """The rates that the root's footers give. `committed`: which of the planned transcripts are, by task.

    Characters per token are known of tasks of which all that is committed is in the plan.
    """
    n_parameters = {facts.slug: int(1e9 * (facts.size_b or 0.0)) for facts in snapshot.checkpoints}
    n_parameters |= {checkpoint.slug: checkpoint.n_parameters for checkpoint in checkpoints}
    characters: dict[tuple[str, str], tuple[int, int]] = {}
    for key, task in snapshot.tasks.items():
        shape, is_in_T = shapes.get(key[0]), committed.get(key)
        if shape is None or is_in_T is None or not task.tokens or is_in_T.sum() < len(task.transcripts):
            continue
        read_T = np.diff(planned.n_characters_read(most_characters_read(scoring, shape.context)))
        characters[key] = int(read_T[is_in_T].sum()), task.tokens
    return Rates.of({key: task.measured for key, task in snapshot.tasks.items()}, n_parameters, characters)
