"""One pass over all responses: sums for each transcript, of every task and of every two tasks that are compared.

There may be 10^8 responses, so that the rows of one task are in memory at a time, and of others only what a comparison
still needs. All statistics are computed from these sums: memory grows with transcripts and tasks. Shapes: T
transcripts, P participants (a participant of two studies counts twice), S studies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from psych_ray.study.comparing import Comparing, Comparison, ComparisonSums, reading_order
from psych_ray.study.numbering import Ints, Numbering
from psych_ray.study.rows import Task, TaskRows, TaskTable, read_table, task_rows
from psych_ray.study.task_sums import Floats, Sums, TaskSums, sum_task


@dataclass(frozen=True, kw_only=True)
class TaskTally:
    """Sums of one task."""

    sums: Sums
    """responses; a count by each status; n: scored responses with a finite NLL; infinite: those without; x and xx: sums
    of NLL - centre and of its square; letters and letter_hits: single capital letters that are scored, and of those at
    which the letter is the arg max; hits_known and hits: the same over all scored. Where the rows have them: t_n, the
    responses that have all columns of `rows.TEMPERATURES`, and over them t_nll and those columns, sums of NLL; choices,
    and over them leak (options_nll), within (nll - options_nll), brier, top and option_hits."""
    centres_S: Floats
    """What was subtracted from the NLLs of each study."""
    deciles: Floats
    """[S, 10, 2]: number and sum of the NLLs by tenth of the transcript's responses, of transcripts that have ten."""
    bins: Floats
    """[S, 10, 3]: choices by options_top, in bins of equal width: number, sum of options_top, most probable options
    that were chosen."""


@dataclass(frozen=True, kw_only=True)
class ComparisonTally:
    """Sums of one comparison: over the responses scored in both, with finite NLLs."""

    sums: Sums
    """n; sums of NLL - centre of the first task (a) and the second (b), of their squares and products (aa, bb, ab);
    letters: single letters scored in both, letter_a and letter_b: hits of the first and the second;
    only_a and only_b: responses scored in one of the two."""
    centres_S: tuple[Floats, Floats]


@dataclass(frozen=True, kw_only=True)
class Tallies:
    """All sums of a sweep. Every `sums` has an entry for each transcript [T], 0 for one that the task does not have."""

    transcripts: pl.DataFrame
    """transcript, study, experiment, participant, n_responses; the row is the number."""
    studies: Sequence[str]
    """In alphabetical order."""
    participants: pl.DataFrame
    """study, participant; in alphabetical order."""
    study_T: Ints
    """Index of the study of each transcript."""
    participant_T: Ints
    """Index of the participant of each transcript."""
    study_P: Ints
    """Index of the study of each participant; ascending."""
    tasks: Mapping[Task, TaskTally]
    comparisons: Mapping[Comparison, ComparisonTally]
    extra: Mapping[Task, Sums] = field(default_factory=dict)
    """What `measure` returned, for each transcript [T]."""

    @property
    def starts(self) -> Ints:
        """Index of the first participant of each study [S]."""
        starts: Ints = np.searchsorted(self.study_P, np.arange(len(self.studies)))
        return starts

    def by_participant(self, values_T: Floats) -> Floats:
        """Sums over the transcripts of each participant [P]."""
        return np.bincount(self.participant_T, weights=values_T, minlength=len(self.study_P)).astype(np.float64)

    def by_study(self, values_T: Floats) -> Floats:
        """Sums over the transcripts of each study [S]."""
        return np.bincount(self.study_T, weights=values_T, minlength=len(self.studies)).astype(np.float64)


Measure = Callable[[TaskRows, Numbering], Sums]
"""More sums of a task: for each of its transcripts, in the order of its rows."""


def tally(
    frames: Mapping[Task, pl.LazyFrame],
    comparisons: Sequence[Comparison],
    *,
    measure: Measure | None = None,
    on_task: Callable[[Task], None] = lambda task: None,
) -> Tallies:
    """Read every task once and sum. `on_task` is called after each.

    A comparison of a task that is not in `frames` is left out. ResultsError where a response is there twice.
    """
    possible = [one for one in comparisons if one.first in frames and one.second in frames]
    numbering, comparing = Numbering(), Comparing(possible)
    sums: dict[Task, TaskSums] = {}
    extra: dict[Task, Sums] = {}
    order = reading_order(frames, possible)
    for task, read in zip(order, _ahead([frames[task] for task in order]), strict=True):
        rows = task_rows(read, numbering, task)
        sums[task] = sum_task(rows, numbering)
        extra[task] = {} if measure is None else measure(rows, numbering)
        comparing.add(task, rows, numbering)
        on_task(task)
    return _assembled(numbering, sums, extra, comparing.compared)


def _ahead(frames: Sequence[pl.LazyFrame]) -> Iterator[TaskTable]:
    """Read each frame, the next one while the caller works on the last."""
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_table, frames[0]) if frames else None
        for following in [*frames[1:], None]:
            if reading is not None:
                table = reading.result()
                reading = None if following is None else pool.submit(read_table, following)
                yield table


def _assembled(
    numbering: Numbering,
    tasks: Mapping[Task, TaskSums],
    extra: Mapping[Task, Sums],
    compared: Mapping[Comparison, ComparisonSums],
) -> Tallies:
    """All sums by number of the transcript, with studies in alphabetical order."""
    transcripts = numbering.transcripts.with_columns(pl.Series("n_responses", numbering.lengths_T))
    order = np.argsort(np.array(numbering.studies, dtype=object))
    studies = [numbering.studies[index] for index in order]
    participants = transcripts.select("study", "participant").unique().sort("study", "participant")
    participant_T = transcripts.join(
        participants.with_row_index("index"), on=["study", "participant"], how="left", maintain_order="left"
    )["index"]

    def by_number(numbers_T: Ints, sums: Sums) -> Sums:
        spread = {name: np.zeros(len(transcripts)) for name in sums}
        for name, values_T in sums.items():
            spread[name][numbers_T] = values_T
        return spread

    def by_study(values: Floats) -> Floats:
        missing = np.zeros((len(studies) - len(values), *values.shape[1:]))
        return np.concatenate([values, missing])[order]

    return Tallies(
        transcripts=transcripts,
        studies=studies,
        participants=participants,
        study_T=np.argsort(order)[numbering.study_T],
        participant_T=participant_T.cast(pl.Int64).to_numpy(),
        study_P=participants["study"]
        .replace_strict(studies, range(len(studies)), return_dtype=pl.Int64)
        .cast(pl.Int64)  # a column of no rows stays one of strings
        .to_numpy(),
        tasks={
            task: TaskTally(
                sums=by_number(one.numbers_T, one.sums),
                centres_S=by_study(one.centres_S),
                deciles=by_study(one.deciles),
                bins=by_study(one.bins),
            )
            for task, one in tasks.items()
        },
        comparisons={
            comparison: ComparisonTally(
                sums={
                    name: by_number(np.arange(len(values)), {name: values})[name] for name, values in one.sums.items()
                },
                centres_S=(by_study(one.centres_S[0]), by_study(one.centres_S[1])),
            )
            for comparison, one in compared.items()
        },
        extra={task: by_number(tasks[task].numbers_T, sums) for task, sums in extra.items()},
    )
